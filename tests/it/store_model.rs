//! Random histories of a session against a plain list of its entries: a read gives exactly what follows the cursor, or
//! says rightly why it cannot. Never a silent gap.

use std::sync::Arc;

use moorline::{
    id::{EntryId, Lane, Ms, Name},
    store::{
        Commit, Extent, Lost, Outcome, Page, Part, ReadFrom, Retention, Store, Versions,
        memory::MemoryStore,
        redis::{RedisConfig, RedisStore},
    },
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::support::{redis::RedisServer, unique};

/// Small, so that histories are cut.
const CAP: usize = 6;

/// What Redis cuts at once; set for the test's own server.
const NODE: usize = 4;

const CASES: u32 = 150;

#[derive(Debug, Clone)]
enum Step {
    /// One commit: so many parts of so many events and commands.
    Append(Vec<(usize, usize)>),
    Close,
    Delete,
    Read(Lane, Cursor, usize),
}

#[derive(Debug, Clone)]
enum Cursor {
    Start,
    Latest,
    Zero,
    /// An id that some incarnation of the session gave out.
    Given(prop::sample::Index),
    /// The same, as the entry to begin with.
    At(prop::sample::Index),
    /// The id of an entry, so much off in time and number.
    Near(prop::sample::Index, i64, i64),
    /// Any text that parses.
    MadeUp(EntryId),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lane = || prop::sample::select(Lane::ALL.to_vec());
    let index = any::<prop::sample::Index>;
    let cursor = prop_oneof![
        2 => Just(Cursor::Start),
        1 => Just(Cursor::Latest),
        1 => Just(Cursor::Zero),
        8 => index().prop_map(Cursor::Given),
        2 => index().prop_map(Cursor::At),
        3 => (index(), -2..3i64, -2..3i64).prop_map(|(at, ms, n)| Cursor::Near(at, ms, n)),
        1 => (any::<u64>(), 0..30u64).prop_map(|(ms, n)| Cursor::MadeUp(EntryId { ms, n })),
        1 => any::<(u64, u64)>().prop_map(|(ms, n)| Cursor::MadeUp(EntryId { ms, n })),
    ];
    let step = prop_oneof![
        10 => prop::collection::vec((0..5usize, 0..3usize), 0..4).prop_map(Step::Append),
        1 => Just(Step::Close),
        2 => Just(Step::Delete),
        20 => (lane(), cursor, 1..9usize).prop_map(|(lane, cursor, limit)| Step::Read(lane, cursor, limit)),
    ];
    prop::collection::vec(step, 1..60)
}

/// One life of the session.
#[derive(Debug, Default)]
struct Life {
    created: Ms,
    closed: bool,
    /// All entries that the lanes ever had.
    lanes: [Vec<(EntryId, String)>; 2],
    /// How many of them had been cut off when last seen: never fewer later on.
    cut: [usize; 2],
}

#[derive(Debug, Default)]
struct Model {
    life: Option<Life>,
    /// Every id that was ever given out in this lane, in any life.
    given: [Vec<EntryId>; 2],
    counted: usize,
}

impl Model {
    fn payloads(&mut self, count: usize) -> Vec<String> {
        let from = self.counted;
        self.counted += count;
        (from..self.counted).map(|k| k.to_string()).collect()
    }

    /// Numbers what a commit appended, as the contract demands.
    fn appended(&mut self, now: Ms, payloads: [Vec<String>; 2]) -> Result<(), TestCaseError> {
        let life = self.life.get_or_insert_with(|| Life { created: now, ..Life::default() });
        for (lane, payloads) in payloads.into_iter().enumerate() {
            for payload in payloads {
                let log = &mut life.lanes[lane];
                prop_assert!(log.last().is_none_or(|(last, _)| last.ms <= now), "time went back");
                let id = EntryId { ms: now, n: log.len() as u64 + 1 };
                prop_assert!(!self.given[lane].contains(&id), "{id} given twice");
                log.push((id, payload));
                self.given[lane].push(id);
            }
        }
        Ok(())
    }

    fn cursor(&self, lane: usize, cursor: &Cursor) -> ReadFrom {
        let given = &self.given[lane];
        let some = |at: &prop::sample::Index| if given.is_empty() { EntryId::ZERO } else { *at.get(given) };
        match cursor {
            Cursor::Start => ReadFrom::Start,
            Cursor::Latest => ReadFrom::Latest,
            Cursor::Zero => ReadFrom::After(EntryId::ZERO),
            Cursor::Given(at) => ReadFrom::After(some(at)),
            Cursor::At(at) => ReadFrom::At(some(at)),
            Cursor::Near(at, ms, n) => {
                let id = some(at);
                ReadFrom::After(EntryId { ms: id.ms.saturating_add_signed(*ms), n: id.n.saturating_add_signed(*n) })
            }
            Cursor::MadeUp(id) => ReadFrom::After(*id),
        }
    }

    fn check(&mut self, lane: usize, from: ReadFrom, limit: usize, page: &Page) -> Result<(), TestCaseError> {
        let Some(life) = &mut self.life else {
            let lost = matches!(from, ReadFrom::After(id) if id != EntryId::ZERO).then_some(Lost::Deleted);
            let nothing = Page { exists: false, closed: false, extent: Extent::default(), lost, entries: vec![] };
            prop_assert_eq!(page, &nothing);
            return Ok(());
        };
        let log = &life.lanes[lane];
        // Where the log was cut is the store's choice, within bounds.
        let cut = page.extent.first.map_or(0, |first| first.n as usize - 1);
        let kept = log.len() - cut;
        prop_assert!(cut >= life.cut[lane], "what was cut is back");
        prop_assert!(kept >= CAP.min(log.len()) && kept <= CAP + NODE, "{kept} entries are kept");
        life.cut[lane] = cut;
        let extent =
            Extent { first: log.get(cut).map(|e| e.0), last: log.last().map(|e| e.0).unwrap_or(EntryId::ZERO) };
        prop_assert_eq!((page.exists, page.closed, page.extent), (true, life.closed, extent));

        let place = |id: EntryId| log.iter().position(|e| e.0 == id);
        let (start, lost) = match from {
            ReadFrom::Start => (cut, None),
            ReadFrom::Latest => (log.len() - kept.min(limit), None),
            ReadFrom::At(id) => (cut.max(log.iter().take_while(|e| e.0 < id).count()), None),
            ReadFrom::After(EntryId::ZERO) => (cut, (cut > 0).then_some(Lost::Trimmed)),
            ReadFrom::After(id) => match place(id) {
                Some(at) if at >= cut => (at + 1, None),
                Some(_) => (cut, Some(Lost::Trimmed)),
                None if id.ms < life.created => (cut, Some(Lost::Deleted)),
                // What never was may stand where something was cut off; then nobody can tell any more.
                None if page.lost == Some(Lost::Trimmed) => {
                    let first = page.extent.first.unwrap_or_default();
                    prop_assert!((1..=cut as u64).contains(&id.n) && id.ms <= first.ms, "{id} is not before {first}");
                    (cut, Some(Lost::Trimmed))
                }
                None => (cut, Some(Lost::Unknown)),
            },
        };
        prop_assert_eq!(page.lost, lost);
        let read: Vec<_> = page.entries.iter().map(|e| (e.id, String::from_utf8_lossy(&e.payload).into())).collect();
        let expected = &log[start..log.len().min(start + limit)];
        prop_assert_eq!(&read[..], expected);
        prop_assert_eq!(page.up_to_date(from), start + limit >= log.len());
        prop_assert_eq!(page.next(from).n as usize, start + expected.len());
        Ok(())
    }
}

async fn run(store: &dyn Store, versions: &Versions, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let session: Name = unique("s").parse().unwrap();
    let mut model = Model::default();
    let mut version = None;
    for step in steps {
        match step {
            Step::Append(_) | Step::Close => {
                let mut commit =
                    Commit { expect: version.clone(), version: Some(versions.fresh()), ..Commit::default() };
                let mut payloads: [Vec<String>; 2] = Default::default();
                match step {
                    Step::Append(parts) => {
                        for (events, commands) in parts {
                            let (events, commands) = (model.payloads(events), model.payloads(commands));
                            let bytes = |texts: &[String]| texts.iter().map(|t| t.clone().into()).collect();
                            let part = Part {
                                producer: None,
                                events: bytes(&events),
                                commands: bytes(&commands),
                                touch: Vec::new(),
                            };
                            commit.parts.push(part);
                            payloads[0].extend(events);
                            payloads[1].extend(commands);
                        }
                    }
                    _ => commit.closes = true,
                }
                let outcome = store.commit(&session, &commit).await.expect("an outcome");
                let Outcome::Committed { now, .. } = outcome else { panic!("{outcome:?}") };
                if commit.closes || !commit.parts.is_empty() {
                    model.appended(now, payloads)?;
                }
                if let Some(life) = &mut model.life {
                    if version.is_none() || commit.closes {
                        version = commit.version;
                    }
                    life.closed |= commit.closes;
                }
            }
            Step::Delete => {
                prop_assert_eq!(store.delete(&session).await.expect("an answer"), model.life.is_some());
                (model.life, version) = (None, None);
            }
            Step::Read(lane, cursor, limit) => {
                let from = model.cursor(lane.index(), &cursor);
                let page = store.read(&session, lane, from, limit).await.expect("a page");
                model.check(lane.index(), from, limit, &page)?;
            }
        }
    }
    Ok(())
}

/// Runs histories on one runtime and one store.
fn every_history(store: impl AsyncFnOnce(Retention) -> Arc<dyn Store>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = runtime.block_on(store(Retention { cap: CAP as u64, ..Retention::default() }));
    let versions = Versions::default();
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&steps(), |steps| runtime.block_on(run(&*store, &versions, steps)));
    result.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn memory_reads_what_follows_the_cursor_or_says_why_not() {
    every_history(async |retention| Arc::new(MemoryStore::new(retention)) as Arc<dyn Store>);
}

#[test]
fn redis_reads_what_follows_the_cursor_or_says_why_not() {
    let server = RedisServer::start_with(&["--stream-node-max-entries", &NODE.to_string()]);
    every_history(async |retention| {
        let config = RedisConfig { retention, ..RedisConfig::new(server.url()) };
        Arc::new(RedisStore::connect(config).await.expect("a connection to Redis")) as Arc<dyn Store>
    });
}
