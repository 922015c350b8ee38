"""Writes what was measured: compare.json (the figures), compare.md (the table), compare.svg (the plot)."""

import json
import statistics

import plot
from loads import LOADS


def number(value, figure):
    """A figure as it is written: three digits that mean something."""
    if figure.unit == "/s":
        digits = max(0, len(str(int(value))) - 3)
        return f"{round(value, -digits):,.0f}"
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


class Comparison:
    """Medians over the rounds, and ratios within each round."""

    def __init__(self, figures):
        self.figures = figures
        self.servers = figures["servers"]
        loads = {m["load"] for m in figures["measured"]}
        self.loads = [load for load in LOADS if load.key in loads]

    def outcomes(self, load, server):
        return [m for m in self.figures["measured"] if m["load"] == load.key and m["server"] == server]

    def values(self, load, figure, server):
        """By round."""
        return {m["round"]: figure.read(m["result"]) for m in self.outcomes(load, server) if "failed" not in m}

    def ratio(self, load, figure, peer):
        """How many times better Moorline is: the median of the ratios within each round."""
        ours, theirs = self.values(load, figure, "moorline"), self.values(load, figure, peer)
        both = [(ours[n], theirs[n]) for n in ours if n in theirs]
        ratios = [a / b if figure.more_is_better else b / a for a, b in both if a > 0 and b > 0]
        return statistics.median(ratios) if ratios else None

    def cell(self, load, figure, server):
        values = list(self.values(load, figure, server).values())
        outcomes = self.outcomes(load, server)
        if not outcomes:
            return "–"
        if not values:
            return "failed"
        text = f"**{number(statistics.median(values), figure)}**"
        if len(values) > 1:
            text += f" ({number(min(values), figure)} – {number(max(values), figure)})"
        if len(values) < len(outcomes):
            text += f", failed {len(outcomes) - len(values)} of {len(outcomes)}"
        return text

    def cpu(self, load, server):
        """Medians of CPU time for each event or delivery, in µs: of the load, and of the server with its Redis."""
        each = []
        for m in self.outcomes(load, server):
            result = m.get("result") or {}
            count = max(result.get("deliveries", 0), result.get("events", 0))
            if "failed" not in m and result.get("cpu") and count:
                each.append((result["cpu"]["load"] / count * 1e6, result["cpu"]["loaded"] / count * 1e6))
        return tuple(map(statistics.median, zip(*each))) if each else None


def two_digits(value):
    """Two that mean something, never as 1e+02."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def ratio_text(ratio):
    return f"{two_digits(ratio)}×"


def row(cells):
    return f"| {' | '.join(cells)} |\n"


def table(comparison):
    servers = [server for server in comparison.servers if "unavailable" not in server]
    behind = {server["key"]: " on Redis" if server["has_redis"] else ", no Redis" for server in servers}
    out = row(["", *(server["name"] + behind[server["key"]] for server in servers)])
    out += "|---" * (len(servers) + 1) + "|\n"
    for load in comparison.loads:
        for figure in load.figures:
            cells = [f"{figure.title}, {figure.unit}" if figure.unit != "/s" else f"{figure.title} a second"]
            for server in servers:
                text = comparison.cell(load, figure, server["key"])
                ratio = server["key"] != "moorline" and comparison.ratio(load, figure, server["key"])
                cells.append(f"{text} · {ratio_text(ratio)}" if ratio else text)
            out += row(cells)
    return out


def beside(comparison):
    out = ""
    for load in comparison.loads:
        if load.beside and comparison.outcomes(load, load.beside):
            figure = load.figures[0]
            ratio = comparison.ratio(load, figure, load.beside)
            out += (
                f"\nOn the ingest row: `redis-benchmark -P 32 XADD` of the same payload reached, in the same rounds, "
                f"{comparison.cell(load, figure, load.beside)} a second; "
                f"Moorline stands at {ratio:.2f} of that.\n" if ratio else ""
            )
    return out


def cpu_table(comparison):
    servers = [server for server in comparison.servers if "unavailable" not in server]
    out = row(["", *(server["name"] for server in servers)])
    out += "|---" * (len(servers) + 1) + "|\n"
    for load in comparison.loads:
        each = [comparison.cpu(load, server["key"]) for server in servers]
        if any(each):
            cells = [f"{two_digits(cpu[0])} + {two_digits(cpu[1])}" if cpu else "–" for cpu in each]
            out += row([f"`{load.arguments.split(' --seconds')[0]}`", *cells])
    return out


def failures(comparison):
    seen = {}
    for m in comparison.figures["measured"]:
        if "failed" in m:
            seen.setdefault((m["server"], m["load"], m["failed"]), []).append(m["round"])
    lines = [f"- {server}, {load}, {len(rounds)} of the rounds: {why}\n" for (server, load, why), rounds in seen.items()]
    missing = [f"- {s['name']} is not in the table: {s['unavailable']}\n" for s in comparison.servers if "unavailable" in s]
    return "".join(["\n", *missing, *lines]) if missing or lines else ""


def markdown(comparison):
    figures = comparison.figures
    machine = figures["machine"]
    commit = f", commit {figures['commit']}" if figures["commit"] else ""
    versions = "".join(
        f"- **{s['name']}**: {s['version']}{commit if s['key'] == 'moorline' else ''}; "
        f"stores in {s['store']}{'' if s['has_redis'] else ' (there is **no Redis** behind it)'}\n"
        for s in comparison.servers
        if "unavailable" not in s
    )
    return f"""# Moorline beside its peers

Written by [`benches/compare`](../../benches/compare/README.md), which says how each server is configured; not edited by hand.

`{figures["command"]}`, {figures["date"]}, {figures["rounds"]} round{"s" if figures["rounds"] > 1 else ""} of {figures["seconds"]:g} s a measurement.
{machine["cores"]} cores of {machine["cpu"]}, {machine["memory_gib"]} GiB, {machine["kernel"]}, {machine["system"]}; the server, its Redis
and the load share them, over loopback. Absolute figures move with the machine: what counts is the ratio within the run.

{versions}
In each cell: the **median** of the rounds (lowest – highest), and how many times better Moorline is: the median of the ratios
within each round, more than 1 where Moorline is faster or smaller.

{table(comparison)}{beside(comparison)}{failures(comparison)}
![Ratios](compare.svg)

## CPU

µs for each event delivered (appended, for ingest): of the load driver + of the server with its Redis.

{cpu_table(comparison)}"""


def write(figures, folder):
    comparison = Comparison(figures)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.json").write_text(json.dumps(figures, indent=1) + "\n")
    (folder / "compare.md").write_text(markdown(comparison))
    (folder / "compare.svg").write_text(plot.svg(comparison))
