//! The numbers as Prometheus reads them (text format 0.0.4): every name, and what it means.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, prometheus_text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};

use super::{Appended, Asked, BOUNDS_US, Counter, Cut, Histogram, METRICS, StoreErrors, process};
use crate::{id::Lane, store::Lost};

/// What the numbers are served as.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// What is known of the gateway itself.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// The kind of its store.
    pub store: &'static str,
    /// It has been told to end.
    pub draining: bool,
}

/// Codes of problems that an operator is to be alerted to: there from the start, for a rate sees no growth in a series that begins
/// with its first count.
const ALERTED: [&str; 2] = ["internal", "store_fault"];

/// All numbers as they stand.
pub fn text(about: About) -> String {
    let mut registry = Registry::with_prefix("moorline");
    registry.register_collector(Box::new(Gateway(about)));
    let mut text = String::with_capacity(16 * 1024);
    // Writing to a string does not fail.
    let _ = prometheus_text::encode(&mut text, &registry);
    let mut registry = Registry::with_prefix("process");
    registry.register_collector(Box::new(Process));
    let _ = prometheus_text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Gateway(About);

impl Collector for Gateway {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let (mut out, m) = (Out(encoder), &METRICS);

        let help = "Always 1; the labels say what runs here";
        out.gauge("build_info", help, &[("version", env!("CARGO_PKG_VERSION")), ("store", self.0.store)], 1.0)?;
        out.gauge("draining", "1 once the process has been told to end", &[], self.0.draining.into())?;

        let appends = Appended::ALL.map(|how| (how.label(), &m.appends[how as usize]));
        out.counters("appends", "Appends that were answered, by what became of them", "result", appends)?;
        let help = "From the arrival of an append at the session's writer to its answer";
        out.histograms("append_duration_seconds", help, "", [("", &m.append_time)])?;
        let help = "Entries that this replica put into the log";
        out.counters("entries", help, "lane", Lane::ALL.map(|lane| (lane.as_str(), &m.entries[lane.index()])))?;
        let help = "Commits that happened; one takes all that came in while the one before it was under way";
        out.counter("commits", help, &m.commits)?;
        let help = "Commits that found another control state or time, and were decided anew";
        out.counter("commit_conflicts", help, &m.conflicts)?;

        out.counter("deliveries", "Entries handed to clients' connections", &m.deliveries)?;
        let help = "From an entry's commit (the store's clock, in whole milliseconds) to its being handed to the \
                    connection of a client that was up to date; up to 1 ms too long";
        out.histograms("delivery_duration_seconds", help, "", [("", &m.delivery_time)])?;
        let help = "Sessions that somebody follows through this replica";
        out.gauge("live_sessions", help, &[], m.live_sessions.get())?;
        out.gauge(
            "streams",
            "Open streams that clients and agents read; bodies that agents send without end are none",
            &[],
            m.streams.get(),
        )?;
        out.counter("catch_up_pages", "Pages of history read for streams", &m.pages)?;
        out.counter("repairs", "Reads that made sure of what pushes may have missed", &m.repairs)?;
        let resets = Lost::ALL.map(|why| (why.as_str(), &m.resets[why as usize]));
        out.counters("resets", "Clients told that their place in the log is lost", "reason", resets)?;
        let help = "Connections cut since the client took nothing for too long";
        out.counter("slow_client_cuts", help, &m.slow_cuts)?;
        let help = "Streams cut for their clients to resume: this replica ends, it can't read the store, or the token has expired";
        out.counters("stream_cuts", help, "reason", Cut::ALL.map(|why| (why.label(), &m.stream_cuts[why as usize])))?;

        let help = "From a question to the store to its answer, or to the end of patience";
        let times = Asked::ALL.map(|what| (what.label(), &m.store_time[what as usize]));
        out.histograms("store_duration_seconds", help, "op", times)?;
        let help = "Questions that the store did not answer, or not as it should";
        let StoreErrors { unavailable, unconfirmed, denied, fault } = &m.store_errors;
        let errors = [("unavailable", unavailable), ("unconfirmed", unconfirmed), ("denied", denied), ("fault", fault)];
        out.counters("store_errors", help, "kind", errors)?;
        let help = "1 while pushes from the store arrive, 0 while streams wait for it";
        out.gauge("subscribed", help, &[], m.subscribed.get())?;
        let help = "How often the subscription to the store was lost";
        out.counter("subscription_losses", help, &m.subscription_losses)?;
        let help = "How far this machine's clock is ahead of the store's; durations of deliveries allow for it";
        out.gauge("clock_ahead_seconds", help, &[], m.clock_ahead.get() / 1e6)?;

        out.gauge("connections", "Open HTTP connections", &[], m.connections.get())?;
        out.counter("connections_accepted", "HTTP connections accepted so far", &m.accepted)?;
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let answers = std::array::from_fn::<_, 5, _>(|class| (classes[class], &m.answers[class]));
        out.counters("http_answers", "Answers, by the class of their status", "status", answers)?;
        let mut problems = m.problems.get();
        for code in ALERTED {
            problems.entry(code).or_default();
        }
        let problems = problems.iter().map(|(code, count)| (*code, *count));
        out.counted("problems", "Answers that were a problem, by its code", "code", problems)
    }
}

#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        let Some(process) = process::look() else { return Ok(()) };
        let (started, resident) = (process.start_time_seconds, process.resident_bytes);
        out.gauge("start_time_seconds", "When the process started, since 1970", &[], started)?;
        out.gauge("resident_memory_bytes", "Memory that the process holds", &[], resident)?;
        out.gauge("open_fds", "Open file descriptors", &[], process.open_fds)?;
        out.gauge("max_fds", "How many file descriptors the process may have open", &[], process.max_fds)?;
        out.seconds("cpu_seconds", "Processor time that the process has used", process.cpu_seconds)
    }
}

/// Writes families of series.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn counter(&mut self, name: &str, help: &str, counter: &Counter) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter(&counter.get(), NO_EXEMPLAR)
    }

    fn seconds(&mut self, name: &str, help: &str, seconds: f64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter(&seconds, NO_EXEMPLAR)
    }

    /// One series a value of the label.
    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        counters: [(&str, &Counter); N],
    ) -> fmt::Result {
        self.counted(name, help, label, counters.into_iter().map(|(value, counter)| (value, counter.get())))
    }

    fn counted<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        counts: impl Iterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in counts {
            family.encode_family(&[(label, value)])?.encode_counter(&count, NO_EXEMPLAR)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        match labels {
            [] => family.encode_gauge(&value),
            labels => family.encode_family(&labels)?.encode_gauge(&value),
        }
    }

    /// One series a value of the label; none where the label has no name.
    fn histograms<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        histograms: [(&str, &Histogram); N],
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (value, histogram) in histograms {
            let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(histogram.counts()).collect();
            // Summed up here, so that the count is that of the buckets although they change meanwhile.
            let (sum, count) = (histogram.sum_seconds(), buckets.iter().map(|(_, count)| count).sum());
            match label {
                "" => family.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?,
                _ => {
                    let labels = [(label, value)];
                    let mut series = family.encode_family(&labels)?;
                    series.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                }
            }
        }
        Ok(())
    }
}

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;
