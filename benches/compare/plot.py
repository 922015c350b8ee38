"""The plot: how many times better Moorline is than each peer, one line a figure, on a logarithmic scale."""

import math
from html import escape

WIDTH, LEFT, RIGHT, TOP, LINE = 900, 230, 40, 96, 34
TICKS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300]
# Told apart by shape as well as by colour.
SHAPES = ["circle", "square", "diamond", "triangle"]

STYLE = """
  text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #24292f }
  .small { font-size: 12px; fill: #57606a }
  .title { font-size: 15px; font-weight: 600 }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  .one { stroke: #57606a; stroke-width: 1.5 }
  .peer0 { fill: #0969da } .peer1 { fill: #bc4c00 } .peer2 { fill: #8250df } .peer3 { fill: #1a7f37 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9da7b3 }
    .grid { stroke: #373e47 } .one { stroke: #9da7b3 }
    .peer0 { fill: #58a6ff } .peer1 { fill: #f0883e } .peer2 { fill: #bc8cff } .peer3 { fill: #56d364 }
  }
"""


def mark(shape, x, y, style, title):
    if shape == "circle":
        body = f'<circle cx="{x:.1f}" cy="{y}" r="6" class="{style}">'
        end = "</circle>"
    elif shape == "square":
        body = f'<rect x="{x - 5.5:.1f}" y="{y - 5.5}" width="11" height="11" class="{style}">'
        end = "</rect>"
    elif shape == "triangle":
        points = f"{x:.1f},{y - 7} {x + 7:.1f},{y + 5.5} {x - 7:.1f},{y + 5.5}"
        body = f'<polygon points="{points}" class="{style}">'
        end = "</polygon>"
    else:
        points = f"{x:.1f},{y - 7.5} {x + 7.5:.1f},{y} {x:.1f},{y + 7.5} {x - 7.5:.1f},{y}"
        body = f'<polygon points="{points}" class="{style}">'
        end = "</polygon>"
    return f"{body}<title>{escape(title)}</title>{end}\n"


def svg(comparison):
    peers = [s for s in comparison.servers if s["key"] != "moorline" and "unavailable" not in s]
    lines = []
    for load in comparison.loads:
        for figure in load.figures:
            ratios = [comparison.ratio(load, figure, peer["key"]) for peer in peers]
            if any(ratios):
                lines.append((figure, ratios))
    shown = [ratio for _, ratios in lines for ratio in ratios if ratio] or [1]
    low = max([t for t in TICKS if t <= min(0.9, *shown)] or TICKS[:1])
    high = min([t for t in TICKS if t >= max(1.1, *shown)] or TICKS[-1:])

    def at(ratio):
        place = math.log(min(max(ratio, low), high) / low) / math.log(high / low)
        return LEFT + place * (WIDTH - LEFT - RIGHT)

    height = TOP + LINE * len(lines) + 46
    bottom = height - 40
    out = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Ratios of Moorline to its peers">\n'
    out += f"<style>{STYLE}</style>\n"
    out += '<text x="12" y="24" class="title">How many times better Moorline is, by load</text>\n'
    for n, peer in enumerate(peers):
        x, y = 12 + n % 2 * 400, 46 + n // 2 * 20
        label = f"than {peer['name']}" + (" (on Redis)" if peer["has_redis"] else " (no Redis)")
        out += mark(SHAPES[n % len(SHAPES)], x + 6, y, f"peer{n % len(SHAPES)}", label)
        out += f'<text x="{x + 18}" y="{y + 4}" class="small">{escape(label)}</text>\n'
    for tick in [t for t in TICKS if low <= t <= high]:
        style = "one" if tick == 1 else "grid"
        out += f'<line x1="{at(tick):.1f}" y1="{TOP - 8}" x2="{at(tick):.1f}" y2="{bottom}" class="{style}"/>\n'
        out += f'<text x="{at(tick):.1f}" y="{bottom + 16}" text-anchor="middle" class="small">{tick:g}×</text>\n'
    out += f'<text x="{at(1) - 8:.1f}" y="{bottom + 32}" text-anchor="end" class="small">← the peer is better</text>\n'
    out += f'<text x="{at(1) + 8:.1f}" y="{bottom + 32}" class="small">Moorline is better →</text>\n'
    for n, (figure, ratios) in enumerate(lines):
        y = TOP + LINE * n + LINE // 2
        out += f'<text x="{LEFT - 16}" y="{y + 4}" text-anchor="end">{escape(figure.short)}</text>\n'
        for k, ratio in enumerate(ratios):
            if ratio:
                title = f"{figure.short}: {ratio:.2g} times {peers[k]['name']}"
                out += mark(SHAPES[k % len(SHAPES)], at(ratio), y, f"peer{k % len(SHAPES)}", title)
    return out + "</svg>\n"
