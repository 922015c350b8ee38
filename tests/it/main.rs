//! Integration tests: one binary, against both stores and real `redis-server` processes.

mod cli;
mod early_answers;
mod independent_clients;
mod replicas;
mod resume_model;
mod store_contract;
mod store_model;
mod support;
