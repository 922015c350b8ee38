"""The report of benches/growth: tables, and curves on a logarithmic axis."""

import math
from html import escape

WIDTH, PANEL, LEFT, RIGHT, TOP = 900, 250, 64, 24, 56
STYLE = """
  text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #24292f }
  .small { font-size: 12px; fill: #57606a }
  .title { font-size: 15px; font-weight: 600 }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  polyline { fill: none; stroke-width: 2.5 }
  .line0 { stroke: #0969da } .line1 { stroke: #bc4c00; stroke-dasharray: 7 4 }
  .dot0 { fill: #0969da } .dot1 { fill: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9da7b3 } .grid { stroke: #373e47 }
    .line0 { stroke: #58a6ff } .line1 { stroke: #f0883e } .dot0 { fill: #58a6ff } .dot1 { fill: #f0883e }
  }
"""


def panel(top, title, unit, points, lines):
    """One plot: `lines` are (key, label) of the points' values."""
    xs = [point["x"] for point in points]
    most = max(point[key] for point in points for key, _ in lines)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if most / step <= 5)
    high = step * math.ceil(most / step)
    bottom = top + PANEL - 40

    def at(x, y):
        across = math.log(x / xs[0]) / math.log(xs[-1] / xs[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), bottom - y / high * (PANEL - 40 - TOP)

    out = f'<text x="12" y="{top + 20}" class="title">{escape(title)}</text>\n'
    for n, (_, label) in enumerate(lines):
        x = 12 + 400 * n
        out += f'<circle cx="{x + 6}" cy="{top + 36}" r="5" class="dot{n}"/>'
        out += f'<text x="{x + 18}" y="{top + 40}" class="small">{escape(label)}</text>\n'
    for tick in range(0, high + 1, step):
        y = at(xs[0], tick)[1]
        out += f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" class="grid"/>'
        out += f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" class="small">{tick} {unit if tick == high else ""}</text>\n'
    for x in xs:
        out += f'<text x="{at(x, 0)[0]:.1f}" y="{bottom + 18}" text-anchor="middle" class="small">{x:,}</text>\n'
    for n, (key, label) in enumerate(lines):
        places = [at(point["x"], point[key]) for point in points]
        out += f'<polyline class="line{n}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>\n'
        for point, (x, y) in zip(points, places):
            tip = f"{label}: {point[key]:.3g} at {point['x']:,}"
            out += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="dot{n}"><title>{escape(tip)}</title></circle>\n'
    return out


def svg(figures):
    height = 2 * PANEL + 10
    out = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Cost per event as sessions and clients grow">\n'
    out += f"<style>{STYLE}</style>\n"
    out += panel(0, "CPU time for each event, by live sessions (a client each)", "µs", figures["sessions"],
                 [("gateway_us", "gateway"), ("redis_us", "Redis")])
    out += panel(PANEL + 6, "CPU time of the gateway for each delivery, by clients of one session", "µs", figures["clients"],
                 [("gateway_us", "gateway")])
    return out + "</svg>\n"


def ms(value):
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)])


def write(figures, folder):
    sessions = [[f"{p['x']:,}", f"{p['gateway_us']:.0f}", f"{p['redis_us']:.0f}", ms(p["p50_ms"]), ms(p["p99_ms"]), f"{p['connections']:.0f}"]
                for p in figures["sessions"]]
    clients = [[f"{p['x']:,}", f"{p['rate']:,}", f"{p['gateway_us']:.1f}", f"{p['commands']:.2f}", ms(p["p50_ms"]), ms(p["p99_ms"]), f"{p['connections']:.0f}"]
               for p in figures["clients"]]
    storm = [[f"{p['clients']:,.0f} of {p['sessions']:,.0f} sessions", ms(p["first_half_ms"]), ms(p["all_ms"]), f"{p['reads_per_session']:.2g}", f"{p['peak_kb_per_client']:.1f}"]
             for p in figures["storm"]]
    stalled = figures["stalled"]
    text = f"""# How Moorline grows, and what pressure does to it

Written by `benches/growth/run`; not edited by hand. `{figures['command']}`, {figures['date']}, Moorline {figures['version']}. Gateway,
Redis and load share two cores, over loopback: the curves matter, not the figures. Medians of the rounds.

![Curves](growth.svg)

## Sessions

2,000 events a second, whatever the number of live sessions with a client each. CPU time in µs for each event, latency in ms. Of the
connections at most 16 read pages; they open when streams begin side by side, and stay.

{table(["sessions", "gateway µs", "Redis µs", "p50", "p99", "Redis connections"], sessions)}

## Clients of one session

At most 500 events a second, and about 20,000 deliveries: with more clients, fewer events. CPU time of the gateway for each
*delivery* (an event has a cost of its own, which few clients share); commands of Redis for each *event* (HMGET, XADD, HSET, and
pages read), which are the same however many watch.

{table(["clients", "events/s", "gateway µs", "Redis commands", "p50", "p99", "Redis connections"], clients)}

## Clients that read nothing

A tenth of the clients open a stream and read nothing of it (with the smallest receive buffer). `{stalled['load']}`: p99 of the others
**{ms(stalled['with_ms'])} ms**, without such clients {ms(stalled['without_ms'])} ms; median of the ratios of neighbouring runs **{stalled['ratio']:.2f}** (all:
{', '.join(map(str, stalled['ratios']))}).

## A resume storm

All clients follow a replica that is killed (SIGKILL), and come at once, with cursors 50 entries old, to its neighbour, which followed none
of their sessions. Time from the kill until half and until all have caught up, in ms; pages that the neighbour reads from Redis for each
session (the last one as the load deletes it at the end); its peak memory for each client, in KB.

{table(["clients", "half", "all", "reads a session", "peak KB a client"], storm)}
"""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "growth.md").write_text(text)
    (folder / "growth.svg").write_text(svg(figures))
