//! `GET …/events` as JSON pages.

use serde_json::{Value, json};

use crate::{
    store_contract::Backend,
    support::gateway::{Gateway, on_both_stores},
};

on_both_stores!(
    a_page_has_a_limit_and_tells_where_to_read_on,
    pages_make_up_the_whole_log,
    pages_with_a_filter_make_up_all_that_it_lets_through,
    a_page_whose_filter_matches_nothing_does_not_read_on_without_end,
    a_page_from_now_is_empty_and_tells_the_tail,
    the_last_page_of_a_closed_session_says_so,
    a_page_is_what_a_client_gets_that_asks_for_nothing_else,
    a_page_of_large_events_ends_early,
);

async fn a_page_has_a_limit_and_tells_where_to_read_on(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let ids = session.append_numbers(0..150).await;
    let page = session.get("/events").await;
    assert_eq!(page.headers["content-type"], "application/json");
    assert_eq!(page.headers["cache-control"], "no-store");
    let page = page.is(200);
    assert_eq!(page["events"].as_array().expect("events").len(), 100);
    assert_eq!(page["events"][0], json!({"id": ids[0], "type": "n", "data": 0}));
    assert_eq!((&page["next"], &page["up_to_date"]), (&json!(ids[99]), &json!(false)));

    for (query, from, count, up_to_date) in [
        ("?limit=1".to_owned(), 0, 1, false),
        (format!("?limit=50&after={}", ids[99]), 100, 50, true),
        (format!("?limit=49&after={}", ids[99]), 100, 49, false),
        ("?limit=1000&from=start".to_owned(), 0, 150, true),
        (format!("?after={}&from=start", ids[148]), 149, 1, true),
    ] {
        let page = session.get(&format!("/events{query}")).await.is(200);
        let got = page["events"].as_array().expect("events").iter().map(|event| &event["id"]);
        assert!(got.eq(&ids[from..from + count]), "{query}: {page}");
        assert_eq!(page["next"], ids[from + count - 1], "{query}");
        assert_eq!(page["up_to_date"], up_to_date, "{query}");
    }
    let page = session.get(&format!("/events?after={}", ids[149])).await.is(200);
    assert_eq!(page, json!({"events": [], "next": ids[149], "up_to_date": true, "closed": false}));
}

async fn pages_make_up_the_whole_log(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let ids = session.append_numbers(0..57).await;
    for limit in [1, 2, 7, 19, 57, 58, 1000] {
        let (mut after, mut seen) = (String::new(), Vec::new());
        loop {
            let page = session.get(&format!("/events?limit={limit}{after}")).await.is(200);
            let events = page["events"].as_array().expect("events");
            assert!(events.len() <= limit);
            seen.extend(events.iter().map(|event| event["id"].as_str().expect("an id").to_owned()));
            after = format!("&after={}", page["next"].as_str().expect("next"));
            if page["up_to_date"] == true {
                break;
            }
            assert_eq!(events.len(), limit);
        }
        assert_eq!(seen, ids, "{limit}");
    }
}

async fn pages_with_a_filter_make_up_all_that_it_lets_through(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let events: Value = (0..900).map(|n| json!({"type": if n % 97 == 5 { "rare" } else { "n" }, "data": n})).collect();
    let ids = session.append(events).await;
    for limit in [1, 3, 10, 100] {
        let (mut after, mut seen) = (String::new(), Vec::new());
        loop {
            let page = session.get(&format!("/events?type=rare&limit={limit}{after}")).await.is(200);
            let events = page["events"].as_array().expect("events");
            assert!(events.len() <= limit);
            seen.extend(events.iter().map(|event| event["data"].as_u64().expect("a number")));
            after = format!("&after={}", page["next"].as_str().expect("next"));
            if page["up_to_date"] == true {
                assert_eq!(page["next"], ids[899]);
                break;
            }
        }
        assert!(seen.iter().copied().eq((0..900).filter(|n| n % 97 == 5)), "{limit}: {seen:?}");
    }
}

async fn a_page_whose_filter_matches_nothing_does_not_read_on_without_end(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let large = "x".repeat(250 * 1024);
    for _ in 0..90 {
        session.append(json!({"data": large})).await;
    }
    let (mut pages, mut after) = (0, "0-0".to_owned());
    loop {
        let page = session.get(&format!("/events?type=none&after={after}")).await.is(200);
        assert_eq!(page["events"], json!([]));
        (pages, after) = (pages + 1, page["next"].as_str().expect("an id").to_owned());
        if page["up_to_date"] == true {
            break;
        }
    }
    // 22 MiB.
    assert_eq!(pages, 2);
}

async fn a_page_from_now_is_empty_and_tells_the_tail(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.get("/events?from=now").await.problem(404, "unknown_session");
    let ids = session.append_numbers(0..3).await;
    let page = session.get("/events?from=now").await.is(200);
    assert_eq!(page, json!({"events": [], "next": ids[2], "up_to_date": true, "closed": false}));
    // The commands lane has no entry yet.
    let page = session.get("/commands?from=now").await.is(200);
    assert_eq!(page, json!({"events": [], "next": "0-0", "up_to_date": true, "closed": false}));
    let page = session.get("/commands?after=0-0").await.is(200);
    assert_eq!(page["events"], json!([]));
}

async fn the_last_page_of_a_closed_session_says_so(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let ids = session.append_numbers(0..3).await;
    assert_eq!(session.get("/events").await.is(200)["closed"], false);
    session.post("/close", json!({})).await.is(200);
    let page = session.get("/events?limit=3").await.is(200);
    assert_eq!((&page["closed"], &page["up_to_date"], &page["next"]), (&json!(true), &json!(true), &json!(ids[2])));
}

async fn a_page_is_what_a_client_gets_that_asks_for_nothing_else(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.append_numbers(0..1).await;
    for accept in ["*/*", "application/json", "text/html, application/*;q=0.5", "text/html,*/*;q=0.8"] {
        let request = session.http.get(session.url("/events")).header("accept", accept);
        let page = crate::support::gateway::answer(request).await;
        assert_eq!(page.headers["content-type"], "application/json", "{accept}");
    }
    let socket = &mut gateway.socket().await;
    socket.send(format!("GET /v1/sessions/{}/events HTTP/1.1\r\nhost: t\r\n\r\n", session.name)).await;
    assert_eq!(socket.answer().await.headers["content-type"], "application/json");
}

async fn a_page_of_large_events_ends_early(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let large = "x".repeat(200 * 1024);
    let count = 30;
    for _ in 0..count {
        session.append(json!({"data": large})).await;
    }
    let (mut seen, mut pages, mut query) = (0, 0, "?limit=1000".to_owned());
    loop {
        let page = session.get(&format!("/events{query}")).await.is(200);
        seen += page["events"].as_array().expect("events").len();
        pages += 1;
        if page["up_to_date"] == true {
            break;
        }
        query = format!("?limit=1000&after={}", page["next"].as_str().expect("an id"));
    }
    assert_eq!(seen, count);
    assert!(pages > 1, "6 MiB in one page");
}
