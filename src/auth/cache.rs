//! The tokens that were found good.
//!
//! Two generations instead of a list of uses: what is asked for moves to the young one; when that is full it becomes the
//! old one, and what nobody asked for meanwhile is forgotten. So it is bounded and costs a look or two.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex},
};

use super::Grant;
use crate::lock::lock;

/// Tokens in a generation, and bytes of them; usual ones, of some 400 bytes, reach both. With what they grant, both
/// generations then take some 7 MB. A grant is made of its token's text and takes more than that only where it names many
/// sessions by very short names, then up to ten times as much: so it is 50 MB at the very worst.
const GENERATION: usize = 5_000;
const GENERATION_BYTES: usize = 2 * 1024 * 1024;

/// Verified tokens and what they grant.
#[derive(Default)]
pub struct Seen(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Box<str>, Arc<Grant>>,
    /// The length of all tokens in `young`.
    bytes: usize,
    old: HashMap<Box<str>, Arc<Grant>>,
}

impl Seen {
    /// What a token grants, if it was verified before. It may have expired since.
    pub fn get(&self, token: &str) -> Option<Arc<Grant>> {
        let mut all = lock(&self.0);
        if let Some(grant) = all.young.get(token) {
            return Some(grant.clone());
        }
        let (token, grant) = all.old.remove_entry(token)?;
        all.add(token, grant.clone());
        Some(grant)
    }

    /// Remembers a token.
    pub fn put(&self, token: &str, grant: &Arc<Grant>) {
        lock(&self.0).add(token.into(), grant.clone());
    }
}

impl Generations {
    fn add(&mut self, token: Box<str>, grant: Arc<Grant>) {
        if self.young.len() >= GENERATION || self.bytes + token.len() > GENERATION_BYTES {
            self.old = mem::take(&mut self.young);
            self.bytes = 0;
        }
        let length = token.len();
        // Two requests may bring a new token at once.
        if self.young.insert(token, grant).is_none() {
            self.bytes += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::TOKEN_MAX;

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let (seen, grant) = (Seen::default(), Arc::new(Grant::default()));
        seen.put("used", &grant);
        seen.put("unused", &grant);
        for n in 0..3 * GENERATION {
            seen.put(&format!("other {n}"), &grant);
            assert!(seen.get("used").is_some());
        }
        assert!(seen.get("unused").is_none());
        let all = seen.0.lock().unwrap();
        assert!(all.young.len() + all.old.len() <= 2 * GENERATION);
    }

    #[test]
    fn however_long_the_tokens_are_they_take_only_so_many_bytes() {
        let (seen, grant) = (Seen::default(), Arc::new(Grant::default()));
        for n in 0..3 * GENERATION_BYTES / TOKEN_MAX {
            let token = format!("{n:0TOKEN_MAX$}");
            seen.put(&token, &grant);
            seen.put(&token, &grant);
            assert!(seen.get(&token).is_some());
        }
        let all = seen.0.lock().unwrap();
        let bytes = |tokens: &HashMap<Box<str>, _>| tokens.keys().map(|token| token.len()).sum::<usize>();
        assert_eq!(bytes(&all.young), all.bytes);
        assert!(all.bytes <= GENERATION_BYTES && bytes(&all.old) <= GENERATION_BYTES);
        assert!(bytes(&all.old) > GENERATION_BYTES - TOKEN_MAX);
    }
}
