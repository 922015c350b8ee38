//! The console: one page that watches and steers a session, with what it is made of. The files of `src/console/` are part
//! of the program and are served as they are; the page itself asks the ordinary interface, with the token of its user.
//!
//! It shows what agents wrote, which anybody may have made up. It builds no HTML from text; the policy here is the second
//! line: no script or style but these files, no request but to this gateway, no page that frames it.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::{
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{Problem, Route, unknown_path};

/// `trusted-types 'none'` makes the browser itself refuse every place where text would become HTML or a script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the console.
struct Asset {
    name: &'static str,
    media_type: &'static str,
    text: &'static str,
}

macro_rules! asset {
    ($name:literal, $media_type:expr) => {
        Asset { name: $name, media_type: $media_type, text: include_str!(concat!("../console/", $name)) }
    };
}

const PAGE: Asset = asset!("index.html", HTML);

const ASSETS: &[Asset] = &[
    asset!("console.css", CSS),
    asset!("mark.svg", SVG),
    asset!("api.js", JS),
    asset!("connection.js", JS),
    asset!("conversation.js", JS),
    asset!("dom.js", JS),
    asset!("lanes.js", JS),
    asset!("ledger.js", JS),
    asset!("log.js", JS),
    asset!("main.js", JS),
    asset!("markdown.js", JS),
    asset!("model.js", JS),
    asset!("panel.js", JS),
    asset!("plain.js", JS),
    asset!("plots.js", JS),
    asset!("prose.js", JS),
    asset!("sse.js", JS),
    asset!("streams.js", JS),
    asset!("tabs.js", JS),
    asset!("tell.js", JS),
    asset!("theme.js", JS),
];

/// The lines of the route table that a gateway with a console has more. They are open: there is nothing in them that is
/// not in the source.
pub fn routes() -> Vec<Route> {
    let route = |path, answer| Route { method: Method::GET, path, needs: &[], answer };
    vec![
        route("/", get(lead)),
        route("/console", get(page)),
        // Before the page's own links are resolved.
        route("/console/", get(lead)),
        route("/console/{file}", get(asset)),
    ]
}

/// Whoever types the gateway's address wants to see something.
async fn lead() -> Response {
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/console")]).into_response()
}

async fn page(headers: HeaderMap) -> Response {
    PAGE.answer(&headers)
}

async fn asset(headers: HeaderMap, uri: Uri) -> Result<Response, Problem> {
    let file = uri.path().strip_prefix("/console/");
    match ASSETS.iter().find(|asset| Some(asset.name) == file) {
        Some(asset) => Ok(asset.answer(&headers)),
        None => Err(unknown_path(uri).await),
    }
}

impl Asset {
    /// The file, or 304 if the browser has it. It asks each time: a new version of the program is a new console at once.
    fn answer(&self, asked: &HeaderMap) -> Response {
        let tag = self.tag();
        let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let known = known.flat_map(|list| list.split(',')).any(|known| known.trim().trim_start_matches("W/") == tag);
        let mut answer = if known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, self.media_type)], self.text).into_response()
        };
        let headers = answer.headers_mut();
        for (name, value) in [
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        answer
    }

    /// Stands for the text, the same on every replica of a version.
    fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.text.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }
}
