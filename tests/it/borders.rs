//! The borders between modules, as `docs/ARCHITECTURE.md` draws them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What only these places under `src` may name.
const BORDERS: [(&str, &[&str]); 11] = [
    ("redis::", &["store/redis", "lib.rs", "store.rs"]),
    ("deadpool::", &["store/redis"]),
    ("axum::", &["http", "ingest.rs"]),
    ("hyper::", &["http"]),
    ("reqwest::", &["client", "audit/wire.rs", "audit/stream.rs", "otlp"]),
    ("opentelemetry", &["otlp"]),
    ("jsonwebtoken", &["auth"]),
    ("csv::", &["desk"]),
    ("crate::desk", &["desk", "cli/demo"]),
    ("crate::hub", &["hub", "http", "sse.rs", "lib.rs"]),
    ("crate::rules", &["rules", "http", "ingest.rs", "writer.rs", "hub.rs", "config.rs", "cli/serve.rs"]),
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
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
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
