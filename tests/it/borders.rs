//! The borders between modules, as `docs/ARCHITECTURE.md` draws them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What only these places under `src` may name.
const BORDERS: [(&str, &[&str]); 16] = [
    ("redis::", &["store/redis", "lib.rs", "store.rs"]),
    ("deadpool::", &["store/redis"]),
    ("axum::", &["http", "ingest"]),
    ("hyper::", &["http"]),
    ("reqwest::", &["client", "audit/wire.rs", "audit/stream.rs", "otlp"]),
    ("opentelemetry", &["otlp"]),
    ("jsonwebtoken", &["auth"]),
    ("csv::", &["desk"]),
    ("rustix::", &["descriptors.rs", "bench/resume.rs"]),
    ("crate::desk", &["desk", "cli/demo"]),
    ("crate::hub", &["hub", "http", "sse.rs"]),
    ("crate::rules", &["rules", "http", "ingest", "writer", "hub", "config.rs", "cli/serve.rs"]),
    ("crate::writer", &["http", "ingest", "hub"]),
    ("crate::sse", &["sse", "http", "hub/item.rs", "ingest", "client", "audit/stream.rs", "cli/publish"]),
    ("crate::http", &["http", "cli/demo.rs"]),
    ("crate::quota", &["http", "ingest"]),
];

#[test]
fn every_module_keeps_to_its_side() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    assert!(files.len() > 30, "the sources are elsewhere");
    for file in files {
        let place = file.strip_prefix(&src).expect("a file under src").to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).expect("a source file");
        let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let imports = imported(&code.join("\n"));
        for line in code.into_iter().chain(imports.iter().map(String::as_str)) {
            for (name, homes) in BORDERS {
                let at_home = homes.iter().any(|home| place.starts_with(home));
                // A part of a longer name is another one.
                let named = line
                    .match_indices(name)
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
                assert!(at_home || !named, "{place} names {name}: {line}");
            }
            assert!(!line.contains("unsafe "), "{place}: {line}");
        }
    }
}

/// What stands in braces behind `use crate::`, each by itself: `crate::hub`, `crate::rules`.
fn imported(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for list in code.split("use crate::{").skip(1) {
        let (mut depth, mut name) = (1, String::new());
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 1 && !matches!(c, ',' | '}') {
                name.push(c);
            } else if (depth == 0 || depth == 1 && c == ',') && !name.trim().is_empty() {
                names.push(format!("crate::{}", std::mem::take(&mut name).trim()));
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

#[test]
fn imports_in_braces_are_seen() {
    let code = "use crate::{\n    hub::{self, Start, at::{X}},\n    id::Name, sse,\n};\nuse crate::{rules};";
    assert_eq!(imported(code), ["crate::hub::", "crate::id::Name", "crate::sse", "crate::rules"]);
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
