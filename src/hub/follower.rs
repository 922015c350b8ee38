//! One client's way through a lane: history, then live, then history again if it was too slow.

use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::{
    Attachment, Item, RETRY_MAX, RETRY_MIN,
    ring::{Ring, Taken},
};
use crate::{
    id::{EntryId, Lane},
    metrics::METRICS,
    store::{Entry, From, Lost, Page, StoreError},
};

/// Payload bytes in one batch of entries.
const BATCH_BYTES: usize = 64 * 1024;
/// The first page is small: its entries may be large.
const PAGE_FIRST: usize = 64;
const PAGE_MIN: usize = 4;
const PAGE_MAX: usize = 2_000;
/// How large a page should be, in payload bytes; the entry size of the last page tells how many entries that is.
const PAGE_BYTES: usize = 512 * 1024;
/// A stream whose history can't be read for so long is given up; its client comes back.
const GIVE_UP: Duration = Duration::from_secs(30);

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
    /// No entry has been read yet, and a log cut at its beginning is no reason for a reset.
    from_start: bool,
    /// Something has been delivered: from here on the store's troubles are waited out.
    begun: bool,
    caught_up: bool,
    /// To be said before anything else.
    pending: Option<Update>,
    page: usize,
}

impl Follower {
    pub(super) async fn new(attachment: Attachment, lane: Lane, start: Start) -> Result<Self, StoreError> {
        attachment.live.change(lane, Ring::used);
        let mut follower = Follower {
            attachment,
            lane,
            cursor: EntryId::ZERO,
            verified: true,
            epoch: 0,
            from_start: false,
            begun: false,
            caught_up: false,
            pending: None,
            page: PAGE_FIRST,
        };
        follower.epoch = follower.ring(Ring::epoch);
        match start {
            Start::Beginning => follower.from_start = true,
            Start::After(cursor) => (follower.cursor, follower.verified) = (cursor, false),
            Start::Now => follower.cursor = follower.read(From::Latest, 1).await?.extent.last,
            Start::Lost => {
                let first = follower.read(From::Start, 1).await?.extent.first;
                follower.from_start = true;
                follower.pending = Some(Update::Reset { reason: Lost::Unknown, first });
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

    /// Whether the session is closed and nothing is left to deliver but that.
    pub fn at_end(&self) -> bool {
        let taken = self.ring(|ring| ring.take(self.cursor, self.verified && !self.from_start, self.epoch, 1));
        self.pending.is_none() && matches!(taken, Taken::UpToDate { closed: true })
    }

    async fn find_next(&mut self) -> Result<Update, StoreError> {
        if let Some(update) = self.pending.take() {
            return Ok(update);
        }
        let mut asked = false;
        loop {
            let feed = self.attachment.live.feed(self.lane);
            // Made before the look at the ring: what is pushed from here on completes it, polled or not.
            let news = feed.news.notified();
            let verified = self.verified && !self.from_start;
            let taken = super::lock(&feed.ring).take(self.cursor, verified, self.epoch, BATCH_BYTES);
            match taken {
                Taken::Entries(items) => {
                    drop(news);
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
                }
                Taken::Wait => {}
                Taken::Ask if asked => {
                    // The store has just confirmed the cursor: then it is the ring that does not know.
                    asked = false;
                    self.attachment.live.change(self.lane, Ring::doubt);
                }
                Taken::Ask => {
                    drop(news);
                    // Boxed: it is rare, and would make each of many idle followers larger.
                    if let Some(update) = Box::pin(self.ask()).await? {
                        return Ok(update);
                    }
                    asked = true;
                    continue;
                }
            }
            // Here alone, for the same reason.
            news.await;
        }
    }

    fn ring<T>(&self, look: impl FnOnce(&Ring) -> T) -> T {
        look(&super::lock(&self.attachment.live.feed(self.lane).ring))
    }

    fn advance(&mut self, to: EntryId) {
        (self.cursor, self.verified, self.from_start) = (to, true, false);
    }

    /// Reads a page from the store. `None`: there is nothing after the cursor, which is now verified.
    async fn ask(&mut self) -> Result<Option<Update>, StoreError> {
        // Before the read: if the log is replaced while it is under way, the ring's epoch will be another one.
        let epoch = self.ring(Ring::epoch);
        let from = if self.from_start { From::Start } else { From::After(self.cursor) };
        let page = self.read_patiently(from).await?;
        METRICS.pages.add(1);
        (self.epoch, self.verified) = (epoch, true);
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

    fn entries(&mut self, page: Page) -> Option<Update> {
        let last = page.entries.last()?.id;
        let bytes: usize = page.entries.iter().map(|entry| entry.payload.len()).sum();
        self.page = (PAGE_BYTES / (bytes / page.entries.len()).max(1)).clamp(PAGE_MIN, PAGE_MAX);
        self.advance(last);
        Some(Update::History(page.entries))
    }

    async fn read(&self, from: From, limit: usize) -> Result<Page, StoreError> {
        let live = &self.attachment.live;
        live.store.read(&live.session, self.lane, from, limit).await
    }

    async fn read_patiently(&self, from: From) -> Result<Page, StoreError> {
        let (since, mut pause) = (Instant::now(), RETRY_MIN);
        loop {
            match self.read(from, self.page).await {
                Ok(page) => return Ok(page),
                Err(error) if !self.begun || since.elapsed() > GIVE_UP => return Err(error),
                Err(_) => tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await,
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}
