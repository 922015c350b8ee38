//! What came, against what should have come. Pure.
//!
//! The reference is what an uncut connection saw. What a client saw before and after a cut is laid beside it by their
//! longest common subsequence: what fits is right; what is left over on the client's side is out of order if it is
//! missing on the other, doubled if it is not, or foreign; what is then still missing is lost. So equal events (the same
//! token twice) need no ids.

use std::collections::HashMap;

/// What became of the events that a return concerned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events that were to come after the cut.
    pub due: usize,
    /// Events of before the cut that were sent again.
    pub again: usize,
    /// Due, and never came.
    pub lost: usize,
    /// Came more than once (those sent `again` included).
    pub doubled: usize,
    /// Came, but not in their place.
    pub moved: usize,
    /// Belong to no event of the reference.
    pub foreign: usize,
    /// Came exactly once and in order.
    pub right: usize,
    /// The end was reached: one of the last events that were due arrived.
    pub to_the_end: bool,
}

impl Tally {
    /// All that the return concerned.
    pub fn concerned(&self) -> usize {
        self.due + self.again
    }
}

/// Whether a client was served well: `before` and `after` the cut, against the reference. `None` if they are not of
/// the same stream.
pub(super) fn tally(before: &[String], after: &[String], reference: &[String]) -> Option<Tally> {
    let reference = joined(before, reference)?;
    let both: Vec<&str> = before.iter().chain(after).map(String::as_str).collect();
    let whole: Vec<&str> = reference.iter().map(String::as_str).collect();
    // First what came before the cut, so that a repetition counts as one.
    let early = align(&whole, &both[..before.len()]);
    if early.len() * 10 < before.len() * 9 {
        return None;
    }
    let cut = early.last().map_or(0, |(r, _)| r + 1);
    let late = align(&whole[cut..], &both[before.len()..]);

    let mut tally = Tally { due: whole.len() - cut, ..Tally::default() };
    let mut missing: HashMap<&str, usize> = HashMap::new();
    let mut due: HashMap<&str, usize> = HashMap::new();
    let mut past: HashMap<&str, usize> = HashMap::new();
    let mut matched = vec![false; tally.due];
    late.iter().for_each(|(r, _)| matched[*r] = true);
    for (key, matched) in whole[cut..].iter().zip(&matched) {
        *due.entry(key).or_default() += 1;
        if !matched {
            *missing.entry(key).or_default() += 1;
        }
    }
    whole[..cut].iter().for_each(|key| *past.entry(key).or_default() += 1);
    let mut fits = vec![false; after.len()];
    late.iter().for_each(|(_, s)| fits[*s] = true);
    // Due events that came again. Each spoils one that was right.
    let mut spoilt: HashMap<&str, usize> = HashMap::new();
    let take = |from: &mut HashMap<&str, usize>, key: &str| match from.get_mut(key) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    };
    for (key, fits) in both[before.len()..].iter().zip(&fits) {
        if *fits {
            continue;
        }
        if take(&mut missing, key) {
            tally.moved += 1;
        } else if take(&mut past, key) {
            tally.again += 1;
            tally.doubled += 1;
        } else if due.contains_key(key) {
            tally.doubled += 1;
            *spoilt.entry(key).or_default() += 1;
        } else if whole.contains(key) {
            tally.doubled += 1;
        } else {
            tally.foreign += 1;
        }
    }
    let spoilt: usize = spoilt.iter().map(|(key, times)| (*times).min(due[key])).sum();
    tally.lost = tally.due - late.len() - tally.moved;
    tally.right = late.len().saturating_sub(spoilt);
    let slack = (tally.due / 20).max(1);
    let keys: std::collections::HashSet<&str> = both[before.len()..].iter().copied().collect();
    // The last events by place; a copy of a token elsewhere must not pass for the end where all was matched in order.
    let last = late.last().map(|(r, _)| *r);
    tally.to_the_end = last.is_some_and(|r| r + 1 + slack >= tally.due)
        || (tally.moved > 0 && whole.iter().rev().take(slack + 1).any(|key| keys.contains(key)));
    Some(tally)
}

