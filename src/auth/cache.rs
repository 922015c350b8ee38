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

/// Tokens in a generation. At some 500 bytes each, both take about 5 MB when full.
const GENERATION: usize = 5_000;

/// Verified tokens and what they grant.
#[derive(Default)]
pub struct Seen(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Box<str>, Arc<Grant>>,
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
        if self.young.len() >= GENERATION {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(token, grant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
