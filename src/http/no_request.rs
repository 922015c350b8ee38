//! What never becomes a request: hyper refuses it by itself, with a status and nothing else. Here that answer gets the body
//! of a problem, on its way to the socket, so that there is one shape of error and a client learns what to do.

use axum::http::StatusCode;

use super::Problem;

/// The refusal to send instead of hyper's, which is `bytes`. `None`: that is something else, and goes out as it is.
pub fn explained(bytes: &[u8]) -> Option<Vec<u8>> {
    let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
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
    let body = Problem::new(status, code, detail).body();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    Some((head + &body).into_bytes())
}
