//! What is audited: how a stream is begun, how a client comes back to it, where another surface sees it, how it is
//! stopped. Addresses and bodies are templates; [`Subject`] is one stream, with what fills them.

use std::{collections::HashMap, net::IpAddr};

pub use super::gateway::Gateway;
use super::{
    gateway::Feeder,
    stream::{Place, Watching},
    template::{PLACEHOLDERS, filled, host, member, placeholders, shown_url, without_parameter},
    wire::{AuditError, Request, Wire},
};
use crate::client::random_name;

/// What is audited.
#[derive(Debug, Clone)]
pub enum Target {
    /// A gateway, with sessions of the audit's own.
    Gateway(Box<Gateway>),
    /// An endpoint that streams.
    Endpoint(Box<Endpoint>),
}

/// An endpoint that streams.
#[derive(Debug, Clone, Default)]
pub struct Endpoint {
    /// `GET`, or a method that begins something.
    pub method: String,
    /// Where streams begin.
    pub url: String,
    /// Sent with every request. Values are never shown.
    pub headers: Vec<(String, String)>,
    /// Sent with the method. Never shown.
    pub body: Option<String>,
    /// Where a client comes back, and where another surface sees the stream.
    pub resume_url: Option<String>,
    /// Other addresses of the same streams, as of another replica.
    pub surfaces: Vec<String>,
    /// How it is stopped.
    pub stop: Option<StopCall>,
    /// Where the stream's `{id}` stands.
    pub id_from: Option<IdFrom>,
}

/// The request that stops a stream.
#[derive(Debug, Clone)]
pub struct StopCall {
    /// As a rule `POST` or `DELETE`.
    pub method: String,
    /// A template.
    pub url: String,
    /// A template.
    pub body: Option<String>,
}

/// Where a stream's id stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdFrom {
    /// In a header of the answer.
    Header(String),
    /// In a member of the first JSON event that has it, `a.b` for nested ones.
    Json(String),
}

/// Why a target is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// No address.
    #[error("{0:?} is no http:// or https:// address")]
    Url(String),
    /// A template names what there is not.
    #[error(
        "{{{0}}} is nothing that a template can name: there are {{new_id}}, {{id}}, {{last_id}}, {{events}} and {{chars}}"
    )]
    Placeholder(String),
    /// `{id}` without a place to find it.
    #[error("{{id}} needs --id-from: the header or the JSON member of the answer that holds it")]
    NoId,
    /// A header or a place of the id that can't be read.
    #[error("{0}")]
    Form(String),
}

impl std::str::FromStr for IdFrom {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<IdFrom, BadTarget> {
        match text.split_once(':') {
            Some(("header", name)) if !name.is_empty() => Ok(IdFrom::Header(name.to_ascii_lowercase())),
            Some(("json", path)) if !path.is_empty() => Ok(IdFrom::Json(path.to_owned())),
            _ => Err(BadTarget::Form("it takes the form header:NAME or json:MEMBER".into())),
        }
    }
}

impl Endpoint {
    /// Checks what can be checked before anything is sent.
    pub fn check(&self) -> Result<(), BadTarget> {
        let stop_url = self.stop.iter().map(|stop| &stop.url);
        for url in std::iter::once(&self.url).chain(&self.resume_url).chain(&self.surfaces).chain(stop_url) {
            if host(url).is_none() {
                return Err(BadTarget::Url(shown_url(url)));
            }
            for name in placeholders(url) {
                if !PLACEHOLDERS.contains(&name) {
                    return Err(BadTarget::Placeholder(name.to_owned()));
                }
                if name == "id" && self.id_from.is_none() {
                    return Err(BadTarget::NoId);
                }
            }
        }
        Ok(())
    }

    /// Whether it is read, and not begun, by a request.
    pub fn is_get(&self) -> bool {
        self.method.eq_ignore_ascii_case("GET")
    }
}

