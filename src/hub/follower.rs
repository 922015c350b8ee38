//! One client's way through a lane: history, then live, then history again if it was too slow.

use std::{future::poll_fn, sync::Arc};

use tokio::time::{Duration, Instant};

use super::{
    Attachment, Item, Outlet, RETRY_MAX, RETRY_MIN,
    ring::{Repair, Ring, Taken},
    waiting::{BATCH_BYTES, Waiter},
};
use crate::{
    id::{EntryId, Lane},
    lock::lock,
    metrics::METRICS,
    pause::Pause,
    store::{self, Entry, Lost, Page, ReadFrom, StoreError},
};

/// The first page is small: its entries may be larger than those that the ring has.
const PAGE_FIRST: usize = 64;
const PAGE_MAX: usize = 2_000;
/// How large a page should be, in payload bytes; the entry size of the last page tells how many entries that is.
const PAGE_BYTES: usize = 512 * 1024;
/// A stream whose history can't be read for so long is given up; its client comes back.
pub(super) const GIVE_UP: Duration = Duration::from_secs(30);

/// Where a client begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the first entry that is there.
    Beginning,
    /// After the newest entry.
    Now,
    /// After this one.
    After(EntryId),
    /// At the beginning, after telling the client that what it holds means nothing here.
    Lost,
}

/// What happens next.
#[derive(Debug)]
pub enum Update {
    /// Entries, in order.
    Entries(Vec<Arc<Item>>),
    /// Entries, in order, that were read for this client alone.
    History(Vec<Entry>),
    /// Entries went to the outlet. Whether all of them are out is for it to say.
    Delivered,
    /// History is done, up to and with this entry.
    CaughtUp(EntryId),
    /// The cursor was not in the log; entries go on from the first that is.
    Reset {
        /// Why.
        reason: Lost,
        /// The first entry that is there.
        first: Option<EntryId>,
    },
    /// The session is closed, and everything has been read.
    Closed,
}

/// A cursor in a lane.
pub struct Follower {
    attachment: Attachment,
    lane: Lane,
    cursor: EntryId,
    /// The cursor is known to be of the ring's log, as of `epoch`.
    verified: bool,
    epoch: u64,
    /// How often repairs had read the log before the follower did so last.
    reads: u32,
    /// The ring may mirror a log that the store no longer has: it isn't relied on until a repair has compared the two.
    doubted: bool,
    /// No entry has been read yet, and a log cut at its beginning is no reason for a reset.
    from_start: bool,
    /// Something has been delivered: from here on the store's troubles are waited out.
    begun: bool,
    caught_up: bool,
    /// Takes entries while the follower waits.
    outlet: Option<Arc<dyn Outlet>>,
    /// It waits.
    waiter: Option<Arc<Waiter>>,
    /// To be said before anything else.
    pending: Option<Update>,
    /// Entries of the next page, once there has been one.
    page: u32,
}

impl Follower {
    pub(super) async fn new(attachment: Attachment, lane: Lane, start: Start) -> Result<Self, StoreError> {
        let mut compared = false;
        attachment.live.repair(lane, |ring| {
            let repair = ring.used();
            compared = repair == Repair::Start;
            repair
        });
        let mut follower = Follower {
            attachment,
            lane,
            cursor: EntryId::ZERO,
            verified: true,
            epoch: 0,
            reads: 0,
            doubted: compared,
            from_start: false,
            begun: false,
            caught_up: false,
            outlet: None,
            waiter: None,
            pending: None,
            page: 0,
        };
        (follower.epoch, follower.reads) = follower.ring(|ring| (ring.epoch(), ring.reads()));
        match start {
            Start::Beginning => follower.from_start = true,
            Start::After(cursor) => (follower.cursor, follower.verified) = (cursor, false),
            Start::Now => {
                let tail = follower.ring(Ring::tail);
                let page = follower.read(ReadFrom::Latest, 1).await?;
                follower.cursor = page.extent.last;
                follower.compare(tail, &page);
            }
            Start::Lost => {
                let tail = follower.ring(Ring::tail);
                let page = follower.read(ReadFrom::Start, 1).await?;
                follower.from_start = true;
                follower.pending = Some(Update::Reset { reason: Lost::Unknown, first: page.extent.first });
                follower.compare(tail, &page);
            }
        }
        Ok(follower)
    }

