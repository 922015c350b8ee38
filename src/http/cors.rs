//! Browsers: which pages of other origins may use the gateway (CORS, <https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! Preflights are answered here, before anybody asks for a token: they carry none.

use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::Cors;

/// What pages may send besides what browsers allow anyway.
const SENT: [HeaderName; 11] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::CACHE_CONTROL,
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("producer-id"),
    HeaderName::from_static("producer-epoch"),
    HeaderName::from_static("producer-seq"),
    HeaderName::from_static("run-attempt"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-request-id"),
];

/// What pages may read besides that.
const READ: [HeaderName; 3] = [header::RETRY_AFTER, header::WWW_AUTHENTICATE, HeaderName::from_static("x-request-id")];

const METHODS: [Method; 5] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE];

/// Why origins can't be allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCors {
    /// Not an origin.
    #[error("{0:?} is no origin: it takes the form https://app.example.com, with a port where it is not the usual one")]
    Origin(String),
    /// Browsers refuse that, since it would give every page all that the user's cookies open.
    #[error("credentials can't be allowed to every origin (*); name the origins")]
    AnyWithCredentials,
}

/// The layer around the routes.
pub fn layer(cors: &Cors) -> Result<CorsLayer, BadCors> {
    let origins = if cors.origins.iter().any(|origin| origin == "*") {
        if cors.credentials {
            return Err(BadCors::AnyWithCredentials);
        }
        AllowOrigin::any()
    } else {
        AllowOrigin::list(cors.origins.iter().map(|text| origin(text)).collect::<Result<Vec<_>, _>>()?)
    };
    Ok(CorsLayer::new()
        .allow_origin(origins)
        .allow_credentials(cors.credentials)
        .allow_methods(METHODS)
        .allow_headers(SENT)
        .expose_headers(READ)
        .max_age(cors.max_age))
}

/// An origin as browsers write it, or it would never be met.
fn origin(text: &str) -> Result<HeaderValue, BadCors> {
    let bad = || BadCors::Origin(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| bad())?;
    let (scheme, authority) = (uri.scheme_str().ok_or_else(bad)?, uri.authority().ok_or_else(bad)?);
    let plain = format!("{scheme}://{authority}");
    let usual = matches!((scheme, authority.port_u16()), ("http", Some(80)) | ("https", Some(443)));
    if plain != text || usual || text.to_ascii_lowercase() != text || authority.as_str().contains(['@', '*']) {
        return Err(bad());
    }
    text.parse().map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_origin_is_what_browsers_send() {
        for good in ["https://app.example.com", "http://localhost:5173", "http://127.0.0.1:8080", "https://[::1]:444"] {
            assert_eq!(origin(good).unwrap(), good);
        }
        for bad in [
            "",
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com/path",
            "https://App.example.com",
            "https://app.example.com:443",
            "https://user@app.example.com",
            "https://*.example.com",
            "null",
        ] {
            assert_eq!(origin(bad), Err(BadCors::Origin(bad.into())), "{bad}");
        }
        let cors = Cors { origins: vec!["*".into()], credentials: true, max_age: Duration::ZERO };
        assert_eq!(layer(&cors).unwrap_err(), BadCors::AnyWithCredentials);
    }
}
