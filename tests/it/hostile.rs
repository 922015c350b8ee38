//! Hostile clients: tokens that are no good on every route. Whatever they do, well-behaved clients are served.

mod tokens;
