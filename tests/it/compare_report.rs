//! The report of `benches/compare` says what was measured. It needs no peers: figures are recorded, the report is written from them.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

/// Writes the report of figures, and gives the table and the plot.
fn report(figures: &Path) -> (String, String) {
    let out = tempfile::tempdir().expect("a folder");
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare/run");
    let done = Command::new("python3").arg(run).arg("--report").arg(figures).arg("--out").arg(out.path()).output();
    let done = done.expect("python3");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let read = |name: &str| fs::read_to_string(out.path().join(name)).expect(name);
    (read("compare.md"), read("compare.svg"))
}

fn measured(round: u32, server: &str, rate: f64) -> Value {
    let result = json!({"deliveries_per_second": rate, "deliveries": 1000, "cpu": {"load": 0.01, "loaded": 0.05}});
    json!({"round": round, "load": "closed", "server": server, "result": result})
}

fn server(key: &str, name: &str, has_redis: bool) -> Value {
    json!({"key": key, "name": name, "has_redis": has_redis, "store": "somewhere", "version": "1"})
}

#[test]
fn ratios_are_taken_within_rounds_and_nothing_is_left_out_in_silence() {
    let gone = json!({"key": "node", "name": "Gone", "has_redis": false, "store": "", "unavailable": "no npm"});
    let figures = json!({
        "date": "2026-11-25", "command": "benches/compare/run", "commit": "", "rounds": 3, "seconds": 5,
        "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 4, "kernel": "Linux 6", "system": "Debian"},
        "servers": [server("moorline", "Moorline", true), server("durable-streams", "Other", false), gone],
        "measured": [
            // A machine that gets slower by half in the third round: the ratio is 2 in each all the same.
            measured(0, "moorline", 20_000.0), measured(0, "durable-streams", 10_000.0),
            measured(1, "moorline", 21_000.0), measured(1, "durable-streams", 10_500.0),
            measured(2, "moorline", 10_000.0), measured(2, "durable-streams", 5_000.0),
            {"round": 3, "load": "closed", "server": "durable-streams", "failed": "it fell over"},
        ],
    });
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), figures.to_string()).expect("written");
    let (table, plot) = report(file.path());
    let row = table.lines().find(|line| line.starts_with("| 1,000 sessions")).expect("the row of the load");
    assert!(row.contains("**20,000** (10,000 – 21,000)"), "{row}");
    assert!(row.contains("**10,000** (5,000 – 10,500), failed 1 of 4 · 2×"), "{row}");
    assert!(table.contains("Moorline on Redis") && table.contains("Other, no Redis"), "{table}");
    assert!(table.contains("Gone is not in the table: no npm") && table.contains("it fell over"), "{table}");
    assert!(table.contains("| 10 + 50 |"), "CPU in µs an event: {table}");
    assert!(plot.starts_with("<svg") && plot.contains("than Other"), "{plot}");
}

#[test]
fn the_published_report_is_what_the_published_figures_say() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks");
    let (table, plot) = report(&docs.join("compare.json"));
    assert_eq!(table, fs::read_to_string(docs.join("compare.md")).expect("the table"));
    assert_eq!(plot, fs::read_to_string(docs.join("compare.svg")).expect("the plot"));
}
