// The time line: a lane for each agent and run, from the first entry to now. A run is a bar; the darker, the more was said.

import { clock, find, hue, say } from "./dom.js";
import { NOBODY, TICK_MS } from "./model.js";
import { colour, fitted, font } from "./plots.js";

const ROW = 25;
const AXIS = 22;
const LANES_MAX = 60;
const COLUMN = 4;
const MARKS = { command: "--stopping", approval: "--approval" };

export class Lanes {
  #canvas = find("lanes");
  #span = find("span");
  #drawn = "";

  /** Draws the lanes as they are at `now` (the newest moment there is). */
  draw(model, now, live) {
    if (this.#canvas.clientWidth === 0) return;
    const lanes = [...model.lanes.values()].slice(-LANES_MAX);
    const end = live ? Math.max(now, model.lastMs ?? now) : (model.lastMs ?? now);
    const state = `${lanes.length} ${end} ${model.lastMs} ${this.#canvas.clientWidth} ${this.#span.value} ${document.documentElement.dataset.theme} ${model.control}`;
    if (state === this.#drawn) return;
    this.#drawn = state;
    const span = Number(this.#span.value) * 1000;
    const begin = span > 0 ? end - span : (model.first ?? end);
    const height = Math.max(1, lanes.length) * ROW + AXIS;
    this.#canvas.style.height = `${height}px`;
    const { pen, width } = fitted(this.#canvas, height);
    const left = Math.min(150, Math.max(84, width * 0.16));
    const x = (ms) => left + ((ms - begin) / Math.max(1000, end - begin)) * (width - left - 10);
    this.#axis(pen, { begin, end, x, width, height, left });
    lanes.forEach((lane, at) => this.#lane(pen, lane, { y: AXIS + at * ROW, x, begin, end, left, width }));
    const names = lanes.map((lane) => nameOf(lane)).join(", ");
    const words = lanes.length === 0 ? "No agent yet" : `When each was active, ${clock(begin)} to ${clock(end)}: ${names}`;
    if (this.#canvas.getAttribute("aria-label") !== words) this.#canvas.setAttribute("aria-label", words);
    say(find("time-empty"), lanes.length === 0 ? "Each agent gets a lane here once it says something." : "");
  }

  #axis(pen, { begin, end, x, width, height, left }) {
    pen.font = font(11);
    pen.textBaseline = "middle";
    const step = stepFor((end - begin) / Math.max(2, (width - left) / 110));
    for (let ms = Math.ceil(begin / step) * step; ms <= end; ms += step) {
      pen.fillStyle = colour("--rule");
      pen.fillRect(Math.round(x(ms)), AXIS - 4, 1, height - AXIS + 4);
      pen.fillStyle = colour("--faint");
      pen.textAlign = "center";
      if (x(ms) > left + 20 && x(ms) < width - 26) pen.fillText(clock(ms), x(ms), AXIS / 2 - 2);
    }
  }

  #lane(pen, lane, { y, x, begin, end, left, width }) {
    const ink = colour(`--hue-${hue(lane.agent)}`);
    pen.textAlign = "left";
    pen.font = font(12);
    pen.fillStyle = colour("--ink");
    pen.fillText(shortened(pen, nameOf(lane), left - 10), 0, y + ROW / 2);
    pen.save();
    pen.beginPath();
    pen.rect(left, y, width - left, ROW);
    pen.clip();
    for (const { from, to, status } of lane.spans) {
      const [a, b] = [x(Math.max(from, begin)), x(to ?? end)];
      if (b < left) continue;
      pen.fillStyle = ink;
      pen.globalAlpha = 0.17;
      pen.beginPath();
      pen.roundRect(a, y + 5, Math.max(3, b - a), ROW - 10, 4);
      pen.fill();
      pen.globalAlpha = 1;
      if (to !== null) {
        pen.fillStyle = colour(status === "completed" ? "--good" : status === "cancelled" ? "--stopping" : "--bad");
        pen.fillRect(Math.max(a, b - 3), y + 5, 3, ROW - 10);
      }
    }
    pen.fillStyle = ink;
    // By columns of the picture: however many entries there are, no more is drawn than can be seen.
    const columns = new Float64Array(Math.ceil((width - left) / COLUMN));
    for (let at = lane.ticks.length - 1; at >= 0; at -= 1) {
      const { from, count } = lane.ticks[at];
      if (from + TICK_MS < begin) break;
      const column = Math.max(0, Math.floor((x(from) - left) / COLUMN));
      if (column < columns.length) columns[column] += count;
    }
    const most = Math.max(1, ...columns);
    columns.forEach((count, column) => {
      if (count === 0) return;
      const tall = 4 + (ROW - 14) * Math.sqrt(count / most);
      pen.fillRect(left + column * COLUMN, y + (ROW - tall) / 2, COLUMN - 1, tall);
    });
    for (const { ms, kind } of lane.marks) {
      if (ms < begin) continue;
      pen.fillStyle = colour(MARKS[kind]);
      pen.beginPath();
      pen.moveTo(x(ms), y + 2);
      pen.lineTo(x(ms) + 4, y + 8);
      pen.lineTo(x(ms) - 4, y + 8);
      pen.fill();
    }
    pen.restore();
  }
}

function nameOf({ agent, run }) {
  const who = agent ?? NOBODY;
  return run === null ? who : `${who} · ${run}`;
}

function shortened(pen, text, width) {
  let shown = text.length > 60 ? text.slice(0, 60) : text;
  if (shown === text && pen.measureText(shown).width <= width) return shown;
  while (shown.length > 1 && pen.measureText(`${shown}…`).width > width) shown = shown.slice(0, -1);
  return `${shown}…`;
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 86_400];

function stepFor(ms) {
  return (STEPS.find((seconds) => seconds * 1000 >= ms) ?? 7 * 86_400) * 1000;
}