    /// The next update. An error means that the store could not be read for too long; what was delivered stands, and
    /// the client may resume. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Update, StoreError> {
        let update = self.find_next().await?;
        self.begun = true;
        Ok(update)
    }

    /// From now on this takes the entries that come while the follower waits. Others are still updates.
    pub fn deliver_to(&mut self, outlet: Arc<dyn Outlet>) {
        self.outlet = Some(outlet);
    }

    /// Whether the session is closed and nothing is left to deliver but that.
    pub fn at_end(&self) -> bool {
        self.pending.is_none() && matches!(self.look(), Taken::UpToDate { closed: true })
    }

    async fn find_next(&mut self) -> Result<Update, StoreError> {
        if let Some(update) = self.pending.take() {
            return Ok(update);
        }
        let mut asked = false;
        loop {
            if let Some(waiter) = &self.waiter {
                let cursor = poll_fn(|context| waiter.poll_over(context)).await;
                self.waiter = None;
                asked = false;
                if cursor != self.cursor {
                    self.advance(cursor);
                    return Ok(Update::Delivered);
                }
            }
            // A ring that has been whole since then matches the store's log, or has a new epoch.
            self.doubted = self.doubted && !self.ring(Ring::is_whole);
            let taken = self.look();
            let mut outlet = None;
            match taken {
                Taken::Entries(items) => {
                    if let Some(last) = items.last() {
                        self.advance(last.id);
                    }
                    return Ok(Update::Entries(items));
                }
                Taken::UpToDate { closed } => {
                    self.verified = true;
                    if !self.caught_up {
                        self.caught_up = true;
                        return Ok(Update::CaughtUp(self.cursor));
                    }
                    if closed {
                        return Ok(Update::Closed);
                    }
                    outlet = self.outlet.clone();
                }
                Taken::Ask if !asked => {
                    // Boxed: it is rare, and would make each of many idle followers larger.
                    if let Some(update) = Box::pin(self.ask()).await? {
                        return Ok(update);
                    }
                    asked = true;
                    continue;
                }
                Taken::Wait => {
                    let patience = if self.begun { GIVE_UP } else { Duration::ZERO };
                    if let Some(error) = self.ring(|ring| ring.trouble(patience).cloned()) {
                        return Err(error);
                    }
                }
                Taken::Ask => {}
            }
            let waiter = Waiter::new(self.cursor, self.epoch, outlet);
            let waiting = &self.attachment.live.feed(self.lane).waiting;
            waiting.enter(waiter.clone());
            // What came before it entered is not told to it.
            let waits = match taken {
                Taken::UpToDate { .. } => matches!(self.look(), Taken::UpToDate { closed: false }),
                Taken::Wait => matches!(self.look(), Taken::Wait),
                _ => {
                    // The store has just confirmed the cursor: then it is the ring that does not know.
                    self.attachment.live.change(self.lane, Ring::doubt);
                    true
                }
            };
            if !waits {
                waiting.leave(&waiter);
            }
            self.waiter = Some(waiter);
        }
    }

    /// What the ring has for the cursor.
    fn look(&self) -> Taken {
        self.ring(|ring| {
            if self.doubted && !ring.is_whole() {
                return Taken::Wait;
            }
            match ring.take(self.cursor, self.verified && !self.from_start, self.epoch, BATCH_BYTES) {
                // Whole, the ring ends before the cursor. If a repair has read the log since the follower did, what the
                // cursor stood for may have been lost with a failover, and no push will ever come to it.
                Taken::Wait if ring.is_whole() && ring.reads() != self.reads => Taken::Ask,
                taken => taken,
            }
        })
    }

    fn ring<T>(&self, look: impl FnOnce(&Ring) -> T) -> T {
        look(&lock(&self.attachment.live.feed(self.lane).ring))
    }

    fn advance(&mut self, to: EntryId) {
        (self.cursor, self.verified, self.from_start) = (to, true, false);
    }

    /// Reads a page from the store. `None`: there is nothing after the cursor, which is now verified.
    async fn ask(&mut self) -> Result<Option<Update>, StoreError> {
        // Before the read: if the log is replaced while it is under way, the ring's epoch will be another one.
        let (epoch, reads, tail) = self.ring(|ring| (ring.epoch(), ring.reads(), ring.tail()));
        let from = if self.from_start { ReadFrom::Start } else { ReadFrom::After(self.cursor) };
        let page = self.read_patiently(from).await?;
        METRICS.pages.add(1);
        (self.epoch, self.reads, self.verified) = (epoch, reads, true);
        self.compare(tail, &page);
        if let Some(reason) = page.lost {
            // The log begins anew for this client.
            self.caught_up = false;
            self.cursor = EntryId::ZERO;
            self.from_start = true;
            let first = page.extent.first;
            self.pending = self.entries(page);
            return Ok(Some(Update::Reset { reason, first }));
        }
        if page.entries.is_empty() && self.from_start && page.extent.last != EntryId::ZERO {
            // Everything was trimmed away; the log goes on after its last entry.
            self.advance(page.extent.last);
        }
        Ok(self.entries(page))
    }

    /// The store has been read: a ring that had more of the log before that, or another one, is to be compared with it.
    fn compare(&mut self, tail: EntryId, page: &Page) {
        let last = page.extent.last;
        let continues = last == tail || (last.n > tail.n && last.ms >= tail.ms);
        if page.lost.is_some() || !continues {
            self.attachment.live.change(self.lane, Ring::doubt);
            self.doubted = true;
        }
    }

    fn entries(&mut self, page: Page) -> Option<Update> {
        let last = page.entries.last()?.id;
        self.page = store::limit(page.entry_size(), PAGE_BYTES, PAGE_MAX) as u32;
        self.advance(last);
        Some(Update::History(page.entries))
    }

    async fn read(&self, from: ReadFrom, limit: usize) -> Result<Page, StoreError> {
        let live = &self.attachment.live;
        live.store.read(&live.session, self.lane, from, limit).await
    }

    async fn read_patiently(&self, from: ReadFrom) -> Result<Page, StoreError> {
        let (since, mut pause) = (Instant::now(), Pause::new(RETRY_MIN, RETRY_MAX));
        let limit = match self.page {
            0 => self.ring(|ring| ring.limit(PAGE_BYTES, PAGE_FIRST)),
            page => page as usize,
        };
        loop {
            match self.read(from, limit).await {
                Ok(page) => return Ok(page),
                Err(error) if !self.begun || since.elapsed() > GIVE_UP => return Err(error),
                Err(_) => pause.wait().await,
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(waiter) = &self.waiter {
            self.attachment.live.feed(self.lane).waiting.leave(waiter);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::{
        hub::{Hub, scripted::Scripted},
        store::BLIND,
    };

    fn id(ms: u64, n: u64) -> EntryId {
        EntryId { ms, n }
    }

    async fn follow(hub: &Arc<Hub>, start: Start) -> Follower {
        hub.follow(&"s".parse().unwrap(), Lane::Events, start).await.unwrap()
    }

    /// The next update that comes, if one comes.
    async fn next(follower: &mut Follower) -> Option<Update> {
        timeout(Duration::from_secs(5), follower.next()).await.ok().map(|update| update.unwrap())
    }

    /// The numbers of the entries of an update.
    fn numbers(update: Option<Update>) -> Vec<u64> {
        match update {
            Some(Update::Entries(items)) => items.iter().map(|item| item.id.n).collect(),
            Some(Update::History(page)) => page.iter().map(|entry| entry.id.n).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// A follower that has come as far as the pushes have, 90, and one that has read on to 100.
    async fn late_pushes() -> (Arc<Scripted>, Follower, Follower) {
        let (store, hub) = Scripted::new();
        store.set(|script| script.append(5, 90, 10));
        let mut behind = follow(&hub, Start::Now).await;
        assert!(matches!(next(&mut behind).await, Some(Update::CaughtUp(_))));
        store.set(|script| script.append(6, 10, 10));
        let mut ahead = follow(&hub, Start::After(id(6, 96))).await;
        assert_eq!(numbers(next(&mut ahead).await), [97, 98, 99, 100]);
        (store, behind, ahead)
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_ahead_of_the_pushes_is_told_when_a_failover_loses_what_it_has() {
        let (store, mut behind, mut ahead) = late_pushes().await;
        assert!(next(&mut ahead).await.is_none());
        // And never come: the log ends earlier now, and goes on otherwise.
        store.set(|script| {
            script.log.truncate(95);
            script.append(7, 3, 10);
        });
        store.doubt();
        assert!(matches!(next(&mut ahead).await, Some(Update::Reset { reason: Lost::Unknown, .. })));
        assert_eq!(numbers(next(&mut ahead).await).first(), Some(&1));
        assert_eq!(numbers(next(&mut behind).await), (91..=98).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_ahead_of_the_pushes_asks_no_more_than_once_for_all_of_them() {
        let (store, _behind, mut ahead) = late_pushes().await;
        let reads = store.set(|script| script.reads.len());
        for n in 91..=99 {
            store.push(n..=n);
            assert!(next(&mut ahead).await.is_none());
        }
        store.push(100..=100);
        assert!(matches!(next(&mut ahead).await, Some(Update::CaughtUp(_))));
        assert_eq!(store.set(|script| script.reads.len()), reads);
    }

    /// Follows until the live entries have come up to this number.
    async fn come(follower: &mut Follower, n: u64) {
        while follower.cursor.n < n || !follower.caught_up {
            next(follower).await.expect("an update");
        }
    }

    /// How many entries each read asked for.
    fn reads(store: &Scripted) -> Vec<usize> {
        store.set(|script| std::mem::take(&mut script.reads)).iter().map(|(_, limit)| *limit).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn small_entries_are_read_many_at_a_time() {
        let (store, hub) = Scripted::new();
        store.set(|script| script.append(5, 200, 100));
        let mut follower = follow(&hub, Start::After(id(5, 100))).await;
        come(&mut follower, 200).await;
        // The ring: its first read tells how large they are.
        assert_eq!(reads(&store), [16, 128]);
        store.set(|script| script.append(6, 512, 100));
        store.doubt();
        let mut entries = 0;
        while entries < 512 {
            entries += numbers(next(&mut follower).await).len();
        }
        // The repair, and the follower's page of what the ring has no room for.
        assert_eq!(reads(&store).first(), Some(&512));
    }

    #[tokio::test(start_paused = true)]
    async fn no_read_brings_many_large_entries() {
        let (store, hub) = Scripted::new();
        store.set(|script| script.append(5, 60, 100 * 1024));
        let mut follower = follow(&hub, Start::Beginning).await;
        come(&mut follower, 60).await;
        store.set(|script| script.append(6, 60, 100 * 1024));
        store.doubt();
        come(&mut follower, 120).await;
        let reads = reads(&store);
        assert_eq!(reads[0], BLIND);
        assert!(reads[1..].iter().all(|limit| *limit <= 5), "{reads:?}");
    }
}
