// The conversation, as a user would see it. Only its newest part is in the page; older things are a button away. Views are
// made and brought up to date once a frame, however many events came.

import { clock, count, el, hue, many } from "./dom.js";
import { NOBODY } from "./model.js";
import { Prose, prose } from "./prose.js";

/** So many things are shown; twice as many before the oldest leave, so that they leave seldom. */
const WINDOW = 80;
/** And so many when somebody reads further up: they must not be pushed away, nor be all there is. */
const WINDOW_MAX = 320;
/** What is shown has about so many elements; twice as many before the oldest leave. One thing alone has a few hundred.
 * So many characters count as one. */
const ELEMENTS_MAX = 3_000;
const CHARACTERS = 100;
/** Of what comes at once (history), the newest so many are made first, and the others of the window bit by bit: making one
 * takes up to a millisecond, and the page must not stand still. */
const AT_ONCE = 16;
const BIT = 6;
/** A press of "show earlier" brings so many more. */
const MORE = 80;
/** Closer to the end than this, in pixels: the reader follows what comes. */
const NEAR_END = 80;
const ROWS_MAX = 200;
const COLUMNS_MAX = 50;
const CELLS_MAX = 1_000;
/** Of what is asked, so much is on a card. */
const ASKED_MAX = 20;
const ASKED_CHARACTERS = 4_000;
const ITEM_CHARACTERS = 500;
/** A date or a name is not broken. */
const SHORT = 18;
const PREVIEW_MAX = 20_000;

export class Conversation {
  #scroller;
  #list;
  #earlier;
  #latest;
  #decide;
  #views = new Map();
  #items = [];
  #model = null;
  #from = 0;
  #extra = 0;
  /** How many elements are shown, and how many of them were asked for. */
  #elements = 0;
  #extraElements = 0;
  #following = true;

