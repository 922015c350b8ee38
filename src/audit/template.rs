//! Addresses and bodies as templates: what fills them, where it is found, and how much of an address may be shown.

use std::collections::HashMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// What stays as it is in a filled address.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':');

/// What templates may name.
pub(super) const PLACEHOLDERS: [&str; 5] = ["new_id", "id", "last_id", "events", "chars"];

/// A template with its placeholders filled; `None` if one is not known. Braces around anything else stay: bodies are
/// JSON.
pub(super) fn filled(template: &str, known: &HashMap<&'static str, String>, escaped: bool) -> Option<String> {
    let mut out = template.to_owned();
    for name in PLACEHOLDERS {
        let mark = format!("{{{name}}}");
        if out.contains(&mark) {
            let value = known.get(name)?;
            let value = if escaped { utf8_percent_encode(value, PLAIN).to_string() } else { value.clone() };
            out = out.replace(&mark, &value);
        }
    }
    Some(out)
}

pub(super) fn placeholders(url: &str) -> Vec<&str> {
    url.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name)).collect()
}

pub(super) fn without_parameter(url: &str, value: &str) -> String {
    let Some((path, query)) = url.split_once('?') else { return url.to_owned() };
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.ends_with(&format!("={value}"))).collect();
    if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }
}

/// A member of a JSON text, by its path.
pub(super) fn member(text: &str, path: &str) -> Option<String> {
    let value: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    match path.split('.').try_fold(&value, |value, name| value.get(name))? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(super) fn host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = match host.rfind(']') {
        Some(end) => &host[..=end],
        None => host.split(':').next().unwrap_or_default(),
    };
    (!host.is_empty()).then_some(host)
}

/// An address as it may be shown: without user, password and the values of its query.
pub fn shown_url(url: &str) -> String {
    let (url, query) =
        url.split('#').next().unwrap_or_default().split_once('?').map_or((url, None), |(u, q)| (u, Some(q)));
    let url = match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", authority.rsplit('@').next().unwrap_or_default())
        }
        None => url.to_owned(),
    };
    let value_hidden = |pair: &str| match pair.split_once('=') {
        Some((name, value)) if value.starts_with('{') && value.ends_with('}') => format!("{name}={value}"),
        Some((name, _)) => format!("{name}=…"),
        None => "…".to_owned(),
    };
    match query {
        Some(query) => format!("{url}?{}", query.split('&').map(value_hidden).collect::<Vec<_>>().join("&")),
        None => url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_their_secrets() {
        assert_eq!(shown_url("https://me:pw@h.example:8/a/b?key=s3cret&x"), "https://h.example:8/a/b?key=…&…");
        assert_eq!(shown_url("http://h/{new_id}?after={last_id}#x"), "http://h/{new_id}?after={last_id}");
        assert_eq!(shown_url("http://h"), "http://h");
    }

    #[test]
    fn templates_are_filled_or_refused() {
        let known = HashMap::from([("new_id", "a b".to_owned())]);
        assert_eq!(filled("http://h/{new_id}", &known, true).unwrap(), "http://h/a%20b");
        assert_eq!(filled("{\"id\":\"{new_id}\",\"x\":{}}", &known, false).unwrap(), "{\"id\":\"a b\",\"x\":{}}");
        assert_eq!(filled("{id}", &known, true), None);
        assert_eq!(without_parameter("http://h/?a={last_id}&b=1", "{last_id}"), "http://h/?b=1");
    }

    #[test]
    fn ids_are_found_in_nested_members() {
        assert_eq!(member("{\"a\":{\"b\":7}}", "a.b").as_deref(), Some("7"));
        assert_eq!(member("start {\"messageId\":\"m\"}", "messageId").as_deref(), Some("m"));
        assert_eq!(member("x", "a"), None);
    }
}
