//! x
pub mod event;
pub mod id;
pub mod sse;
pub mod store;
