//! x
pub mod event;
pub mod id;
pub mod rules;
pub mod store;
pub mod writer;
