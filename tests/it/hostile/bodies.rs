//! Bodies that lie about their length, in every way that has been used to smuggle a request past a proxy.

use serde_json::Value;

use super::{Victim, send};
use crate::support::{gateway::Session, unique};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_lie_about_their_length_are_refused() {
    let victim = Victim::start(&["--body-timeout", "500ms"]).await;
    let name = unique("s");
    let body = "{\"data\":\"smuggled\"}";
    let hidden = format!(
        "POST /v1/sessions/{name}/events HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let size = hidden.len();
    for (what, headers, body) in [
        ("longer than it is", "content-length: 1000".to_owned(), body.to_owned()),
        ("a length without end", format!("content-length: {}", u64::MAX), body.to_owned()),
        ("more than a number holds", "content-length: 99999999999999999999999".to_owned(), body.to_owned()),
        ("below nothing", "content-length: -1".to_owned(), body.to_owned()),
        ("with a sign", "content-length: +19".to_owned(), body.to_owned()),
        ("in hexadecimal", "content-length: 0x13".to_owned(), body.to_owned()),
        ("two lengths", "content-length: 19\r\ncontent-length: 18".to_owned(), body.to_owned()),
        ("two lengths in one", "content-length: 19, 18".to_owned(), body.to_owned()),
        ("an empty length", "content-length: ".to_owned(), body.to_owned()),
        ("a chunk longer than it is", "transfer-encoding: chunked".to_owned(), format!("fff\r\n{body}\r\n0\r\n\r\n")),
        ("a chunk without end", "transfer-encoding: chunked".to_owned(), format!("ffffffffffffffff\r\n{body}")),
        ("a chunk beyond numbers", "transfer-encoding: chunked".to_owned(), format!("fffffffffffffffff\r\n{body}")),
        ("a chunk below nothing", "transfer-encoding: chunked".to_owned(), format!("-13\r\n{body}\r\n0\r\n\r\n")),
        ("a chunk of words", "transfer-encoding: chunked".to_owned(), format!("nineteen\r\n{body}\r\n0\r\n\r\n")),
        ("a chunk without its line end", "transfer-encoding: chunked".to_owned(), format!("13\r\n{body}0\r\n\r\n")),
        ("no last chunk", "transfer-encoding: chunked".to_owned(), format!("13\r\n{body}\r\n")),
        ("an encoding that is none", "transfer-encoding: xchunked".to_owned(), format!("13\r\n{body}\r\n0\r\n\r\n")),
        (
            "chunks that are not last",
            "transfer-encoding: chunked, identity".to_owned(),
            format!("13\r\n{body}\r\n0\r\n\r\n"),
        ),
        ("a space before the colon", format!("content-length : {}", body.len()), body.to_owned()),
        // Requests within requests: a proxy that believes one length, and a gateway that believes the other.
        (
            "both, a request hidden after the chunks",
            "content-length: 5\r\ntransfer-encoding: chunked".to_owned(),
            format!("0\r\n\r\n{hidden}"),
        ),
        (
            "both, in the other order",
            format!("transfer-encoding: chunked\r\ncontent-length: {size}"),
            format!("0\r\n\r\n{hidden}"),
        ),
        (
            "two lengths, a request hidden after the first",
            format!("content-length: 0\r\ncontent-length: {size}"),
            hidden.clone(),
        ),
        (
            "a hidden encoding",
            format!("content-length: {size}\r\ntransfer-encoding:\x0bchunked"),
            format!("0\r\n\r\n{hidden}"),
        ),
        (
            "chunk extensions of 1 MB",
            "transfer-encoding: chunked".to_owned(),
            format!("13;{}\r\n{body}\r\n0\r\n\r\n", "x".repeat(1 << 20)),
        ),
        (
            "trailers of 1 MB",
            "transfer-encoding: chunked".to_owned(),
            format!("13\r\n{body}\r\n0\r\n{}\r\n", "a: b\r\n".repeat(1 << 17)),
        ),
    ] {
        let head = format!("POST /v1/sessions/{name}/events HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n");
        let status = send(victim.addr(), format!("{head}{headers}\r\n\r\n{body}").as_bytes()).await;
        let unsound = what.starts_with("a request") || what.starts_with("both") || what.starts_with("two");
        assert!(status.is_none_or(|status| status >= 400 || unsound), "{what}: {status:?}");
        let log = Session::at(victim.process.url(), &name).data().await;
        assert_eq!(log, Vec::<Value>::new(), "{what}");
    }
    victim.unharmed("lying bodies").await;
}
