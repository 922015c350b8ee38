//! x
pub mod cli;
pub mod client;
pub mod event;
pub mod id;
pub mod sse;
pub mod store;
