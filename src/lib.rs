//! x
pub mod event;
pub mod id;
pub mod store;
