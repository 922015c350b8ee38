// What a session's events mean: entries in, and out come the conversation, runs, commands, approvals and lanes. It knows no
// page; views look at what is `dirty` once a frame. The conventions are in docs/CONSOLE.md. Whatever does not keep to them
// is shown as it came, so no event can break this.

import { parseId } from "./ledger.js";
import { members, plain, question, text, written } from "./plain.js";
import { frame, messageOf, streamed } from "./streams.js";

/** How an agent without a name is called. */
export const NOBODY = "(no agent)";

/** Lanes are no finer than this. */
export const TICK_MS = 200;
/** Beyond this the oldest half leaves the lane. */
const TICKS_MAX = 50_000;

export class Model {
  constructor() {
    this.clear();
  }

  /** Forgets all; also what a `reset` asks for. */
  clear() {
    /** The conversation, in the order in which things began. */
    this.items = [];
    /** Items that look different since a view last asked. */
    this.dirty = new Set();
    /** By run's name. */
    this.runs = new Map();
    this.commands = new Map();
    this.approvals = new Map();
    /** By agent and run: when it was active. */
    this.lanes = new Map();
    this.agents = new Set();
    this.first = null;
    this.lastMs = null;
    this.lastN = 0;
    /** Counts changes of runs, commands and approvals. */
    this.control = 0;
    /** Counts what the log said of runs: then their leases are worth a question. */
    this.said = 0;
    /** What a screen reader is told; what agents ask for, apart, for none of it may be left out. */
    this.news = [];
    this.asked = [];
    /** No run is live: what is asked waits. */
    this.idle = true;
    this.#streams = new Map();
    this.#consecutive = new Map();
    this.#tables = new Map();
    this.#writing = new Map();
  }

  #streams;
  #consecutive;
  #tables;
  #writing;

