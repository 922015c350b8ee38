//! What one client has read of a session, event by event, and what was wrong with it.

use std::{ops::Range, sync::atomic::AtomicU64};

use super::{
    meter::{Faults, count},
    read_event,
};
use crate::id::EntryId;

/// An event as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Came<'a> {
    pub payload: &'a [u8],
    /// Its id, where ids are Moorline's.
    pub id: Option<EntryId>,
}

pub struct Reading {
    session: usize,
    text: usize,
    /// Above all numbers that have come.
    next: u64,
    /// Numbers below that which have not come.
    gaps: Vec<Range<u64>>,
    last: Option<EntryId>,
    came: u64,
}

impl Reading {
    /// Nothing has come yet, and the first number should be `from`.
    pub fn new(session: usize, text: usize, from: u64) -> Self {
        Reading { session, text, next: from, gaps: Vec::new(), last: None, came: 0 }
    }

    /// How many events have come, each counted once.
    pub fn came(&self) -> u64 {
        self.came
    }

    /// One more than the largest number that has come.
    pub fn reached(&self) -> u64 {
        self.next
    }

    /// Takes what has come. The time at which it was due, unless it is no event of this session or came before. What never
    /// comes is for the caller to tell, who knows how many were sent.
    pub fn take(&mut self, Came { payload, id }: Came<'_>, faults: &Faults) -> Option<u64> {
        let fault = |counter: &AtomicU64| count(counter, 1);
        let Some((n, due)) = read_event(payload, self.session, self.text) else {
            fault(&faults.corrupt);
            return None;
        };
        if n >= self.next {
            if n > self.next {
                self.gaps.push(self.next..n);
            }
            self.next = n + 1;
            if let Some(id) = id {
                // Both halves of an id grow along a log, or a client would resume at another place.
                if self.last.is_some_and(|last| id.n <= last.n || id.ms < last.ms) {
                    fault(&faults.corrupt);
                }
                self.last = Some(id);
            }
        } else {
            let Some(at) = self.gaps.iter().position(|gap| gap.contains(&n)) else {
                fault(&faults.duplicated);
                return None;
            };
            let gap = self.gaps.swap_remove(at);
            self.gaps.extend([gap.start..n, n + 1..gap.end].into_iter().filter(|part| !part.is_empty()));
            fault(&faults.reordered);
        }
        self.came += 1;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{meter::Report, write_event};

    /// What is found wrong where these numbers come: came, duplicated, reordered, corrupt.
    fn found(numbers: &[u64]) -> [u64; 4] {
        let events = numbers.iter().map(|n| (*n, None));
        found_with_ids(events)
    }

    fn found_with_ids(events: impl Iterator<Item = (u64, Option<EntryId>)>) -> [u64; 4] {
        let (mut reading, faults) = (Reading::new(7, 20, 0), Faults::default());
        for (n, id) in events {
            let mut payload = Vec::new();
            write_event(&mut payload, 7, n, n * 10, 20);
            reading.take(Came { payload: &payload, id }, &faults);
        }
        let Report { duplicated, reordered, corrupt, .. } = Report::new(String::new(), &faults);
        [reading.came(), duplicated, reordered, corrupt]
    }

    #[test]
    fn a_fault_has_one_name() {
        assert_eq!(found(&[0, 1, 2, 3]), [4, 0, 0, 0]);
        assert_eq!(found(&[0, 3]), [2, 0, 0, 0], "what is lost did not come, and is nothing else");
        assert_eq!(found(&[0, 2, 1, 3]), [4, 0, 1, 0], "out of order, and not lost");
        assert_eq!(found(&[0, 1, 1, 2]), [3, 1, 0, 0]);
        assert_eq!(found(&[0, 1, 2, 3, 0]), [4, 1, 0, 0], "twice, however late");
        assert_eq!(found(&[0, 5, 3, 3, 1]), [4, 1, 2, 0]);
        assert_eq!(found(&[5, 4, 3, 2, 1, 0]), [6, 0, 5, 0]);
    }

    #[test]
    fn ids_that_do_not_grow_are_corrupt() {
        let ids = |ids: [(u64, u64); 3]| {
            let ids = ids.map(|(ms, n)| Some(EntryId { ms, n }));
            found_with_ids((0..).zip(ids))[3]
        };
        assert_eq!(ids([(1, 1), (1, 2), (2, 3)]), 0);
        assert_eq!(ids([(1, 1), (1, 1), (2, 3)]), 1);
        assert_eq!(ids([(2, 1), (1, 2), (2, 3)]), 1);
        assert_eq!(ids([(1, 1), (1, 9), (2, 3)]), 1);
    }

    #[test]
    fn what_is_of_another_session_or_was_changed_is_corrupt() {
        let mut payload = Vec::new();
        write_event(&mut payload, 7, 4, 123, 20);
        let text = String::from_utf8(payload.clone()).unwrap();
        let corrupt = |session: usize, payload: &[u8]| {
            let (mut reading, faults) = (Reading::new(session, 20, 0), Faults::default());
            reading.take(Came { payload, id: None }, &faults);
            Report::new(String::new(), &faults).corrupt
        };
        assert_eq!((corrupt(7, &payload), corrupt(8, &payload)), (0, 1));
        assert_eq!(corrupt(7, text.replace("[4,", "[5,").as_bytes()), 1, "its number");
        assert_eq!(corrupt(7, text.replace(",123,", ",124,").as_bytes()), 1, "the time at which it was due");
    }
}
