// The raw log: a list of which only the rows in sight are in the page, whatever its length.

import { clock, count, el, find, hue, say } from "./dom.js";
import { streamed } from "./streams.js";

const ROW = 26;
/** Rows above and below what can be seen, for scrolling. */
const SPARE = 8;
/** Beyond this the oldest half leaves: the gateway keeps about as many (`--max-entries`). */
const KEPT_MAX = 200_000;

export class Log {
  #entries = [];
  /** What the filter lets through; the same array where there is none. */
  #rows = this.#entries;
  #filter = "";
  #pattern = null;
  #scroller = find("log-rows");
  #sizer = el("div", { class: "sizer", role: "presentation" });
  #detail = find("log-detail");
  #pool = [];
  #selected = null;
  #following = true;
  #stale = true;
  /** So many rows have their place. A row beyond them would make the list longer, and its end look like a place further up. */
  #sized = 0;

  constructor() {
    this.#scroller.append(this.#sizer);
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#scroller.addEventListener("click", (event) => this.#clicked(event));
    this.#scroller.addEventListener("keydown", (event) => this.#key(event));
    find("log-filter").addEventListener("input", (event) => this.#setFilter(event.target.value));
    find("log-close").addEventListener("click", () => this.#select(null));
    // Also when its tab is chosen: what is not shown has no place to be scrolled to.
    new ResizeObserver(() => {
      this.#stale = true;
      this.update();
    }).observe(this.#scroller);
  }

  clear() {
    this.#entries = [];
    this.#rows = [];
    this.#setFilter(this.#filter);
    this.#select(null);
    this.#following = true;
  }

  take(entry) {
    this.#entries.push(entry);
    if (this.#rows !== this.#entries && this.#passes(entry)) this.#rows.push(entry);
    if (this.#entries.length > KEPT_MAX) {
      this.#entries = this.#entries.slice(KEPT_MAX / 2);
      this.#setFilter(this.#filter);
    }
    this.#stale = true;
  }

  /** Once a frame. */
  update() {
    if (!this.#stale) return;
    this.#stale = false;
    say(find("log-found"), this.#filter === "" ? "" : `${count(this.#rows.length)} of ${count(this.#entries.length)}`);
    this.#sized = this.#rows.length;
    this.#sizer.style.height = `${this.#sized * ROW}px`;
    if (this.#following) this.#scroller.scrollTop = this.#sized * ROW;
    this.#draw();
  }

  #passes({ type, agent, run, id, json }) {
    if (`${type} ${agent ?? ""} ${run ?? ""} ${id}`.toLowerCase().includes(this.#filter)) return true;
    const at = json.indexOf('"data":');
    if (at < 0) return false;
    // Without a copy of the data, which may be large.
    this.#pattern.lastIndex = at + 7;
    return this.#pattern.test(json);
  }

  #setFilter(text) {
    this.#filter = text.trim().toLowerCase();
    // As it stands in JSON: quotes, for one, have a stroke before them there.
    this.#pattern = new RegExp(JSON.stringify(this.#filter).slice(1, -1).replaceAll(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "gi");
    this.#rows = this.#filter === "" ? this.#entries : this.#entries.filter((entry) => this.#passes(entry));
    this.#stale = true;
    this.update();
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    if (clientHeight === 0) return;
    // Measured by what is there: more may have come since it was scrolled.
    this.#following = scrollHeight - scrollTop - clientHeight < 2 * ROW;
    this.#draw();
  }

  #draw() {
    const { scrollTop, clientHeight } = this.#scroller;
    if (clientHeight === 0) return;
    const first = Math.max(0, Math.floor(scrollTop / ROW) - SPARE);
    const last = Math.min(this.#sized, Math.ceil((scrollTop + clientHeight) / ROW) + SPARE);
    while (this.#pool.length < last - first) this.#pool.push(new Row(this.#sizer));
    while (this.#pool.length > last - first) this.#pool.pop().element.remove();
    for (let at = first; at < last; at += 1) {
      // The same element keeps a row for as long as it is in sight.
      const row = this.#pool[at % this.#pool.length];
      row.show(this.#rows[at], at, this.#rows.length, this.#rows[at] === this.#selected);
    }
    const active = this.#pool.find((row) => row.entry === this.#selected);
    if (active === undefined) this.#scroller.removeAttribute("aria-activedescendant");
    else this.#scroller.setAttribute("aria-activedescendant", active.element.id);
  }

  #clicked(event) {
    const element = event.target.closest(".row");
    const row = this.#pool.find((row) => row.element === element);
    if (row !== undefined) this.#select(row.entry);
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 20, PageUp: -20, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") this.#select(null);
    if (step === undefined || this.#rows.length === 0) return;
    event.preventDefault();
    const now = this.#selected === null ? this.#rows.length : this.#rows.indexOf(this.#selected);
    const at = Math.min(Math.max(now + step, 0), this.#rows.length - 1);
    const { scrollTop, clientHeight } = this.#scroller;
    if (at * ROW < scrollTop) this.#scroller.scrollTop = at * ROW;
    if ((at + 1) * ROW > scrollTop + clientHeight) this.#scroller.scrollTop = (at + 1) * ROW - clientHeight;
    this.#select(this.#rows[at]);
  }

  /** Shows an entry whole. */
  #select(entry) {
    this.#selected = entry;
    this.#detail.hidden = entry === null;
    if (entry !== null) {
      find("log-detail-id").textContent = entry.id;
      find("log-detail-json").textContent = pretty(entry.json);
    }
    this.#draw();
  }
}

const SHOWN_MAX = 20_000;

function pretty(json) {
  let text = json;
  try {
    text = JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    // As it is.
  }
  return text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}…` : text;
}

let made = 0;

class Row {
  entry = null;
  #at = -1;
  #n = el("span", { class: "n" });
  #time = el("span", { class: "time" });
  #type = el("span", { class: "type" });
  #who = el("bdi", { class: "who" });
  #data = el("bdi", { class: "data" });

  constructor(parent) {
    made += 1;
    this.element = el("div", { class: "row", role: "option", id: `row-${made}` }, this.#n, this.#time, this.#type, this.#who, this.#data);
    parent.append(this.element);
  }

  show(entry, at, of, selected) {
    this.element.setAttribute("aria-selected", selected ? "true" : "false");
    this.element.setAttribute("aria-setsize", of);
    if (this.entry === entry && this.#at === at) return;
    this.entry = entry;
    this.#at = at;
    this.element.setAttribute("aria-posinset", at + 1);
    this.element.style.transform = `translateY(${at * ROW}px)`;
    this.element.dataset.hue = hue(entry.agent);
    this.#n.textContent = entry.n;
    this.#time.textContent = clock(entry.ms);
    this.#type.textContent = entry.type;
    this.#who.textContent = [entry.agent, entry.run].filter(Boolean).join(" · ");
    this.#data.textContent = dataOf(entry);
  }
}

/** Longer ones are no deltas, and not worth reading for a row. */
const DELTA_MAX = 4_000;

/** The data of an entry's line: of a delta, what it adds. `data` is the last member. */
function dataOf({ type, json }) {
  const at = json.indexOf('"data":');
  if (at < 0) return "";
  const added = json.length > DELTA_MAX ? null : streamed(type, dataIn(json));
  return added === null ? json.slice(at + 7, at + 200).replace(/\}$/, "") : JSON.stringify(added);
}

function dataIn(json) {
  try {
    return JSON.parse(json).data;
  } catch {
    return null;
  }
}
