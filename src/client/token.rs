//! Where a client's bearer token comes from, and how it gets another one when that ends.
//!
//! Tokens live for minutes, agents and dashboards for days. A token that is given once is used until it is refused; one
//! from a file or a function is asked for again whenever a stream is opened, and when a gateway answers 401: then the
//! request is sent again with what is there now. A 401 has changed nothing, so that is safe for any request.

use std::{
    fmt,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
};

use reqwest::header::HeaderValue;

use super::Error;
use crate::lock::lock;

type Asking = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// A bearer token, or where to get one. Cheap to clone; clones share what they know.
#[derive(Clone)]
pub struct Token(Arc<Source>);

struct Source {
    /// Gives the token of the moment. `None`: there is no other than the one in use.
    ask: Option<Box<dyn Fn() -> Asking + Send + Sync>>,
    in_use: Mutex<Option<HeaderValue>>,
}

impl Token {
    /// This one, as long as it lasts.
    pub fn fixed(token: &str) -> Result<Token, Error> {
        let value = header(token).map_err(Error::Token)?;
        Ok(Token(Arc::new(Source { ask: None, in_use: Mutex::new(Some(value)) })))
    }

    /// What stands in this file, white space around it aside. Replace it by renaming another file over it, before the
    /// token in it ends.
    pub fn file(path: impl Into<PathBuf>) -> Token {
        let path = path.into();
        Token::asking(move || {
            let path = path.clone();
            async move {
                let read = tokio::fs::read_to_string(&path).await;
                let token = read.map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
                match token.trim() {
                    "" => Err(format!("{} is empty", path.display())),
                    token => Ok(token.to_owned()),
                }
            }
        })
    }

    /// What this function gives, or why it has none. Where it fails the token in use is used on.
    pub fn asking<F, R>(ask: F) -> Token
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, String>> + Send + 'static,
    {
        let ask = move || Box::pin(ask()) as Asking;
        Token(Arc::new(Source { ask: Some(Box::new(ask)), in_use: Mutex::new(None) }))
    }

    /// Whether there may be another one.
    pub(super) fn renews(&self) -> bool {
        self.0.ask.is_some()
    }

    /// The one in use; the first time, it is asked for.
    pub(super) async fn current(&self) -> Result<HeaderValue, Error> {
        let in_use = self.in_use().clone();
        match in_use {
            Some(value) => Ok(value),
            None => self.renew().await,
        }
    }

    /// Asks for the token of the moment.
    pub(super) async fn renew(&self) -> Result<HeaderValue, Error> {
        let asked = match &self.0.ask {
            Some(ask) => ask().await.and_then(|token| header(&token)),
            None => Err("there is no other".into()),
        };
        let mut in_use = self.in_use();
        match (asked, &*in_use) {
            (Ok(value), _) => {
                *in_use = Some(value.clone());
                Ok(value)
            }
            // It may still do; if not, the gateway's word on it says more.
            (Err(_), Some(value)) => Ok(value.clone()),
            (Err(why), None) => Err(Error::Token(why)),
        }
    }

    fn in_use(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        lock(&self.0.in_use)
    }
}

fn header(token: &str) -> Result<HeaderValue, String> {
    let value = HeaderValue::try_from(format!("Bearer {token}"));
    let mut value = value.map_err(|_| "it has characters that no HTTP header can carry".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Never the token.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("renews", &self.renews()).finish_non_exhaustive()
    }
}
