//! Integration tests: one binary, against both stores and real `redis-server` processes.

mod auth;
mod bad_input;
mod borders;
mod cli;
mod commands;
mod compare_report;
mod control;
mod control_fire;
mod control_model;
mod cors;
mod early_answers;
mod events;
mod examples;
mod hostile;
mod independent_clients;
mod logs;
mod metrics;
mod quotas;
mod redis_troubles;
mod replicas;
mod resume_model;
mod rolling_restart;
mod slow_clients;
mod store_contract;
mod store_model;
mod support;
