//! The newest entries of one lane, as far as this replica has them in an unbroken row.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::Item;
use crate::{
    id::EntryId,
    store::{self, Page, ReadFrom, StoreError},
};

/// Entries that a ring holds at most.
const ENTRIES_MAX: usize = 256;
/// Bytes of payload that a ring holds at most (but it always holds one entry).
pub(super) const BYTES_MAX: usize = 256 * 1024;
/// Entries that a new ring begins with at most: a crowd of clients that resume finds its cursors there.
const PRIME: usize = 128;
/// Entries that one read of a repair brings at most, and bytes of payload that it should.
const REPAIR: usize = 512;
const REPAIR_BYTES: usize = 512 * 1024;
/// Pushes that wait while a repair reads. With more, the repair reads again instead.
const HELD_MAX: usize = 256;
/// A ring of which nothing was heard for so long is compared with the log before a new follower relies on it: a log that
/// has expired, or went with the store's data, tells nobody.
const QUIET: Duration = Duration::from_secs(10);

/// Whether a repair must be started. Until it is done, there is no news.
#[derive(Debug, PartialEq, Eq)]
pub enum Repair {
    No,
    Start,
}

/// What a ring has for a cursor.
#[derive(Debug)]
pub enum Taken {
    /// The next entries.
    Entries(Vec<Arc<Item>>),
    /// Nothing after the cursor.
    UpToDate { closed: bool },
    /// The ring is being repaired, or lags behind what the follower has read: there will be news.
    Wait,
    /// The cursor lies before the ring, or can't be judged from here: ask the store.
    Ask,
}

#[derive(Default)]
pub struct Ring {
    entries: VecDeque<Arc<Item>>,
    bytes: usize,
    /// Bytes of payload that have ever come.
    came: usize,
    /// How large entries are, if that is known though there are none here.
    size: Option<usize>,
    /// The newest entry known; `entries` end with it, unless the log is empty.
    tail: EntryId,
    state: State,
    closed: bool,
    epoch: u64,
    /// Counts the reads of repairs.
    reads: u32,
    /// When something was last heard of the log.
    heard: Option<Instant>,
    /// Since when the store can't be read, and why.
    trouble: Option<(Instant, StoreError)>,
}

#[derive(Default)]
enum State {
    /// Nobody has needed this lane yet.
    #[default]
    Unused,
    /// Whole up to the newest push.
    Whole,
    /// A task reads what is missing. Pushes are held back until it has.
    Repairing {
        /// Whether `tail` means anything; if not, the repair reads the end of the log.
        anchored: bool,
        held: Vec<(EntryId, Vec<Bytes>)>,
        /// Something happened that the read under way may not have seen.
        again: bool,
    },
}

impl Ring {
    /// Counts the times that the log was found to be another one, or may have become one unnoticed.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Counts the times that the log was read to see what the ring misses.
    pub fn reads(&self) -> u32 {
        self.reads
    }

    /// Counts the bytes of payload that come, and wraps around.
    pub fn came(&self) -> usize {
        self.came
    }

    /// The newest entry known.
    pub fn tail(&self) -> EntryId {
        self.tail
    }

    /// Nothing is missing, and nothing in doubt.
    pub fn is_whole(&self) -> bool {
        matches!(self.state, State::Whole)
    }

    /// A follower is here.
    pub fn used(&mut self) -> Repair {
        match self.state {
            State::Unused => self.repair(false),
            State::Whole if self.heard.is_none_or(|heard| heard.elapsed() > QUIET) => self.doubt(),
            _ => Repair::No,
        }
    }

    /// A repair has not been able to read since then.
    pub fn failed(&mut self, since: Instant, error: StoreError) {
        self.trouble = Some((since, error));
    }

    /// Why repairs have been failing for so long.
    pub fn trouble(&self, patience: Duration) -> Option<&StoreError> {
        self.trouble.as_ref().filter(|(since, _)| since.elapsed() >= patience).map(|(_, error)| error)
    }