  /** `decide(approval, decision)` is called for a press of a button. */
  constructor(scroller, decide) {
    this.#scroller = scroller;
    this.#decide = decide;
    this.#earlier = el("button", { type: "button", class: "quiet earlier", onclick: () => this.#showEarlier() });
    this.#earlier.hidden = true;
    this.#list = el("div", { class: "items" });
    this.#latest = el("button", { type: "button", class: "latest", onclick: () => this.toEnd() }, "Newest ↓");
    this.#latest.hidden = true;
    scroller.append(this.#earlier, this.#list, this.#latest);
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // Also when its tab is chosen: what is not shown has no place to be scrolled to.
    new ResizeObserver(() => {
      if (this.#following) scroller.scrollTop = scroller.scrollHeight;
    }).observe(scroller);
  }

  clear() {
    this.#views.clear();
    this.#list.replaceChildren();
    this.#from = 0;
    this.#extra = 0;
    this.#elements = 0;
    this.#extraElements = 0;
    this.#following = true;
    this.#earlier.hidden = true;
  }

  /** Shows the model's items as they are now. `true`: there is more to show, with the next frame. */
  update(model) {
    model.settle();
    const { items, dirty } = model;
    this.#model = model;
    this.#items = items;
    const shown = items.length - this.#from;
    if (this.#following && shown > 2 * WINDOW + this.#extra) this.#drop(items.length - WINDOW - this.#extra, items);
    if (this.#following && items.length - this.#next(items) > AT_ONCE) this.#drop(items.length - AT_ONCE, items);
    for (const item of dirty) if (this.#views.has(item)) this.#bring(this.#views.get(item));
    dirty.clear();
    const fresh = [];
    const until = this.#following ? items.length : Math.min(items.length, this.#from + WINDOW_MAX + this.#extra);
    const room = () => this.#following || this.#elements < 2 * ELEMENTS_MAX + this.#extraElements;
    for (let at = this.#next(items); at < until && room(); at += 1) fresh.push(this.#view(items, at));
    if (fresh.length > 0) this.#list.append(...fresh);
    if (this.#following) this.#thin(items);
    const short = () => this.#following && this.#from > 0 && this.#views.size < WINDOW && this.#elements < ELEMENTS_MAX;
    if (fresh.length === 0 && short()) this.#prepend(BIT, ELEMENTS_MAX);
    this.#earlier.hidden = this.#from === 0;
    if (this.#from > 0) this.#earlier.textContent = `Show earlier (${count(this.#from)})`;
    if (this.#following) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#latest.hidden = this.#following || items.length === 0;
    return short();
  }

  /** Where there are too many elements, the oldest leave. */
  #thin(items) {
    if (this.#elements <= 2 * ELEMENTS_MAX + this.#extraElements) return;
    let [from, elements] = [this.#from, this.#elements];
    while (elements > ELEMENTS_MAX + this.#extraElements && from < items.length - 1) {
      elements -= this.#views.get(items[from])?.elements ?? 0;
      from += 1;
    }
    this.#drop(from, items);
  }

  #bring(view) {
    view.update();
    this.#elements -= view.elements ?? 0;
    const { element } = view;
    view.elements = 1 + element.querySelectorAll("*").length + element.textContent.length / CHARACTERS;
    this.#elements += view.elements;
  }

  toEnd() {
    this.#following = true;
    this.#extra = 0;
    this.#extraElements = 0;
    if (this.#model !== null) this.update(this.#model);
  }

  #next(items) {
    return Math.max(this.#from, Math.min(items.length, this.#from + this.#views.size));
  }

  #drop(from, items) {
    const focused = this.#list.contains(document.activeElement);
    for (let at = this.#from; at < from; at += 1) {
      const view = this.#views.get(items[at]);
      if (view === undefined) continue;
      view.element.remove();
      this.#elements -= view.elements;
      this.#views.delete(items[at]);
    }
    if (focused && !this.#list.contains(document.activeElement)) this.#scroller.focus({ preventScroll: true });
    this.#from = from;
  }

  #showEarlier() {
    const { scrollHeight, scrollTop } = this.#scroller;
    this.#following = false;
    this.#latest.hidden = false;
    const before = this.#elements;
    const elements = this.#prepend(MORE, before + ELEMENTS_MAX);
    this.#extra += elements.length;
    this.#extraElements += this.#elements - before;
    this.#earlier.hidden = this.#from === 0;
    this.#earlier.textContent = `Show earlier (${count(this.#from)})`;
    // What was read stays where it was.
    this.#scroller.scrollTop = scrollTop + this.#scroller.scrollHeight - scrollHeight;
    (elements.at(-1) ?? this.#scroller).focus({ preventScroll: true });
  }

  /** Brings back so many, or until there are so many elements. */
  #prepend(most, room) {
    const to = Math.max(0, this.#from - most);
    const elements = [];
    while (this.#from > to && this.#elements < room) {
      this.#from -= 1;
      elements.unshift(this.#view(this.#items, this.#from));
    }
    this.#list.prepend(...elements);
    return elements;
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    if (clientHeight === 0) return;
    this.#following = scrollHeight - scrollTop - clientHeight < NEAR_END;
    this.#latest.hidden = this.#following || this.#items.length === 0;
  }

  #view(items, at) {
    const item = items[at];
    const view = VIEWS[item.kind](item, this.#decide, this.#model);
    view.element.classList.toggle("same", goesOn(items[at - 1], item));
    this.#views.set(item, view);
    this.#bring(view);
    return view.element;
  }
}

/** Kinds that need not say again who speaks. */
const SPOKEN = new Set(["message", "table", "file"]);
const PAUSE_MS = 60_000;

function goesOn(before, item) {
  if (before === undefined || !SPOKEN.has(before.kind) || !SPOKEN.has(item.kind)) return false;
  const same = before.agent === item.agent && before.run === item.run && (before.role === "user") === (item.role === "user");
  return same && item.ms - before.ms < PAUSE_MS;
}

const VIEWS = { message, table, file, note, command, approval, raw, hidden };

/** Who speaks, where, and when. */
function byline(item, more = null) {
  const time = el("time", { datetime: new Date(item.ms).toISOString() }, clock(item.ms));
  const name = el("span", { class: "who", dir: "auto" }, item.agent ?? NOBODY);
  return el("header", { class: "byline" }, name, item.run && el("span", { class: "run", dir: "auto" }, item.run), more, time);
}

function article(item, kind, ...children) {
  return el("article", { class: `item ${kind}`, "data-hue": hue(item.agent), tabindex: "-1" }, ...children);
}

function message(item) {
  const body = new Prose();
  const element = article(item, `message ${item.role}`, byline(item), body.element);
  const update = () => {
    body.show(item.text);
    element.classList.toggle("open", item.open);
  };
  return { element, update };
}

function table(item) {
  const holder = el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": item.title ?? "table" });
  const title = el("h3", { dir: "auto" });
  const note = el("p", { class: "fine", dir: "auto" });
  const element = article(item, "table", byline(item), title, holder, note);
  const update = () => {
    title.textContent = item.title ?? "";
    title.hidden = !item.title;
    const columns = item.columns.slice(0, COLUMNS_MAX);
    const rows = rowsOf(item.rows);
    const numeric = columns.map((_, at) => isNumeric(rows.map((row) => row[at])));
    const cell = (tag) => (value, at) => {
      const words = cellText(value);
      const kind = numeric[at] ? "number" : words.length <= SHORT && "short";
      return el(tag, { class: kind, scope: tag === "th" && "col", dir: "auto" }, words);
    };
    const head = el("thead", {}, el("tr", {}, ...columns.map(cell("th"))));
    const body = el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell("td")))));
    holder.replaceChildren(el("table", {}, head, body));
    const left = item.rows.length - rows.length;
    note.textContent = [item.note, left > 0 ? `${many(left, "more row")} in the log.` : ""].filter(Boolean).join(" ");
    note.hidden = note.textContent === "";
  };
  return { element, update };
}

/** The first rows that there is room for. */
function rowsOf(all) {
  const rows = [];
  let cells = 0;
  for (const row of all.slice(0, ROWS_MAX)) {
    rows.push(row.slice(0, COLUMNS_MAX));
    cells += 1 + rows.at(-1).length;
    if (cells > CELLS_MAX) break;
  }
  return rows;
}

const NUMBERS = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const NUMERIC = /^[-+−]?[$€£]?[\d.,]+\s?[%×xk]?$/;

/** A column of numbers stands to the right, with its head. */
function isNumeric(values) {
  const filled = values.filter((value) => value !== null && value !== undefined && value !== "" && value !== "–");
  return filled.length > 0 && filled.every((value) => typeof value === "number" || NUMERIC.test(cellText(value)));
}

function cellText(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return NUMBERS.format(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

function file(item) {
  const size = new Blob([item.content]).size;
  const save = el("button", { type: "button", onclick: () => download(item) }, "Download");
  save.setAttribute("aria-label", `Download ${item.name}`);
  const words = `${item.mediaType} · ${size < 1024 ? many(size, "byte") : `${count(Math.round(size / 1024))} KB`}`;
  const line = el("div", { class: "file-line" }, el("strong", { dir: "auto" }, item.name), el("span", { class: "fine" }, words), save);
  const element = article(item, "file", byline(item), line);
  if (/^text\//.test(item.mediaType)) {
    const preview = el("details", { class: "preview" }, el("summary", {}, "Preview"));
    // Made when it is first wanted.
    preview.addEventListener("toggle", () => preview.childElementCount === 1 && preview.append(shown(item)));
    element.append(preview);
  }
  return { element, update() {} };
}

function shown(item) {
  const head = item.content.slice(0, PREVIEW_MAX);
  return item.mediaType === "text/markdown" ? prose(head) : el("pre", { tabindex: "0", dir: "auto", "aria-label": item.name }, head);
}

/** Never under its own media type: a page of somebody's making must not open as one of ours. */
function download(item) {
  const url = URL.createObjectURL(new Blob([item.content], { type: "application/octet-stream" }));
  const link = el("a", { href: url, download: item.name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

const TONES = { start: "▸", stopping: "◆", completed: "✓", failed: "✕", cancelled: "■", lost: "?" };

function note(item) {
  const mark = el("span", { class: "mark", "aria-hidden": "true" }, TONES[item.tone] ?? "·");
  const words = `${item.words}${item.reason ? `: ${item.reason}` : ""}`;
  const element = article(item, "note", mark, byline(item, el("span", { class: "words", dir: "auto" }, words)));
  element.dataset.tone = item.tone;
  return { element, update() {} };
}

const SAYS = { stop: "Stop", steer: "Steer", message: "Message" };

/** What became of a command, or that nobody is there to take it. */
export function outcomeWords({ outcome }, { idle }) {
  if (outcome !== null) return outcome;
  return idle ? "no agent is at work here; it waits" : "waiting";
}

function command(item, _decide, model) {
  const { of } = item;
  const target = item.run ?? item.agent ?? "all";
  const outcome = el("span", { class: "outcome" });
  const head = el("header", { class: "byline" }, el("strong", { class: "who", dir: "auto" }, SAYS[of.type] ?? of.type), el("span", { class: "run", dir: "auto" }, `to ${target}`), outcome, el("time", { datetime: new Date(item.ms).toISOString() }, clock(item.ms)));
  const element = article(item, "command user", head, of.words === "" ? null : el("p", { class: "words", dir: "auto" }, of.words));
  const update = () => {
    outcome.textContent = `${outcomeWords(of, model)}${of.reason ? `: ${of.reason}` : ""}`;
    outcome.dataset.outcome = of.outcome ?? "waiting";
  };
  return { element, update };
}

function approval(item, decide) {
  const element = article(item, "approval", byline(item, el("span", { class: "words" }, "asks for a decision")), ...approvalBody(item.of, decide));
  const actions = element.querySelector(".actions");
  const verdict = element.querySelector(".verdict");
  return { element, update: () => showVerdict(item.of, actions, verdict) };
}

/** What is asked, what it is about, and the two answers. Also used by the panel. */
export function approvalBody(of, decide) {
  const listed = of.items.slice(0, ASKED_MAX).map((one) => el("li", { dir: "auto" }, cut(one, ITEM_CHARACTERS)));
  const left = of.items.length - ASKED_MAX;
  if (left > 0) listed.push(el("li", {}, `… and ${many(left, "more item")}, which the log has`));
  const items = listed.length === 0 ? null : el("ul", { class: "asked" }, ...listed);
  const more = of.more === "" ? null : el("pre", { class: "asked", tabindex: "0", dir: "auto", "aria-label": "What else is said" }, cut(of.more));
  const button = (decision, words) => el("button", { type: "button", class: decision, onclick: () => decide(of, decision) }, words);
  const actions = el("div", { class: "actions" }, button("approve", "Approve"), button("deny", "Deny"));
  return [el("p", { class: "words", dir: "auto" }, cut(of.words)), items, more, actions, el("p", { class: "verdict" })];
}

function cut(words, most = ASKED_CHARACTERS) {
  const left = words.length - most;
  return left <= 0 ? words : `${words.slice(0, most)} … and ${many(left, "more character")}, which the log has`;
}

export function showVerdict(of, actions, verdict) {
  const focused = actions.contains(document.activeElement);
  actions.hidden = of.decision !== null;
  verdict.hidden = of.decision === null;
  if (of.decision === null) return;
  const words = { approve: "Approved", deny: "Denied", superseded: "Nobody decided before it was over" }[of.decision] ?? of.decision;
  verdict.textContent = words + (of.expired ? ", since nobody decided in time" : "") + (of.by ? ` by ${of.by}` : "");
  verdict.dataset.decision = of.decision;
  // Whoever pressed the button with the keyboard goes on from here.
  verdict.tabIndex = -1;
  if (focused) verdict.focus({ preventScroll: true });
}

function raw(item) {
  const times = el("span", { class: "times" });
  const pairs = el("p", { class: "pairs" });
  const sample = el("code", { dir: "auto" });
  const head = byline(item, el("span", { class: "type", dir: "auto" }, item.type));
  head.lastChild.before(times);
  const element = article(item, "raw", head, pairs, sample);
  const update = () => {
    times.textContent = item.count > 1 ? `× ${count(item.count)}` : "";
    pairs.replaceChildren(...item.pairs.map(([name, value]) => el("span", {}, el("bdi", { class: "fine" }, `${name}:`), " ", el("bdi", {}, value))));
    pairs.hidden = item.pairs.length === 0;
    sample.textContent = item.sample;
    sample.hidden = item.sample === "";
  };
  return { element, update };
}

function hidden(item) {
  const element = article(item, "hidden");
  element.hidden = true;
  return { element, update() {} };
}
