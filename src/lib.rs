//! x
pub mod event;
pub mod hub;
pub mod id;
pub mod rules;
pub mod store;
pub mod writer;
