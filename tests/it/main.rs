//! Integration tests: one binary, against both stores and real `redis-server` processes.

mod store_contract;
mod support;
