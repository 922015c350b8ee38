// Two plots of the last minute: events a second, and how long events took to arrive.
//
// An entry's id says when the store took it, on the store's clock; it arrives on the browser's. The difference holds the
// difference of the clocks, which nobody here knows, and the way. So what is shown is how much longer an entry took than the
// fastest one seen: an entry that was as fast as that shows as 0. History is left out: its age is no latency.

import { find, say } from "./dom.js";

const SECONDS = 60;

/** A number for each of the last so many seconds. */
class Ring {
  #values = new Float64Array(SECONDS);
  #newest = 0;

  /** Empties the seconds up to this one. */
  turn(second) {
    const passed = Math.min(second - this.#newest, SECONDS);
    for (let back = 0; back < passed; back += 1) this.#values[(second - back) % SECONDS] = 0;
    this.#newest = Math.max(this.#newest, second);
  }

  change(second, to) {
    this.turn(second);
    if (second > this.#newest - SECONDS) this.#values[second % SECONDS] = to(this.#values[second % SECONDS]);
  }

  /** Oldest first. The newest second is not over: it is left out. */
  read() {
    return Array.from({ length: SECONDS - 1 }, (_, at) => this.#values[(this.#newest + 1 + at) % SECONDS]);
  }
}

/** Latencies that are kept to tell the median of. */
const RECENT = 2_000;

export class Meter {
  #written = new Ring();
  #slowest = new Ring();
  #least = Infinity;
  #recent = [];

  /** An entry of this moment of the store's clock has arrived. */
  take(ms, now, live) {
    // By when it was written: what is caught up after a cut fills the minute where it belongs.
    this.#written.change(Math.floor(ms / 1000), (count) => count + 1);
    if (!live) return;
    this.#least = Math.min(this.#least, now - ms);
    const took = now - ms - this.#least;
    this.#slowest.change(Math.floor(now / 1000), (most) => Math.max(most, took));
    this.#recent.push({ now, took });
    // Nobody reads it while the page is hidden.
    if (this.#recent.length >= 2 * RECENT) this.#recent.splice(0, RECENT);
  }

  /** The last minute; `ahead` is the store's clock against ours. */
  read(now, ahead) {
    this.#written.turn(Math.floor((now + ahead) / 1000));
    this.#slowest.turn(Math.floor(now / 1000));
    const from = this.#recent.findIndex((one) => one.now > now - 10_000);
    this.#recent = from < 0 ? [] : this.#recent.slice(Math.max(from, this.#recent.length - RECENT));
    const took = this.#recent.map((one) => one.took).sort((a, b) => a - b);
    const percentile = (share) => (took.length === 0 ? null : took[Math.min(took.length - 1, Math.floor(share * took.length))]);
    const counts = this.#written.read();
    return { counts, slow: this.#slowest.read(), rate: counts.at(-1), median: percentile(0.5), p95: percentile(0.95) };
  }
}

export class Plots {
  #meter;

  constructor(meter) {
    this.#meter = meter;
  }

  draw(now, ahead) {
    const { counts, slow, rate, median, p95 } = this.#meter.read(now, ahead);
    say(find("rate"), `${rate}/s`);
    say(find("latency"), median === null ? "–" : `+${Math.round(median)} ms, p95 +${Math.round(p95)} ms`);
    bars(find("rate-plot"), counts);
    bars(find("latency-plot"), slow, 20);
  }
}

/** Sets a canvas to the size and sharpness it is shown with. */
export function fitted(canvas, height = canvas.clientHeight) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

const colours = new Map();

/** A colour of the style sheet, as a canvas understands it: what stands there depends on the theme. */
export function colour(name) {
  if (!colours.has(name)) {
    const probe = document.createElement("i");
    probe.hidden = true;
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    colours.set(name, getComputedStyle(probe).color);
    probe.remove();
  }
  return colours.get(name);
}

/** The theme has changed. */
export const forgetColours = () => colours.clear();

let family = null;

export function font(pixels) {
  family ??= getComputedStyle(document.body).fontFamily;
  return `${pixels}px ${family}`;
}

function bars(canvas, values, least = 1) {
  const { pen, width, height } = fitted(canvas);
  if (width === 0) return;
  const most = Math.max(least, ...values);
  const step = width / values.length;
  pen.fillStyle = colour("--rule");
  pen.fillRect(0, height - 1, width, 1);
  pen.fillStyle = colour("--accent");
  values.forEach((value, at) => {
    if (value <= 0) return;
    const tall = Math.max(1.5, (value / most) * (height - 3));
    pen.fillRect(at * step + 0.5, height - tall, Math.max(1, step - 1), tall);
  });
}
