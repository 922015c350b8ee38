//! Heads without end and without sense.

use tokio::task::JoinSet;

use super::{Victim, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_bombs_are_refused() {
    let victim = Victim::start(&[]).await;
    let post = "POST /v1/sessions/s/events HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n";
    let many = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let end = "content-length: 10\r\n\r\n{\"data\":1}";
    let bombs = [
        ("101 headers", format!("{post}{}{end}", many(101))),
        ("10,000 headers", format!("{post}{}{end}", many(10_000))),
        ("100,000 headers of one name", format!("{post}{}{end}", "a: b\r\n".repeat(100_000))),
        ("a value of 5 MB", format!("{post}x: {}\r\n{end}", "y".repeat(5 << 20))),
        ("a name of 5 MB", format!("{post}{}: y\r\n{end}", "x".repeat(5 << 20))),
        ("5 MB of folded lines", format!("{post}x: y\r\n{}{end}", " z\r\n".repeat(1 << 20))),
        ("a path of 5 MB", format!("GET /{} HTTP/1.1\r\nhost: t\r\n\r\n", "x".repeat(5 << 20))),
        ("a query of 5 MB", format!("GET /v1/sessions/s/events?{} HTTP/1.1\r\nhost: t\r\n\r\n", "a&".repeat(5 << 19))),
        ("a path of 20 KB", format!("GET /{} HTTP/1.1\r\nhost: t\r\n\r\n", "x".repeat(20_000))),
        ("a token of 30 KB", format!("{post}authorization: Bearer {}\r\n{end}x", "x".repeat(30_000))),
        ("5 MB of empty lines", "\r\n".repeat(5 << 19)),
        ("5 MB of NUL", "\0".repeat(5 << 20)),
    ];
    let mut at_work = JoinSet::new();
    for (what, bomb) in bombs {
        let (addr, bomb) = (victim.addr().to_owned(), std::sync::Arc::new(bomb));
        for _ in 0..10 {
            let (addr, bomb) = (addr.clone(), bomb.clone());
            at_work.spawn(async move {
                let status = send(&addr, bomb.as_bytes()).await;
                // A reset may overtake the answer. (A token is nothing to a gateway that asks for none.)
                assert!(status.is_none_or(|status| status >= 400 || what.starts_with("a token")), "{what}: {status:?}");
            });
        }
    }
    at_work.join_all().await;
    victim.unharmed("head bombs").await;
}
