"""What is measured: the loads, and the figures that are read from the result of each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    key: str
    title: str
    # For the plot.
    short: str
    unit: str
    # Where it stands in the JSON of `moorline bench`, and what to divide it by.
    path: tuple
    scale: float
    more_is_better: bool

    def read(self, result):
        value = result
        for name in self.path:
            value = value[name]
        return value / self.scale


@dataclass(frozen=True)
class Load:
    """One run of `moorline bench`."""

    key: str
    # Arguments of `moorline bench`; {seconds} is filled in.
    arguments: str
    figures: tuple
    # Keys of the servers that have nothing of the kind.
    not_for: tuple = ()
    # Only the processes that hold the clients' connections are watched: their memory is what counts.
    watch_frontend_only: bool = False
    # The number of nginx processes that is best for it, of 1 and 2.
    nchan_workers: int = 2
    # Measured beside Moorline instead of a server: what `redis-benchmark` reaches with the same events.
    beside: str = ""


def rate(key, title, short, path):
    return Figure(key, title, short, "/s", (path,), 1, more_is_better=True)


def latency(key, title, short, quantile):
    return Figure(key, title, short, "ms", ("delivery", quantile), 1, more_is_better=False)


EVERYONE_ELSE = ("nchan", "durable-streams", "durable-streams-unsynced", "durable-streams-node")

LOADS = (
    Load(
        "closed",
        "tokens --sessions 1000 --clients 1 --publishers 64 --seconds {seconds}",
        (
            rate(
                "closed",
                "1,000 sessions × 1 client, closed loop, 64 publishers: events end to end",
                "1,000 × 1, events end to end",
                "deliveries_per_second",
            ),
        ),
    ),
    Load(
        "paced",
        "tokens --sessions 1000 --clients 1 --publishers 64 --rate 3000 --seconds {seconds}",
        (
            latency("paced-p50", "the same at 3,000 events/s: latency p50", "1,000 × 1 at 3,000/s, p50", "p50_ms"),
            latency("paced-p99", "… p99", "1,000 × 1 at 3,000/s, p99", "p99_ms"),
        ),
    ),
    Load(
        "fan-out",
        "tokens --sessions 50 --clients 10 --publishers 16 --seconds {seconds}",
        (
            rate(
                "fan-out",
                "50 sessions × 10 clients, closed loop, 16 publishers: deliveries",
                "50 × 10, deliveries",
                "deliveries_per_second",
            ),
        ),
    ),
    Load(
        "broadcast",
        "broadcast --clients 1000 --publishers 1 --rate 20 --seconds {seconds}",
        (
            latency("broadcast-p50", "1 session × 1,000 clients at 20 events/s: latency p50", "1 × 1,000 at 20/s, p50", "p50_ms"),
            latency("broadcast-p99", "… p99", "1 × 1,000 at 20/s, p99", "p99_ms"),
        ),
    ),
    Load(
        "idle",
        "idle --sessions 100 --clients 50 --seconds 1",
        (
            Figure(
                "idle",
                "resident memory for each idle client, of 5,000",
                "memory for an idle client",
                "KB",
                ("bytes_per_client",),
                1000,
                more_is_better=False,
            ),
        ),
        watch_frontend_only=True,
        # Two would both count the memory that they share.
        nchan_workers=1,
    ),
    Load(
        "replay",
        "replay --events 20000 --seconds {seconds}",
        (rate("replay", "replay of 20,000 events to one client: events", "replay of 20,000 events", "deliveries_per_second"),),
        nchan_workers=1,
    ),
    Load(
        "ingest",
        "ingest --sessions 200 --seconds {seconds}",
        (rate("ingest", "200 agents stream NDJSON: events into Redis", "200 streams of NDJSON", "events_per_second"),),
        not_for=EVERYONE_ELSE,
        beside="redis-benchmark",
    ),
)


def event_bytes(text=20):
    """The bytes of an event as `moorline bench` writes them, about (see src/bench.rs)."""
    return len('{"type":"b","data":[12345,1234567,""]}') + text
