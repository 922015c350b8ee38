//! Integration tests: one binary, against both stores and real `redis-server` processes.

mod cli;
mod store_contract;
mod support;