/// The reference from the beginning of `before` on: an observer that came later gets what it missed from there.
fn joined(before: &[String], reference: &[String]) -> Option<Vec<String>> {
    let (b, r) = (strs(before), strs(reference));
    let (i, j) = *align(&b, &r).first()?;
    Some(before[..i].iter().chain(&reference[j..]).cloned().collect())
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// The places of a longest common subsequence, in order.
pub(super) fn align(a: &[&str], b: &[&str]) -> Vec<(usize, usize)> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (x, y) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);

    // Numbers compare faster than texts.
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    let mut number = |text| {
        let next = numbers.len() as u32;
        *numbers.entry(text).or_insert(next)
    };
    let x: Vec<u32> = x.iter().map(|text| number(text)).collect();
    let y: Vec<u32> = y.iter().map(|text| number(text)).collect();

    let wide = y.len() + 1;
    // The longest of what begins at (i, j). At most `UNITS_MAX` on one side, so a u16 holds it.
    let mut longest = vec![0u16; (x.len() + 1) * wide];
    for i in (0..x.len()).rev() {
        for j in (0..y.len()).rev() {
            longest[i * wide + j] = if x[i] == y[j] {
                longest[(i + 1) * wide + j + 1] + 1
            } else {
                longest[(i + 1) * wide + j].max(longest[i * wide + j + 1])
            };
        }
    }
    let mut pairs: Vec<(usize, usize)> = (0..head).map(|i| (i, i)).collect();
    let (mut i, mut j) = (0, 0);
    while i < x.len() && j < y.len() {
        if x[i] == y[j] {
            pairs.push((head + i, head + j));
            (i, j) = (i + 1, j + 1);
        } else if longest[(i + 1) * wide + j] >= longest[i * wide + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs.extend((0..tail).map(|k| (a.len() - tail + k, b.len() - tail + k)));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn judged(before: &str, after: &str, reference: &str) -> Tally {
        tally(&words(before), &words(after), &words(reference)).expect("the same stream")
    }

    #[test]
    fn a_perfect_return_is_right_in_all() {
        let tally = judged("a b the c", "the d e the", "a b the c the d e the");
        assert_eq!((tally.due, tally.right, tally.to_the_end), (4, 4, true));
        assert_eq!((tally.lost, tally.doubled, tally.moved, tally.foreign, tally.again), (0, 0, 0, 0, 0));
    }

    #[test]
    fn what_is_missing_is_lost() {
        let tally = judged("1 2", "3 4 6 7 9", "1 2 3 4 5 6 7 8 9");
        assert_eq!((tally.due, tally.lost, tally.right, tally.to_the_end), (7, 2, 5, true));
        let silent = judged("1 2", "", "1 2 3 4");
        assert_eq!((silent.due, silent.lost, silent.right, silent.to_the_end), (2, 2, 0, false));
    }

    #[test]
    fn a_lost_token_among_equal_ones_is_one_loss() {
        let tally = judged("the cat", "the mat the dog the", "the cat the the mat the dog the");
        assert_eq!((tally.lost, tally.moved, tally.doubled), (1, 0, 0));
    }

    #[test]
    fn a_replay_from_the_start_doubles_what_was_seen() {
        let tally = judged("1 2 3", "1 2 3 4 5", "1 2 3 4 5");
        assert_eq!((tally.due, tally.again, tally.doubled, tally.right, tally.lost), (2, 3, 3, 2, 0));
        assert_eq!(tally.concerned(), 5);
    }

    #[test]
    fn what_comes_twice_is_doubled_and_not_right() {
        let tally = judged("1 2", "3 3 4 5 5 6", "1 2 3 4 5 6");
        assert_eq!((tally.due, tally.doubled, tally.right, tally.again), (4, 2, 2, 0));
    }

    #[test]
    fn what_changes_places_is_out_of_order() {
        let tally = judged("1", "3 2 5 4 6", "1 2 3 4 5 6");
        assert_eq!((tally.due, tally.moved, tally.lost, tally.doubled, tally.right), (5, 2, 0, 0, 3));
    }

    #[test]
    fn another_stream_is_no_reference() {
        assert_eq!(tally(&words("a b c"), &words("d"), &words("x y z")), None);
        let foreign = judged("a b", "c x d", "a b c d");
        assert_eq!((foreign.foreign, foreign.right), (1, 2));
    }

    #[test]
    fn an_observer_that_came_later_is_completed() {
        let tally = judged("1 2 3 4", "5 6", "3 4 5 6");
        assert_eq!((tally.due, tally.right, tally.lost), (2, 2, 0));
    }
}