    /// New entries, whose ids count on from `first`.
    pub fn push(&mut self, first: EntryId, payloads: Vec<Bytes>) -> Repair {
        match &mut self.state {
            State::Unused => Repair::No,
            State::Repairing { held, again, .. } => {
                if held.len() < HELD_MAX {
                    // Copies: what was pushed may be slices of a buffer that more has come into.
                    held.push((first, payloads.iter().map(|payload| Bytes::copy_from_slice(payload)).collect()));
                } else {
                    *again = true;
                }
                Repair::No
            }
            State::Whole => {
                self.heard = Some(Instant::now());
                if self.apply(first, payloads) { Repair::No } else { self.repair(true) }
            }
        }
    }

    /// There are entries up to `last` that were not pushed.
    pub fn doorbell(&mut self, last: EntryId) -> Repair {
        match self.state {
            State::Whole if last == self.tail => Repair::No,
            _ => self.doubt(),
        }
    }

    /// Anything may have been missed.
    pub fn doubt(&mut self) -> Repair {
        match &mut self.state {
            State::Unused => Repair::No,
            State::Repairing { again, .. } => {
                *again = true;
                Repair::No
            }
            State::Whole => self.repair(true),
        }
    }

    /// No more entries after those pushed so far.
    pub fn close(&mut self) -> Repair {
        match self.state {
            State::Whole => {
                self.closed = true;
                Repair::No
            }
            _ => self.doubt(),
        }
    }

    /// The log is gone, or another one.
    pub fn replaced(&mut self) -> Repair {
        if matches!(self.state, State::Unused) {
            return Repair::No;
        }
        self.clear();
        self.epoch += 1;
        match &mut self.state {
            State::Repairing { anchored, again, held } => {
                (*anchored, *again) = (false, true);
                held.clear();
                Repair::No
            }
            _ => self.repair(false),
        }
    }

    fn repair(&mut self, anchored: bool) -> Repair {
        self.state = State::Repairing { anchored, held: Vec::new(), again: false };
        Repair::Start
    }

    fn clear(&mut self) {
        self.entries.clear();
        (self.bytes, self.size) = (0, None);
        self.tail = EntryId::ZERO;
        self.closed = false;
    }

    /// A repair begins to read: from here, so many entries.
    pub fn reading(&mut self) -> (ReadFrom, usize) {
        let mut anchored = true;
        if let State::Repairing { anchored: known, again, .. } = &mut self.state {
            *again = false;
            anchored = *known;
        }
        if anchored {
            (ReadFrom::After(self.tail), self.limit(REPAIR_BYTES, REPAIR))
        } else {
            (ReadFrom::Latest, self.limit(BYTES_MAX, PRIME))
        }
    }

    /// How many entries to read where so many bytes of them are wanted, but no more than `most` entries.
    pub fn limit(&self, bytes: usize, most: usize) -> usize {
        store::limit(self.bytes.checked_div(self.entries.len()).or(self.size), bytes, most)
    }

    /// A repair has read this page. `false`: it must read again.
    pub fn mended(&mut self, from: ReadFrom, page: Page) -> bool {
        (self.heard, self.trouble) = (Some(Instant::now()), None);
        self.reads = self.reads.wrapping_add(1);
        let State::Repairing { anchored, held, again } = &mut self.state else { return true };
        let (was_anchored, stale) = (*anchored, *again);
        // The log was replaced while the read was under way: what it read is of no use.
        if from != ReadFrom::Latest && !was_anchored {
            return false;
        }
        let held = std::mem::take(held);
        let replaced = was_anchored && page.lost.is_some();
        let (read, first) = (page.entries.len(), page.entries.first().map(|entry| entry.id));
        let size = page.entry_size();
        let missing = page.extent.last.n.saturating_sub(page.next(from).n);
        let another = if read > 0 { store::limit(size, REPAIR_BYTES, REPAIR) } else { 0 };
        // If one more read would not close the gap, begin anew at the log's end; followers left behind page from the store.
        // A failover meanwhile may make that end earlier than the old one, so the epoch changes and every follower has its
        // cursor checked.
        if replaced || (was_anchored && missing > another as u64) {
            self.clear();
            self.size = size;
            self.epoch += 1;
            self.state = State::Repairing { anchored: false, held, again: false };
            return false;
        }
        if !was_anchored {
            self.clear();
            // Stands even if the page is empty: then the entries were trimmed away.
            self.tail = page.extent.last;
        }
        for entry in page.entries {
            self.append(entry.id, &entry.payload);
        }
        self.closed = page.closed;
        // A repair goes on where there is more; a new ring reads again if it has room for twice as much, now that it is known
        // how large entries are.
        let more = if was_anchored {
            missing > 0
        } else {
            read > 0 && first != page.extent.first && store::limit(size, BYTES_MAX, PRIME) >= 2 * read
        };
        if more {
            self.state = State::Repairing { anchored: was_anchored, held, again: false };
            return false;
        }
        let applied = held.into_iter().all(|(first, payloads)| self.apply(first, payloads));
        let whole = applied && !stale;
        self.state =
            if whole { State::Whole } else { State::Repairing { anchored: true, held: Vec::new(), again: false } };
        whole
    }

