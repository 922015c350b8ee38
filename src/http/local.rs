//! A gateway on loopback that asks for no token is for those who sit at this machine, and for no page that their browser
//! shows. A page of another site can send some requests without asking (a POST without a body), and, by a name that it lets
//! lead to 127.0.0.1, all of them. Both say so: in `Origin`, and in `Host`.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, Request, StatusCode, header};

use super::Problem;
use crate::config::Cors;

/// What such a gateway refuses, and what it does not.
#[derive(Debug, Clone, Default)]
pub struct Local {
    origins: Vec<String>,
}

/// A request that was not meant for this gateway, or not by who sits here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// It came by another name than this machine's.
    Host,
    /// It was made by a page of another origin.
    Origin,
}

impl Local {
    /// One whose pages of other origins are these.
    pub fn new(cors: Option<&Cors>) -> Self {
        Local { origins: cors.map(|cors| cors.origins.clone()).unwrap_or_default() }
    }

    /// Whether a request is a stranger's.
    pub fn judge<B>(&self, request: &Request<B>) -> Option<Stranger> {
        // Probes and scrapers ask by all kinds of names, and what they are told opens nothing.
        let open = ["/v1/", "/console"];
        let asks = open.iter().any(|path| request.uri().path().starts_with(path));
        if asks { self.judge_head(request.method(), request.headers()) } else { None }
    }

    fn judge_head(&self, method: &Method, headers: &HeaderMap) -> Option<Stranger> {
        // Every browser says which host it means; what does not is none.
        let host = headers.get(header::HOST)?.to_str().unwrap_or_default();
        if !is_this_machine(host) {
            return Some(Stranger::Host);
        }
        // What a page may read is for CORS to say.
        let origin = headers.get(header::ORIGIN).filter(|_| !method.is_safe())?.to_str().unwrap_or_default();
        // By whichever scheme: something on this machine may speak TLS before it.
        let own = origin.split_once("://").is_some_and(|(_, origin)| origin.eq_ignore_ascii_case(host));
        let allowed = self.origins.iter().any(|allowed| allowed == "*" || allowed == origin);
        (!own && !allowed).then_some(Stranger::Origin)
    }
}

/// Whether a `Host` is a name of this machine that nobody else can give an address to.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    match name.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

impl Stranger {
    /// What it is told.
    pub fn problem(self) -> Problem {
        let open = "without keys this gateway answers this machine only; ask for tokens (see --auth-secret-file), or say \
                    --insecure-no-auth if something in front of it lets only the right people through";
        match self {
            Stranger::Host => Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "wrong_host",
                format!("the request is for another host than localhost; {open}"),
            ),
            Stranger::Origin => Problem::new(
                StatusCode::FORBIDDEN,
                "wrong_origin",
                format!("a page of another origin made this request; name its origin (see --cors-origin); {open}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_local_gateway_knows_its_own() {
        let origins = vec!["http://localhost:5173".into()];
        let cors = Cors { origins, credentials: false, max_age: Duration::ZERO };
        let local = Local::new(Some(&cors));
        let judge = |method: Method, host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
            headers.extend(origin.map(|origin| (header::ORIGIN, HeaderValue::from_static(origin))));
            local.judge_head(&method, &headers)
        };
        for host in ["localhost", "LocalHost.:4770", "127.0.0.1:4770", "127.9.9.9", "[::1]:4770", "a.localhost:1"] {
            assert_eq!(judge(Method::GET, host, None), None, "{host}");
        }
        for host in ["evil.example:4770", "localhost.evil.example", "10.0.0.1", "[::2]", "127.0.0.1.evil.example", ""] {
            assert_eq!(judge(Method::GET, host, None), Some(Stranger::Host), "{host}");
        }
        for (origin, stranger) in [
            ("http://localhost:4770", None),
            ("https://localhost:4770", None),
            ("http://localhost:5173", None),
            ("http://localhost:4771", Some(Stranger::Origin)),
            ("https://evil.example", Some(Stranger::Origin)),
            ("null", Some(Stranger::Origin)),
        ] {
            assert_eq!(judge(Method::POST, "localhost:4770", Some(origin)), stranger, "{origin}");
            assert_eq!(judge(Method::GET, "localhost:4770", Some(origin)), None, "{origin}");
        }
        assert_eq!(local.judge_head(&Method::POST, &HeaderMap::new()), None);
    }
}
