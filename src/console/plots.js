// Two plots of the last minute: events a second, and how long events took to arrive.
//
// An entry's id says when the store took it, on the store's clock; it arrives on the browser's. The difference holds the
// difference of the clocks, which nobody here knows, and the way. So what is shown is how much longer an entry took than the
// fastest one seen: an entry that was as fast as that shows as 0. History is left out: its age is no latency.

import { find, say } from "./dom.js";

const SECONDS = 60;

export class Meter {
  #counts = new Float64Array(SECONDS);
  #slow = new Float64Array(SECONDS);
  #second = 0;
  #least = Infinity;
  #recent = [];

  /** An entry of that moment has arrived. */
  take(ms, now, live) {
    this.#turn(now);
    const at = this.#second % SECONDS;
    this.#counts[at] += 1;
    if (!live) return;
    const difference = now - ms;
    this.#least = Math.min(this.#least, difference);
    const took = difference - this.#least;
    this.#slow[at] = Math.max(this.#slow[at], took);
    this.#recent.push({ now, took });
  }

  /** Empties the seconds that have passed since. */
  #turn(now) {
    const second = Math.floor(now / 1000);
    const passed = Math.min(second - this.#second, SECONDS);
    for (let back = 0; back < passed; back += 1) {
      this.#counts[(second - back) % SECONDS] = 0;
      this.#slow[(second - back) % SECONDS] = -1;
    }
    if (passed > 0) this.#second = second;
  }

  /** The last minute, oldest second first, and what to say of it. */
  read(now) {
    this.#turn(now);
    while (this.#recent.length > 2_000 || (this.#recent.length > 0 && this.#recent[0].now < now - 10_000)) this.#recent.shift();
    const order = (values) => Array.from(values, (_, at) => values[(this.#second + 1 + at) % SECONDS]);
    const counts = order(this.#counts);
    const took = this.#recent.map((one) => one.took).sort((a, b) => a - b);
    const percentile = (share) => (took.length === 0 ? null : took[Math.min(took.length - 1, Math.floor(share * took.length))]);
    return { counts, slow: order(this.#slow), rate: counts.at(-2), median: percentile(0.5), p95: percentile(0.95) };
  }
}

export class Plots {
  #meter;

  constructor(meter) {
    this.#meter = meter;
  }

  draw(now) {
    const { counts, slow, rate, median, p95 } = this.#meter.read(now);
    say(find("rate"), `${rate}/s`);
    say(find("latency"), median === null ? "–" : `+${Math.round(median)} ms · 95 % +${Math.round(p95)} ms`);
    bars(find("rate-plot"), counts);
    bars(find("latency-plot"), slow.map((ms) => Math.max(ms, 0)), 20);
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
