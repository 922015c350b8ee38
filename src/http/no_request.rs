//! What never becomes a request: hyper refuses it by itself, with a status and nothing else. Here that answer gets the body
//! of a problem, on its way to the socket, so that there is one shape of error and a client learns what to do.

use axum::http::StatusCode;

use super::Problem;
use crate::metrics::METRICS;

/// The refusal to send instead of hyper's, which is `bytes`. `None`: that is something else, and goes out as it is. hyper's
/// own is a head without a body or an `X-Request-Id`, which the routes' answers have.
pub fn explained(bytes: &[u8]) -> Option<Vec<u8>> {
    let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let head = bytes.strip_suffix(b"\r\n\r\n")?;
    if ["\r\n\r\n", "\r\nx-request-id:"].iter().any(|other| memchr::memmem::find(head, other.as_bytes()).is_some()) {
        return None;
    }
    let (status, code, detail) = match status {
        b"400" => (StatusCode::BAD_REQUEST, "bad_http", "this is not HTTP/1.1, or not sound"),
        b"414" => (StatusCode::URI_TOO_LONG, "path_too_long", "the path and its query are too long"),
        b"431" => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "head_too_large",
            "the request has too many headers, or too many bytes of them; see docs/PROTOCOL.md",
        ),
        _ => return None,
    };
    METRICS.problems.add(code);
    let body = Problem::new(status, code, detail).body();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    Some((head + &body).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: now\r\n\r\n";

    #[test]
    fn only_a_refusal_of_hyper_gets_a_body() {
        let answer = explained(BARE.as_bytes()).expect("a refusal");
        assert!(String::from_utf8(answer).expect("text").contains("\"code\":\"bad_http\""));
        for other in [
            // The routes' own, a page that looks like it, two answers, and half of one.
            BARE.replace("connection: close", "x-request-id: r"),
            BARE.replace("400 Bad Request", "200 OK"),
            format!("{BARE}{{\"code\":1}}"),
            BARE.repeat(2),
            BARE.trim_end().to_owned(),
            "HTTP/1.1 400".repeat(2),
        ] {
            assert_eq!(explained(other.as_bytes()), None, "{other}");
        }
    }
}
