//! Integration tests: one binary, against both stores and real `redis-server` processes.

mod cli;
mod control_model;
mod replicas;
mod store_contract;
mod store_model;
mod support;
