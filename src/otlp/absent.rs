//! The same without the feature: nothing, but a word about it where traces were asked for.

use super::{BadExport, ENDPOINTS, wanted};
use crate::trace::Traceparent;

/// What is exported: nothing.
pub struct Exporting;

/// Says so if it was asked for.
pub fn start() -> Result<Option<Exporting>, BadExport> {
    if wanted() {
        tracing::warn!(
            "{} is set, but this program was built without the feature otlp: no traces are exported",
            ENDPOINTS.join(" or ")
        );
    }
    Ok(None)
}

impl Exporting {
    /// Does nothing.
    pub async fn finish(self) {}
}

/// A request that nobody traces.
pub struct Request;

impl Request {
    /// Does nothing.
    #[inline]
    pub fn begin(_: &str, _: &str, _: fn(&str) -> Option<&'static str>, _: Option<Traceparent>) -> Self {
        Request
    }

    /// Nowhere.
    #[inline]
    pub fn place(&self) -> Option<Traceparent> {
        None
    }

    /// Does nothing.
    #[inline]
    pub fn enter(&self) -> Entered {
        Entered
    }

    /// Does nothing.
    #[inline]
    pub fn answered(&self, _: u16) {}
}

/// Ends nothing when it is dropped.
pub struct Entered;

/// A step that nobody traces.
pub struct Step;

/// Does nothing.
#[inline]
pub fn step(_: &'static str) -> Step {
    Step
}

/// Nowhere.
#[inline]
pub fn here() -> Option<Traceparent> {
    None
}
