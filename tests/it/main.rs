//! Integration tests: one binary, against both stores and real `redis-server` processes.

mod bad_input;
mod borders;
mod chaos;
mod cli;
mod commands;
mod compare_report;
mod control;
mod control_fire;
mod control_model;
mod early_answers;
mod events;
mod examples;
mod independent_clients;
mod logs;
mod metrics;
mod redis_troubles;
mod redis_ways;
mod replicas;
mod resume_model;
mod rolling_restart;
mod slow_clients;
mod store_contract;
mod store_model;
mod support;