impl Target {
    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Target::Gateway(_) => "moorline",
            Target::Endpoint(endpoint) if endpoint.is_get() => "sse",
            Target::Endpoint(_) => "post",
        }
    }

    /// Its address, without what may be secret in it.
    pub fn url(&self) -> String {
        match self {
            Target::Gateway(gateway) => shown_url(&gateway.url),
            Target::Endpoint(endpoint) => shown_url(&endpoint.url),
        }
    }

    /// The method that begins its streams.
    pub fn method(&self) -> &str {
        match self {
            Target::Gateway(_) => "GET",
            Target::Endpoint(endpoint) => &endpoint.method,
        }
    }

    /// Whether each stream that is begun may cost its owner something.
    pub fn costs(&self) -> bool {
        matches!(self, Target::Endpoint(endpoint) if !endpoint.is_get())
    }

    /// Whether it offers a way back after a cut.
    pub fn can_come_back(&self) -> bool {
        match self {
            Target::Gateway(_) => true,
            Target::Endpoint(endpoint) => endpoint.is_get() || endpoint.resume_url.is_some(),
        }
    }

    /// Whether each trial has a stream of its own, rather than all of them the one that is there.
    pub fn begins_anew(&self) -> bool {
        match self {
            Target::Gateway(_) => true,
            Target::Endpoint(endpoint) => !endpoint.is_get() || placeholders(&endpoint.url).contains(&"new_id"),
        }
    }

    /// Whether it can be told to stop.
    pub fn can_stop(&self) -> bool {
        match self {
            Target::Gateway(_) => true,
            Target::Endpoint(endpoint) => endpoint.stop.is_some(),
        }
    }

    /// What must not be shown, wherever it turns up.
    pub fn secrets(&self) -> Vec<&str> {
        match self {
            Target::Gateway(gateway) => gateway.token.iter().map(String::as_str).collect(),
            Target::Endpoint(endpoint) => {
                let values = endpoint.headers.iter().filter(|(name, _)| {
                    let name = name.to_ascii_lowercase();
                    ["auth", "key", "token", "cookie", "secret"].iter().any(|word| name.contains(word))
                });
                values.map(|(_, value)| value.strip_prefix("Bearer ").unwrap_or(value)).collect()
            }
        }
    }

    fn urls(&self) -> Vec<&str> {
        match self {
            Target::Gateway(gateway) => {
                std::iter::once(&gateway.url).chain(&gateway.surfaces).map(String::as_str).collect()
            }
            Target::Endpoint(endpoint) => {
                let stop = endpoint.stop.iter().map(|stop| &stop.url);
                let urls = std::iter::once(&endpoint.url).chain(&endpoint.resume_url).chain(&endpoint.surfaces);
                urls.chain(stop).map(String::as_str).collect()
            }
        }
    }

    /// Whether all of it is on this machine.
    pub(super) fn is_local(&self) -> bool {
        self.urls().iter().all(|url| {
            let host = host(url).unwrap_or_default();
            let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        })
    }

    /// Whether any of it speaks TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.urls().iter().any(|url| url.starts_with("https:"))
    }

    /// Begins a stream: what it takes to open it.
    pub(super) async fn begin(&self) -> Result<Subject<'_>, AuditError> {
        match self {
            Target::Gateway(gateway) => {
                let feeder = gateway.feed().await?;
                Ok(Subject { target: self, known: HashMap::new(), feeder: Some(feeder) })
            }
            Target::Endpoint(_) => {
                let known = HashMap::from([("new_id", random_name("audit").to_string())]);
                Ok(Subject { target: self, known, feeder: None })
            }
        }
    }

    /// Leaves nothing behind.
    pub(super) async fn tidy_up(&self) {
        if let Target::Gateway(gateway) = self {
            gateway.delete_sessions().await;
        }
    }
}

/// One stream under audit.
pub(super) struct Subject<'a> {
    target: &'a Target,
    known: HashMap<&'static str, String>,
    feeder: Option<Feeder>,
}