    /// Applies a push to a whole ring. `false`: it does not fit, something is missing or the log is another one.
    fn apply(&mut self, first: EntryId, payloads: Vec<Bytes>) -> bool {
        for (n, payload) in (first.n..).zip(payloads) {
            let id = EntryId { ms: first.ms, n };
            if n <= self.tail.n {
                // Seen before, unless it is newer than what bore that number: then the log was replaced.
                if id > self.tail {
                    return false;
                }
                continue;
            }
            if n != self.tail.n + 1 || id.ms < self.tail.ms {
                return false;
            }
            self.append(id, &payload);
        }
        true
    }

    fn append(&mut self, id: EntryId, payload: &[u8]) {
        self.tail = id;
        self.bytes += payload.len();
        self.came = self.came.wrapping_add(payload.len());
        self.entries.push_back(Item::new(id, payload));
        while self.entries.len() > ENTRIES_MAX || (self.bytes > BYTES_MAX && self.entries.len() > 1) {
            if let Some(gone) = self.entries.pop_front() {
                self.bytes -= gone.payload().len();
            }
        }
    }

    /// What comes after a cursor. `verified`: the follower knows that the cursor is of this log, as of `epoch`.
    pub fn take(&self, cursor: EntryId, verified: bool, epoch: u64, max_bytes: usize) -> Taken {
        if matches!(self.state, State::Unused | State::Repairing { anchored: false, .. }) {
            return Taken::Wait;
        }
        if epoch != self.epoch {
            return Taken::Ask;
        }
        let first = self.entries.front().map_or(self.tail.n + 1, |item| item.id.n);
        if cursor.n > self.tail.n {
            // A verified follower has read further than the pushes have come. (Whether the log was put back since is for
            // the follower to find out: it knows when it has read.)
            return if verified { Taken::Wait } else { Taken::Ask };
        }
        if cursor.n + 1 < first {
            return Taken::Ask;
        }
        let place = (cursor.n + 1 - first) as usize;
        let known = if cursor.n == self.tail.n {
            cursor == self.tail
        } else if place > 0 {
            self.entries[place - 1].id == cursor
        } else {
            verified || (cursor == EntryId::ZERO && first == 1)
        };
        if !known {
            return Taken::Ask;
        }
        let mut bytes = 0;
        let fits = |item: &&Arc<Item>| {
            let fits = bytes < max_bytes;
            bytes += item.payload().len();
            fits
        };
        let entries: Vec<_> = self.entries.range(place..).take_while(fits).cloned().collect();
        match (entries.is_empty(), &self.state) {
            (false, _) => Taken::Entries(entries),
            // While a repair reads there may be more.
            (true, State::Whole) => Taken::UpToDate { closed: self.closed },
            (true, _) => Taken::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{BLIND, Entry, Extent, Lost};

    fn id(ms: u64, n: u64) -> EntryId {
        EntryId { ms, n }
    }

    fn page(entries: &[(u64, u64)]) -> Page {
        let entries: Vec<_> =
            entries.iter().map(|&(ms, n)| Entry { id: id(ms, n), payload: Bytes::from(n.to_string()) }).collect();
        let last = entries.last().map(|e| e.id).unwrap_or_default();
        let extent = Extent { first: entries.first().map(|e| e.id), last };
        Page { exists: true, closed: false, extent, lost: None, entries }
    }

    fn whole(entries: &[(u64, u64)]) -> Ring {
        let mut ring = Ring::default();
        assert_eq!(ring.used(), Repair::Start);
        assert!(ring.mended(ReadFrom::Latest, page(entries)));
        ring
    }

    fn push(ring: &mut Ring, ms: u64, n: u64) -> Repair {
        ring.push(id(ms, n), vec![Bytes::from(n.to_string())])
    }

    fn taken(ring: &Ring, cursor: EntryId) -> Vec<u64> {
        match ring.take(cursor, true, ring.epoch(), usize::MAX) {
            Taken::Entries(items) => items.iter().map(|item| item.id.n).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pushes_during_the_first_read_are_neither_lost_nor_doubled() {
        let mut ring = Ring::default();
        assert_eq!(ring.used(), Repair::Start);
        assert_eq!(push(&mut ring, 5, 2), Repair::No);
        assert_eq!(push(&mut ring, 5, 3), Repair::No);
        assert!(ring.mended(ReadFrom::Latest, page(&[(4, 1), (5, 2)])));
        assert_eq!(taken(&ring, EntryId::ZERO), [1, 2, 3]);
    }

    #[test]
    fn a_hole_is_repaired_before_anything_after_it_is_delivered() {
        let mut ring = whole(&[(4, 1)]);
        assert_eq!(push(&mut ring, 6, 3), Repair::Start);
        assert!(matches!(ring.take(id(4, 1), true, 0, 100), Taken::Wait));
        assert!(ring.mended(ReadFrom::After(id(4, 1)), page(&[(5, 2), (6, 3)])));
        assert_eq!(taken(&ring, id(4, 1)), [2, 3]);
    }

    #[test]
    fn a_number_given_out_twice_begins_a_new_epoch() {
        let mut ring = whole(&[(4, 1), (5, 2)]);
        assert_eq!(push(&mut ring, 9, 2), Repair::Start);
        let lost = Page { lost: Some(Lost::Unknown), ..page(&[(4, 1), (9, 2)]) };
        assert!(!ring.mended(ReadFrom::After(id(5, 2)), lost));
        assert!(ring.mended(ReadFrom::Latest, page(&[(4, 1), (9, 2)])));
        assert!(matches!(ring.take(id(5, 2), true, 0, 100), Taken::Ask));
        assert_eq!(ring.epoch(), 1);
    }

    #[test]
    fn a_ring_that_begins_anew_may_end_earlier_than_before() {
        let mut ring = whole(&[(4, 1), (5, 2)]);
        assert_eq!(ring.doubt(), Repair::Start);
        let much = Page { extent: Extent { first: Some(id(4, 1)), last: id(9, 9999) }, ..page(&[(6, 3)]) };
        assert!(!ring.mended(ReadFrom::After(id(5, 2)), much));
        // Now Redis fails over.
        assert!(ring.mended(ReadFrom::Latest, page(&[(4, 1)])));
        assert!(matches!(ring.take(id(5, 2), true, 0, 100), Taken::Ask));
    }

    #[test]
    fn a_repair_goes_on_where_more_is_missing_than_it_dared_to_read() {
        let mut ring = whole(&[]);
        assert_eq!(ring.doubt(), Repair::Start);
        assert_eq!(ring.reading(), (ReadFrom::After(EntryId::ZERO), BLIND));
        let log: Vec<_> = (1..=400).map(|n| (5, n)).collect();
        let extent = page(&log).extent;
        assert!(!ring.mended(ReadFrom::After(EntryId::ZERO), Page { extent, ..page(&log[..BLIND]) }));
        // There is something for those that wait already.
        assert_eq!(taken(&ring, EntryId::ZERO).len(), BLIND);
        assert_eq!(ring.reading(), (ReadFrom::After(id(5, BLIND as u64)), REPAIR));
        assert_eq!(push(&mut ring, 6, 401), Repair::No);
        assert!(ring.mended(ReadFrom::After(id(5, BLIND as u64)), page(&log[BLIND..])));
        assert_eq!((taken(&ring, id(5, 399)), ring.epoch()), (vec![400, 401], 0));
    }

    #[test]
    fn an_old_push_is_dropped() {
        let mut ring = whole(&[(4, 1), (5, 2)]);
        assert_eq!(push(&mut ring, 4, 1), Repair::No);
        assert!(matches!(ring.take(id(5, 2), true, 0, 100), Taken::UpToDate { closed: false }));
    }

    #[test]
    fn a_doubt_during_a_repair_makes_it_read_again() {
        let mut ring = whole(&[(4, 1)]);
        assert_eq!(ring.doubt(), Repair::Start);
        assert_eq!(ring.reading().0, ReadFrom::After(id(4, 1)));
        assert_eq!(ring.doubt(), Repair::No);
        assert!(!ring.mended(ReadFrom::After(id(4, 1)), page(&[(5, 2)])));
        assert_eq!(ring.reading().0, ReadFrom::After(id(5, 2)));
        assert!(ring.mended(ReadFrom::After(id(5, 2)), page(&[(5, 2)])));
    }

    #[test]
    fn a_deletion_during_a_repair_is_not_overwritten_by_what_was_read_before_it() {
        let mut ring = whole(&[(4, 1)]);
        assert_eq!(ring.doubt(), Repair::Start);
        assert_eq!(ring.reading().0, ReadFrom::After(id(4, 1)));
        assert_eq!(ring.replaced(), Repair::No);
        assert!(!ring.mended(ReadFrom::After(id(4, 1)), page(&[(5, 2)])));
        assert_eq!(ring.reading().0, ReadFrom::Latest);
        assert!(ring.mended(ReadFrom::Latest, page(&[])));
        assert!(matches!(ring.take(id(4, 1), true, 0, 100), Taken::Ask));
    }

    #[test]
    fn a_cursor_is_verified_not_trusted() {
        let ring = whole(&[(4, 1), (5, 2)]);
        let cursors = [(id(4, 1), true), (id(3, 1), false), (id(5, 2), true), (id(9, 2), false), (id(9, 3), false)];
        for (cursor, known) in cursors {
            assert_eq!(!matches!(ring.take(cursor, false, 0, 100), Taken::Ask), known, "{cursor}");
        }
        let cut = whole(&[(5, 7)]);
        assert!(matches!(cut.take(id(4, 6), false, 0, 100), Taken::Ask));
        assert!(matches!(cut.take(EntryId::ZERO, false, 0, 100), Taken::Ask));
    }

    #[test]
    fn a_quiet_ring_is_compared_with_the_log_for_a_newcomer() {
        let mut ring = whole(&[(4, 1)]);
        assert_eq!(ring.used(), Repair::No);
        ring.heard = Instant::now().checked_sub(2 * QUIET);
        assert_eq!(ring.used(), Repair::Start);
        // Those who have read so far wait for nothing that is there.
        assert_eq!(taken(&ring, EntryId::ZERO), [1]);
        let lost = Page { lost: Some(Lost::Deleted), ..page(&[]) };
        assert!(!ring.mended(ReadFrom::After(id(4, 1)), lost));
        assert!(ring.mended(ReadFrom::Latest, page(&[])));
        assert_eq!((ring.used(), ring.epoch()), (Repair::No, 1));
    }

    #[test]
    fn trouble_lasts_until_something_is_read() {
        let mut ring = whole(&[(4, 1)]);
        assert_eq!(ring.doubt(), Repair::Start);
        ring.failed(Instant::now(), StoreError::Unavailable("away".into()));
        assert!(ring.trouble(Duration::ZERO).is_some() && ring.trouble(QUIET).is_none());
        assert!(ring.mended(ReadFrom::After(id(4, 1)), page(&[(4, 1)])));
        assert!(ring.trouble(Duration::ZERO).is_none());
    }

    #[test]
    fn a_ring_is_bounded() {
        let mut ring = whole(&[]);
        for n in 1..=1000 {
            assert_eq!(push(&mut ring, 1, n), Repair::No);
        }
        assert!(ring.entries.len() <= ENTRIES_MAX);
        ring.push(id(1, 1001), vec![Bytes::from(vec![b'x'; 2 * BYTES_MAX])]);
        assert_eq!(ring.entries.len(), 1);
        assert!(matches!(ring.take(id(1, 500), true, 0, 100), Taken::Ask));
    }
}
