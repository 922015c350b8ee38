//! Bodies of events, NDJSON and server-sent events, in pieces of any size: nothing panics, the pieces make no
//! difference, and every accepted event is one line of JSON.
//!
//! `cargo install cargo-fuzz`, then `RUSTC_BOOTSTRAP=1 cargo fuzz run bodies -- -max_total_time=60` at the top of the
//! repository (a nightly compiler needs no RUSTC_BOOTSTRAP).
#![no_main]

use libfuzzer_sys::fuzz_target;
use moorline::{
    event::{Defaults, Head},
    ingest::{Reading, Splitter},
};

fn events(body: &[u8], piece: usize, sse: bool) -> (Vec<Vec<u8>>, bool) {
    let reading = Reading { defaults: Defaults::default(), event_bytes: 512 };
    let mut splitter = if sse { Splitter::sse(512) } else { Splitter::lines() };
    let mut events = Vec::new();
    let mut drain = |splitter: &mut Splitter| loop {
        match splitter.next_event(&reading) {
            Ok(Some(event)) => {
                assert!(!event.payload.contains(&b'\n') && !event.payload.contains(&b'\r'));
                assert!(Head::of(&event.payload).is_some());
                events.push(event.payload.to_vec());
            }
            Ok(None) => return true,
            Err(_) => return false,
        }
    };
    for piece in body.chunks(piece) {
        let pushed = splitter.push(piece, &reading).is_ok();
        if !drain(&mut splitter) || !pushed {
            return (events, false);
        }
    }
    let finished = splitter.finish(&reading).is_ok();
    let drained = drain(&mut splitter);
    (events, finished && drained)
}

fuzz_target!(|data: &[u8]| {
    let [kind, piece, body @ ..] = data else { return };
    let (sse, piece) = (kind & 1 == 1, usize::from(*piece) + 1);
    assert_eq!(events(body, piece, sse), events(body, body.len().max(1), sse));
});