impl Subject<'_> {
    /// The request that opens it for the first time.
    pub fn first(&self) -> Request {
        match self.target {
            Target::Gateway(gateway) => self.gateway_events(gateway, 0),
            Target::Endpoint(endpoint) => Request {
                method: endpoint.method.clone(),
                url: self.fill(&endpoint.url, true).unwrap_or_else(|| endpoint.url.clone()),
                headers: self.headers(endpoint),
                body: endpoint.body.as_ref().and_then(|body| self.fill(body, false)),
                last_id: None,
            },
        }
    }

    /// Takes from the first answer what the templates need.
    pub async fn learn(&mut self, watching: &Watching, deadline: tokio::time::Instant) {
        let Target::Endpoint(endpoint) = self.target else { return };
        let found = match &endpoint.id_from {
            None => return,
            Some(IdFrom::Header(name)) => watching.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()),
            Some(IdFrom::Json(path)) => {
                let find = |watching: &Watching| watching.units().iter().find_map(|unit| member(&unit.data, path));
                watching.until(deadline, |watching| find(watching).is_some()).await;
                find(watching)
            }
        };
        if let Some(id) = found {
            self.known.insert("id", id);
        }
    }

    /// The request of another surface, `None` if there is no address for one.
    pub fn surface(&self, n: usize) -> Option<Request> {
        match self.target {
            Target::Gateway(gateway) => Some(self.gateway_events(gateway, n)),
            Target::Endpoint(endpoint) => {
                let own = if endpoint.is_get() { Some(&endpoint.url) } else { endpoint.resume_url.as_ref() };
                let all: Vec<&String> = endpoint.surfaces.iter().chain(own).collect();
                let url = all.get((n.max(1) - 1) % all.len().max(1))?;
                self.known_place(url, &Place::default(), endpoint)
            }
        }
    }

    /// The request of a client that comes back, `None` if there is no way.
    pub fn again(&self, place: &Place, n: usize) -> Option<Request> {
        match self.target {
            Target::Gateway(gateway) => {
                Some(Request { last_id: place.last_id.clone(), ..self.gateway_events(gateway, n) })
            }
            Target::Endpoint(endpoint) => {
                let own = endpoint.resume_url.as_ref().or(endpoint.is_get().then_some(&endpoint.url));
                let all: Vec<&String> = own.into_iter().chain(&endpoint.surfaces).collect();
                let url = all.get(n % all.len().max(1))?;
                self.known_place(url, place, endpoint)
            }
        }
    }

    /// The request that stops it, as far as that is one request.
    pub async fn stop(&self, wire: &Wire) -> Result<Option<(u16, String)>, AuditError> {
        match (self.target, &self.feeder) {
            (Target::Gateway(gateway), Some(feeder)) => gateway.stop(feeder).await.map(Some),
            (Target::Endpoint(endpoint), _) => {
                let Some(stop) = &endpoint.stop else { return Ok(None) };
                let Some(url) = self.fill(&stop.url, true) else { return Ok(None) };
                let body = stop.body.as_ref().and_then(|body| self.fill(body, false));
                let headers = self.headers(endpoint);
                wire.call(&Request { method: stop.method.clone(), url, headers, body, last_id: None }).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// What the gateway did with an append after the stop, where the audit is the agent.
    pub async fn append_after_stop(&self) -> Option<String> {
        match (self.target, &self.feeder) {
            (Target::Gateway(gateway), Some(feeder)) => gateway.append_after_stop(feeder).await,
            _ => None,
        }
    }

    fn gateway_events(&self, gateway: &Gateway, n: usize) -> Request {
        let all: Vec<&String> = std::iter::once(&gateway.url).chain(&gateway.surfaces).collect();
        let base = all[n % all.len()].trim_end_matches('/');
        let session = self.feeder.as_ref().map(|feeder| feeder.session.to_string()).unwrap_or_default();
        Request {
            method: "GET".into(),
            url: format!("{base}/v1/sessions/{session}/events"),
            headers: gateway.token.iter().map(|token| ("authorization".into(), format!("Bearer {token}"))).collect(),
            body: None,
            last_id: None,
        }
    }

    fn headers(&self, endpoint: &Endpoint) -> Vec<(String, String)> {
        let fill =
            |(name, value): &(String, String)| (name.clone(), self.fill(value, false).unwrap_or_else(|| value.clone()));
        endpoint.headers.iter().map(fill).collect()
    }

    fn known_place(&self, url: &str, place: &Place, endpoint: &Endpoint) -> Option<Request> {
        let mut known = self.known.clone();
        known.insert("events", place.events.to_string());
        known.insert("chars", place.chars.to_string());
        known.insert("last_id", place.last_id.clone().unwrap_or_default());
        // A parameter without a value may mean something else than none.
        let url = if place.last_id.is_none() { without_parameter(url, "{last_id}") } else { url.to_owned() };
        let url = filled(&url, &known, true)?;
        // What belongs to the body goes with it.
        let headers = self.headers(endpoint).into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
        Some(Request {
            method: "GET".into(),
            url,
            headers: headers.collect(),
            body: None,
            last_id: place.last_id.clone(),
        })
    }

    fn fill(&self, template: &str, escaped: bool) -> Option<String> {
        filled(template, &self.known, escaped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_t_be_sent_is_refused() {
        let endpoint = |url: &str| Endpoint { method: "GET".into(), url: url.into(), ..Endpoint::default() };
        assert_eq!(endpoint("http://h/{nonsense}").check(), Err(BadTarget::Placeholder("nonsense".into())));
        assert_eq!(endpoint("http://h/{id}").check(), Err(BadTarget::NoId));
        assert_eq!(endpoint("ftp://h").check(), Err(BadTarget::Url("ftp://h".into())));
    }
}
