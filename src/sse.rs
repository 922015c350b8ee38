//! Server-sent events, both ways.

pub mod decode;