  /** What comes without an id after this is another message. */
  #pause(entry) {
    const message = this.#consecutive.get(speaker(entry));
    if (message === undefined) return;
    this.#consecutive.delete(speaker(entry));
    this.#rest(message, false);
  }

  #rest(message, open) {
    if (message.open === open) return;
    message.open = open;
    this.dirty.add(message);
  }

  /** Takes an entry; `json` is its data line. Gives what a log shows of it. */
  take(id, json) {
    const { ms, n } = parseId(id);
    let event;
    try {
      event = JSON.parse(json);
    } catch {
      event = {};
    }
    const type = text(event?.type) ?? "message";
    const agent = text(event?.agent);
    const run = text(event?.run);
    const entry = { id, ms, n, type, agent, run, data: event?.data };
    this.first ??= ms;
    this.lastMs = ms;
    this.lastN = n;
    if (agent !== null) this.agents.add(agent);
    this.#lane(entry);
    this.#mean(entry);
    return { id, n, ms, type, agent, run, json };
  }

  #mean(entry) {
    const { type, data } = entry;
    const known = EVENTS[type];
    // Anything else, and a `message`, may be of a model's stream, posted as it came.
    const streams = known === undefined || known === proto.message;
    const part = streams ? frame(type, data) : null;
    if (part === "ping") return;
    if (part === "begin") return this.#pause(entry);
    if (part === "end") return this.#finish(entry);
    const more = streams ? streamed(type, data) : null;
    if (more !== null) return this.#delta(entry, more);
    this.#pause(entry);
    (known ?? raw).call(this, entry);
  }

  /** What the gateway says the session's control state is: leases, above all, stand in no log. */
  takeState(state) {
    const skew = state.now - Date.now();
    for (const given of state.runs ?? []) {
      const run = this.#run(given.run);
      // An older answer must not undo what the log has said since.
      if (run.attempt > given.attempt || (run.attempt === given.attempt && ended(run.status))) continue;
      Object.assign(run, given);
      run.leaseUntil = given.lease_until === undefined ? null : given.lease_until - skew;
      run.graceUntil = given.grace_ms === undefined ? null : Date.now() + given.grace_ms;
    }
    for (const given of state.pending_approvals ?? []) {
      const approval = this.approvals.get(given.approval);
      if (approval !== undefined) approval.expires = given.expires - skew;
    }
    if (this.lastN >= parseId(state.lanes?.events?.last ?? "0-0").n) this.#trimmed(state, skew);
    this.control += 1;
  }

  /** What waits although the log begins after it: it can still be decided and seen. */
  #trimmed(state, skew) {
    const approvals = new Map((state.pending_approvals ?? []).map((given) => [given.approval, given]));
    const commands = new Map((state.pending_commands ?? []).map((given) => [given.command, given]));
    for (const [known, waiting] of [[this.approvals, approvals], [this.commands, commands]]) {
      for (const [name, one] of known) if (one.trimmed && !waiting.has(name)) known.delete(name);
    }
    const item = (given, of) => this.#add({ id: "0-0", n: 0, ms: given.issued ?? state.now, agent: given.agent ?? null, run: given.run ?? null }, { kind: "hidden", of });
    for (const [name, given] of approvals) {
      if (this.approvals.has(name)) continue;
      const words = "What is asked is no longer in the log.";
      const approval = { approval: name, words, items: [], more: "", expires: given.expires - skew, onExpiry: given.on_expiry, decision: null, trimmed: true };
      approval.item = item(given, approval);
      this.approvals.set(name, approval);
    }
    for (const [name, given] of commands) {
      if (this.commands.has(name)) continue;
      const command = { command: name, type: given.type, words: "(no longer in the log)", outcome: null, reason: null, trimmed: true };
      command.item = item(given, command);
      this.commands.set(name, command);
    }
  }

  /** Looks whether anybody is at work; what waits says so. Once a frame. */
  settle() {
    const idle = this.live().length === 0;
    if (idle === this.idle) return;
    this.idle = idle;
    for (const command of this.commands.values()) if (command.outcome === null) this.dirty.add(command.item);
  }

  live() {
    return [...this.runs.values()].filter((run) => !ended(run.status) && run.status !== "expected");
  }

  #run(name) {
    let run = this.runs.get(name);
    if (run === undefined) {
      run = { run: name, agent: null, parent: null, attempt: 0, status: "expected", leaseUntil: null, graceUntil: null };
      this.runs.set(name, run);
    }
    return run;
  }

  #lane(entry) {
    // What is said about a run belongs to whoever does it.
    const agent = entry.agent ?? this.runs.get(entry.run)?.agent ?? null;
    const key = speaker({ agent, run: entry.run });
    const about = entry.type.startsWith("command.") || entry.type.startsWith("approval.");
    let lane = this.lanes.get(key);
    if (lane === undefined) {
      if (about || (agent === null && entry.run === null)) return;
      lane = { key, agent, run: entry.run, ticks: [], spans: [], marks: [], last: entry.ms };
      this.lanes.set(key, lane);
    }
    lane.last = entry.ms;
    if (about) {
      if (entry.type === "command.issued" || entry.type === "approval.requested") {
        lane.marks.push({ ms: entry.ms, kind: entry.type === "command.issued" ? "command" : "approval" });
      }
      return;
    }
    const from = entry.ms - (entry.ms % TICK_MS);
    const newest = lane.ticks.at(-1);
    if (newest?.from === from) newest.count += 1;
    else lane.ticks.push({ from, count: 1 });
    if (lane.ticks.length > TICKS_MAX) lane.ticks.splice(0, TICKS_MAX / 2);
    if (entry.type === "run.started") lane.spans.push({ from: entry.ms, to: null, status: "running" });
    if (entry.type === "run.stopping" && lane.spans.length > 0) lane.spans.at(-1).status = "stopping";
    if (entry.type === "run.ended" && lane.spans.length > 0) {
      Object.assign(lane.spans.at(-1), { to: entry.ms, status: text(entry.data?.status) ?? "ended" });
    }
  }

  #add(entry, item) {
    Object.assign(item, { id: entry.id, n: entry.n, ms: entry.ms, agent: entry.agent, run: entry.run });
    this.items.push(item);
    this.dirty.add(item);
    return item;
  }

  // --- what each type of event does ---------------------------------------------------------------------------------

  #delta(entry, more) {
    // The first of a stream often says nothing yet.
    if (more === "") return;
    const name = messageOf(entry.type, entry.data);
    const open = name === null ? this.#consecutive : this.#streams;
    const key = name === null ? speaker(entry) : `${speaker(entry)}\n${name}`;
    let message = open.get(key);
    if (message === undefined) {
      message = this.#add(entry, { kind: "message", role: "agent", text: "", open: true });
      open.set(key, message);
    }
    message.text += more;
    this.dirty.add(message);
    // Who writes another one has finished this one, for all that can be seen; more of it may still come.
    const before = this.#writing.get(speaker(entry));
    if (before !== undefined && before !== message) this.#rest(before, false);
    this.#rest(message, true);
    this.#writing.set(speaker(entry), message);
  }

  deltaEnd(entry) {
    this.#finish(entry);
  }

  /** The message that this names, or that its agent writes, is complete. */
  #finish(entry) {
    const name = messageOf(entry.type, entry.data);
    const open = name === null ? this.#consecutive : this.#streams;
    const key = name === null ? speaker(entry) : `${speaker(entry)}\n${name}`;
    const message = open.get(key);
    if (message === undefined) return;
    this.#shut(open, key);
    this.news.push(`${message.agent ?? NOBODY} finished a message`);
  }

  message(entry) {
    const words = text(entry.data?.text) ?? text(entry.data);
    if (words === null) return raw.call(this, entry);
    const role = entry.type === "prompt" ? "user" : "agent";
    this.#add(entry, { kind: "message", role, text: words, open: false });
    this.news.push(`A message of ${entry.agent ?? NOBODY}`);
  }

  table(entry) {
    const { columns, rows } = entry.data ?? {};
    if (!Array.isArray(columns) || !Array.isArray(rows) || !rows.every(Array.isArray)) return raw.call(this, entry);
    const data = { title: text(entry.data.title), columns, rows, note: text(entry.data.note) };
    const name = text(entry.data.id);
    const key = `${speaker(entry)}\n${name}`;
    const known = name === null ? undefined : this.#tables.get(key);
    if (known !== undefined) {
      // The same table, as it stands now.
      Object.assign(known, data);
      this.dirty.add(known);
      return;
    }
    const item = this.#add(entry, { kind: "table", ...data });
    if (name !== null) this.#tables.set(key, item);
  }

  file(entry) {
    const content = text(entry.data?.content);
    if (content === null) return raw.call(this, entry);
    const mediaType = text(entry.data.media_type) ?? "text/plain";
    this.#add(entry, { kind: "file", name: written(text(entry.data.name) ?? "file"), mediaType, content });
  }

  runStarted(entry) {
    if (entry.run === null) return raw.call(this, entry);
    const run = this.#run(entry.run);
    const { attempt = 1, lease_ms = null, parent = run.parent } = entry.data ?? {};
    Object.assign(run, { agent: entry.agent ?? run.agent, attempt, lease_ms, parent, status: "running", reason: null });
    Object.assign(run, { started: entry.ms, ended: null, leaseUntil: null, graceUntil: null });
    this.control += 1;
    this.said += 1;
    this.#add(entry, { kind: "note", tone: "start", words: attempt > 1 ? `began attempt ${attempt} of` : "began" });
  }

  runStopping(entry) {
    if (entry.run === null) return raw.call(this, entry);
    const run = this.#run(entry.run);
    run.status = "stopping";
    this.control += 1;
    this.said += 1;
    this.#add(entry, { kind: "note", tone: "stopping", words: "was asked to stop" });
  }

  runEnded(entry) {
    if (entry.run === null) return raw.call(this, entry);
    const run = this.#run(entry.run);
    const status = text(entry.data?.status) ?? "ended";
    const reason = text(entry.data?.reason);
    Object.assign(run, { agent: entry.agent ?? run.agent, status, reason, ended: entry.ms });
    Object.assign(run, { leaseUntil: null, graceUntil: null });
    run.attempt = entry.data?.attempt ?? run.attempt;
    for (const [key, message] of this.#streams) {
      if (message.run === entry.run) this.#shut(this.#streams, key);
    }
    for (const [key, message] of this.#consecutive) {
      if (message.run === entry.run) this.#shut(this.#consecutive, key);
    }
    this.control += 1;
    this.said += 1;
    this.news.push(`Run ${entry.run} is ${status}`);
    this.#add(entry, { kind: "note", tone: status, words: status, reason });
  }

  #shut(open, key) {
    const message = open.get(key);
    open.delete(key);
    message.open = false;
    this.dirty.add(message);
  }

  commandIssued(entry) {
    const name = text(entry.data?.command);
    if (name === null) return raw.call(this, entry);
    const type = text(entry.data.type) ?? "command";
    const data = entry.data.data;
    const words = text(data?.text) ?? text(data) ?? "";
    const command = { command: name, type, words, data, outcome: null, reason: null };
    this.commands.set(name, command);
    this.control += 1;
    if (type !== "decide") this.#interrupt(entry);
    // A decision shows on what it decides.
    command.item = this.#add(entry, { kind: type === "decide" ? "hidden" : "command", of: command });
  }

  /** What those write who are asked for something stands below it, unless its `id` says that it belongs above. */
  #interrupt({ agent, run }) {
    for (const message of [...this.#consecutive.values()]) {
      const asked = run !== null ? message.run === run : agent === null || message.agent === agent;
      if (asked) this.#pause(message);
    }
  }

  commandEnded(entry) {
    const command = this.commands.get(text(entry.data?.command) ?? "");
    if (command === undefined) return;
    command.outcome = entry.type.slice("command.".length);
    command.reason = text(entry.data.reason);
    this.dirty.add(command.item);
    this.control += 1;
  }

  approvalRequested(entry) {
    const name = text(entry.data?.approval);
    if (name === null) return raw.call(this, entry);
    const prompt = entry.data.prompt;
    const { words, items, more } = question(prompt);
    const expires = entry.ms + (entry.data.expires_ms ?? 3_600_000);
    const approval = { approval: name, words, items, more, expires, onExpiry: text(entry.data.on_expiry), decision: null };
    this.approvals.set(name, approval);
    this.control += 1;
    this.asked.push(`${entry.agent ?? NOBODY} asks for a decision: ${words.slice(0, 200)}`);
    approval.item = this.#add(entry, { kind: "approval", of: approval });
  }

  approvalEnded(entry) {
    const approval = this.approvals.get(text(entry.data?.approval) ?? "");
    if (approval === undefined) return;
    approval.decision = entry.type === "approval.superseded" ? "superseded" : (text(entry.data.decision) ?? "deny");
    approval.expired = entry.data.expired === true;
    approval.by = text(entry.data.data?.by);
    this.dirty.add(approval.item);
    this.control += 1;
  }

  /** Anything else, shown compactly: short members in words, the rest as JSON; many of one kind in a row are one. */
  rawEntry(entry) {
    const last = this.items.at(-1);
    const same = last?.kind === "raw" && last.type === entry.type && last.agent === entry.agent && last.run === entry.run;
    const { pairs, rest } = members(entry.data);
    const sample = plain(rest).slice(0, 400);
    if (same) {
      last.count += 1;
      Object.assign(last, { pairs, sample });
      this.dirty.add(last);
      return;
    }
    this.#add(entry, { kind: "raw", type: entry.type, count: 1, pairs, sample });
  }
}

const proto = Model.prototype;
const raw = proto.rawEntry;
const EVENTS = {
  __proto__: null,
  "text-end": proto.deltaEnd,
  prompt: proto.message,
  message: proto.message,
  table: proto.table,
  file: proto.file,
  "run.started": proto.runStarted,
  "run.stopping": proto.runStopping,
  "run.ended": proto.runEnded,
  "command.issued": proto.commandIssued,
  "command.consumed": proto.commandEnded,
  "command.rejected": proto.commandEnded,
  "command.expired": proto.commandEnded,
  "command.superseded": proto.commandEnded,
  "approval.requested": proto.approvalRequested,
  "approval.decided": proto.approvalEnded,
  "approval.superseded": proto.approvalEnded,
};

/** Whether a run of this status is over. */
export function ended(status) {
  return !["expected", "running", "stopping"].includes(status);
}

function speaker({ agent, run }) {
  return `${agent ?? ""}\n${run ?? ""}`;
}
