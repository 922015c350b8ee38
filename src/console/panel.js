// Runs with their state and lease, commands with their outcome, approvals that wait: what can be decided and stopped.

import { approvalBody, outcomeWords } from "./conversation.js";
import { clock, count, el, find, hue, many, say } from "./dom.js";
import { NOBODY, ended } from "./model.js";

const COMMANDS_MAX = 50;
const RUNS_MAX = 200;
const APPROVALS_MAX = 50;

export class Panel {
  #acts;
  #runs = new Map();
  #commands = new Map();
  #approvals = new Map();
  /** Somebody is at the approvals. */
  #held = false;
  #model = null;
  #control = -1;
  #parents = new Set();

  /** `acts` has `stop(run, tree)`, `steer(run)` and `decide(approval, decision)`. */
  constructor(acts) {
    this.#acts = acts;
  }

  clear() {
    for (const [views, id] of [[this.#runs, "runs"], [this.#commands, "commands"], [this.#approvals, "approvals"]]) {
      views.clear();
      find(id).replaceChildren();
    }
    this.#control = -1;
  }

  /** Once a frame; nothing is touched unless something changed. */
  update(model) {
    if (model.control === this.#control) return;
    this.#control = model.control;
    this.#model = model;
    this.#showRuns(model);
    this.#showCommands(model);
    this.#showApprovals(model);
    const over = model.live().length === 0;
    if (over && document.activeElement === find("stop-all")) rest("runs-title");
    find("stop-all").disabled = over;
  }

  /** Leases run out whether or not anything comes: once a second. */
  tick() {
    const now = Date.now();
    for (const view of this.#runs.values()) view.tick(now);
    for (const view of this.#approvals.values()) view.tick(now);
    if (this.#held && !heldNow()) this.#showApprovals(this.#model);
  }

  #showRuns(model) {
    const runs = shown(model.runs);
    this.#parents = new Set([...model.runs.values()].map((run) => run.parent));
    const focused = find("runs").contains(document.activeElement);
    sync(find("runs"), this.#runs, runs, ({ run }) => run.run, ({ run, depth }) => this.#run(run, depth));
    if (focused && !find("runs").contains(document.activeElement)) rest("runs-title");
    for (const { run } of runs) this.#runs.get(run.run).update(run);
    empty(find("runs"), runs.length, "No run yet. A run is one piece of work of one agent.");
    const left = model.runs.size - runs.length;
    more(find("runs"), left, `${many(left, "run")} not shown: ended, and older than these.`);
  }

  #run(run, depth) {
    const name = el("strong", { dir: "auto" }, run.run);
    const who = el("span", { class: "who", dir: "auto" });
    const status = el("span", { class: "status" });
    const lease = el("span", { class: "lease" });
    const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("i"));
    const stop = el("button", { type: "button", class: "stop", onclick: () => this.#acts.stop(run.run, false) }, "Stop");
    stop.setAttribute("aria-label", `Stop ${run.run}`);
    const tree = el("button", { type: "button", class: "stop", onclick: () => this.#acts.stop(run.run, true) }, "Stop tree");
    tree.setAttribute("aria-label", `Stop tree of ${run.run}`);
    const steer = el("button", { type: "button", onclick: () => this.#acts.steer(run.run) }, "Steer");
    steer.setAttribute("aria-label", `Steer ${run.run}`);
    const actions = el("span", { class: "actions" }, steer, stop, tree);
    const element = el("li", { class: "card", tabindex: "-1", "data-hue": hue(run.agent) }, el("div", { class: "head" }, name, who, status), el("div", { class: "line" }, lease, actions), bar);
    element.dataset.depth = Math.min(depth, 3);
    let current = run;
    const tick = (now) => {
      const until = current.status === "stopping" ? (current.graceUntil ?? current.leaseUntil) : current.leaseUntil;
      if (ended(current.status) || until === null || until === undefined) {
        say(lease, ended(current.status) && current.ended ? `at ${clock(current.ended)}` : "");
        bar.hidden = true;
        return;
      }
      const left = Math.max(0, until - now);
      say(lease, `${current.status === "stopping" ? "ends" : "lease"} in ${Math.ceil(left / 1000)} s`);
      bar.hidden = false;
      bar.firstChild.style.width = `${Math.min(100, (100 * left) / (current.lease_ms ?? 30_000))}%`;
    };
    const update = (now) => {
      current = now;
      element.dataset.status = now.status;
      element.dataset.hue = hue(now.agent);
      say(who, now.agent ?? NOBODY);
      say(status, now.attempt > 1 ? `${now.status} · attempt ${now.attempt}` : now.status);
      status.title = now.reason ?? "";
      const live = !ended(now.status);
      // Whoever stopped it with the keyboard goes on from here. Not to the next one's button: it might be pressed unseen.
      if (!live && actions.contains(document.activeElement)) element.focus({ preventScroll: true });
      actions.hidden = !live;
      tree.hidden = !this.#parents.has(now.run);
      tick(Date.now());
    };
    return { element, update, tick };
  }

  #showCommands(model) {
    const newest = model.commands.size - COMMANDS_MAX;
    const commands = [...model.commands.values()].filter((command, at) => command.outcome === null || at >= newest).reverse();
    sync(find("commands"), this.#commands, commands, ({ command }) => command, (command) => commandLine(command, model));
    for (const command of commands) this.#commands.get(command.command).update();
    empty(find("commands"), commands.length, "Nothing was asked yet.");
  }

  #showApprovals(model) {
    const open = [...model.approvals.values()].filter((one) => one.decision === null);
    const focused = find("approvals").contains(document.activeElement);
    this.#held = heldNow();
    const shown = waiting(open, this.#held ? this.#approvals : new Map());
    sync(find("approvals"), this.#approvals, shown, ({ approval }) => approval, (of) => this.#approval(of));
    if (focused && !find("approvals").contains(document.activeElement)) rest("approvals-title");
    say(find("approvals-count"), open.length === 0 ? "" : String(open.length));
    empty(find("approvals"), open.length, "Nothing waits for a decision.", "p");
    const left = open.length - shown.length;
    more(find("approvals"), left, `… and ${count(left)} more. They come as these are decided.`, "p");
  }

  #approval(of) {
    const left = el("span", { class: "lease" });
    const head = el("div", { class: "head" }, el("strong", { class: "who", dir: "auto" }, of.item.agent ?? of.item.run ?? NOBODY), left);
    const element = el("div", { class: "card approval", "data-hue": hue(of.item.agent) }, head, ...approvalBody(of, this.#acts.decide));
    const tick = (now) => say(left, remaining(of, now));
    tick(Date.now());
    return { element, update() {}, tick };
  }
}

/** The keyboard goes on from a heading: what it stood on is gone, or can't be pressed any more. */
function rest(title) {
  find(title).focus({ preventScroll: true });
}

function remaining(of, now) {
  const seconds = Math.max(0, Math.ceil((of.expires - now) / 1000));
  const words = seconds < 120 ? `${seconds} s` : many(Math.round(seconds / 60), "minute");
  return `else ${of.onExpiry === "approve" ? "approved" : "denied"} in ${words}`;
}

function commandLine(command, model) {
  const target = command.item.run ?? command.item.agent ?? "all";
  const decides = command.type === "decide" ? (command.data?.decision ?? "") : command.words;
  const outcome = el("span", { class: "outcome" });
  const element = el(
    "li",
    {},
    el("time", {}, clock(command.item.ms)),
    el("strong", { dir: "auto" }, command.type),
    el("span", { class: "run", dir: "auto" }, `→ ${target}`),
    el("bdi", { class: "words" }, String(decides).slice(0, 200)),
    outcome,
  );
  const update = () => {
    say(outcome, outcomeWords(command, model));
    outcome.dataset.outcome = command.outcome ?? "waiting";
    outcome.dataset.idle = command.outcome === null && model.idle;
    outcome.title = command.reason ?? "";
  };
  return { element, update, tick() {} };
}

/** Makes the children of `parent` those of `wanted`, in this order, and leaves alone what is already so. */
function sync(parent, views, wanted, keyOf, make) {
  const keys = new Set(wanted.map(keyOf));
  for (const [key, view] of views) {
    if (keys.has(key)) continue;
    view.element.remove();
    views.delete(key);
  }
  wanted.forEach((one, at) => {
    const key = keyOf(one);
    if (!views.has(key)) views.set(key, make(one));
    const { element } = views.get(key);
    if (parent.children[at] !== element) parent.insertBefore(element, parent.children[at] ?? null);
  });
}

function empty(parent, length, words, tag = "li") {
  const there = parent.querySelector(":scope > .empty");
  if (length > 0) there?.remove();
  else if (there === null) parent.append(el(tag, { class: "empty" }, words));
}

/** Says how many are left out. */
function more(parent, left, words, tag = "li") {
  const there = parent.querySelector(":scope > .more");
  if (left === 0) return there?.remove();
  const line = there ?? el(tag, { class: "more fine" });
  say(line, words);
  if (parent.lastChild !== line) parent.append(line);
}

/** Whoever points at a card, or has the keyboard on it, must not find another one in its place. */
function heldNow() {
  return find("approvals").matches(":hover, :focus-within");
}

/** The approvals there is room for: those that must stay, and the newest. */
export function waiting(open, held) {
  if (open.length <= APPROVALS_MAX) return open;
  let room = APPROVALS_MAX - open.filter(({ approval }) => held.has(approval)).length;
  const kept = new Set();
  for (const { approval } of [...open].reverse()) {
    if (held.has(approval)) kept.add(approval);
    else if (room > 0) {
      kept.add(approval);
      room -= 1;
    }
  }
  return open.filter(({ approval }) => kept.has(approval));
}

/** The runs there is room for, each after its parent: what is live and all above it, and of what has ended the newest. */
export function shown(runs) {
  const ordered = inTree(runs);
  if (ordered.length <= RUNS_MAX) return ordered;
  const kept = new Set();
  const newest = [...runs.values()].reverse();
  for (const over of [false, true]) {
    for (const run of newest) {
      if (ended(run.status) !== over || (over && kept.size >= RUNS_MAX)) continue;
      for (let at = run; at !== undefined && !kept.has(at.run); at = runs.get(at.parent)) kept.add(at.run);
    }
  }
  return ordered.filter(({ run }) => kept.has(run.run));
}

/** Runs, each after its parent. */
function inTree(runs) {
  const below = new Map();
  for (const run of runs.values()) {
    const parent = runs.has(run.parent) && run.parent !== run.run ? run.parent : null;
    if (!below.has(parent)) below.set(parent, []);
    below.get(parent).push(run);
  }
  const ordered = [];
  const waiting = [{ run: { run: null }, depth: -1 }];
  while (waiting.length > 0) {
    const at = waiting.pop();
    if (at.depth >= 0) ordered.push(at);
    for (const run of (below.get(at.run.run) ?? []).reverse()) waiting.push({ run, depth: at.depth + 1 });
  }
  return ordered;
}
