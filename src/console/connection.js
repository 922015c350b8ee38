// One stream of a session's events, kept alive: it comes back with the last id after anything that breaks it, and only a
// closed session or a person ends it. It uses `fetch` and not `EventSource`, which can send no token in a header.
//
//   waiting ─▶ connecting ─▶ catching up ─▶ live ─▶ (cut, silent, ended) ─▶ waiting …
//                   └─▶ refused (401, 403 …)    closed (frame, or 204)    off (the user's switch)

import { Decoder } from "./sse.js";

/** Longer without a byte than three of the gateway's heartbeats: the connection is dead, whatever TCP says. */
const SILENCE_MS = 45_000;
const RETRY_MS = 1_000;
const RETRY_MAX_MS = 15_000;
/** The page must stay responsive while 50,000 entries come in: after so long, others get their turn. */
const SLICE_MS = 8;

/** Lets everything else have its turn. Not `setTimeout`, which is slowed down in the background. */
const turn = () =>
  new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port2.onmessage = () => {
      port2.close();
      resolve();
    };
    port1.postMessage(null);
  });

export class Connection {
  #open; // async (lastId, signal) => Response
  #on;
  #abort = new AbortController();
  #wake = null;
  #wanted = true;
  #ended = false;
  #retry = RETRY_MS;
  #failures = 0;
  #random;
  #silence;

  /**
   * `open(last, signal)` asks for the stream; `on` hears `state(name, detail)`, `entry(id, json)`, `reset(json)`,
   * `caughtUp()`, and gives `last()`.
   */
  constructor(open, on, { random = Math.random, silence = SILENCE_MS } = {}) {
    this.#open = open;
    this.#on = on;
    this.#random = random;
    this.#silence = silence;
  }

  /** Follows until the session is closed, the gateway refuses for good, or `end` is called. */
  async run() {
    while (!this.#ended) {
      if (!this.#wanted) {
        this.#on.state("off");
        await this.#pause(null);
        continue;
      }
      this.#abort = new AbortController();
      const over = await this.#once(this.#abort);
      if (over || this.#ended) return;
      if (!this.#wanted) continue;
      this.#failures += 1;
      const most = Math.min(RETRY_MAX_MS, this.#retry * 2 ** Math.min(this.#failures - 1, 6));
      const ms = Math.round(most * (0.5 + this.#random() / 2));
      this.#on.state("waiting", { ms, failures: this.#failures });
      await this.#pause(ms);
    }
  }

  /** The switch: `false` breaks the connection at once, and it stays broken until `true`. */
  want(wanted) {
    this.#wanted = wanted;
    this.#failures = 0;
    if (!wanted) this.#abort.abort();
    this.#wake?.();
  }

  /** For good. */
  end() {
    this.#ended = true;
    this.#abort.abort();
    this.#wake?.();
  }

  /** Tries now instead of later. */
  hurry() {
    this.#wake?.();
  }

  #pause(ms) {
    return new Promise((resolve) => {
      const timer = ms === null ? null : setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    }).finally(() => {
      this.#wake = null;
    });
  }

  /** One connection. `true`: there is to be no other. */
  async #once(abort) {
    let watchdog;
    const heard = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort.abort(), this.#silence);
    };
    try {
      this.#on.state("connecting");
      heard();
      const response = await this.#open(this.#on.last(), abort.signal).catch(() => null);
      // A connection that breaks is what this is for.
      if (response === null) return false;
      if (response.status === 204) {
        this.#on.state("closed");
        return true;
      }
      if (!response.ok) return await this.#refused(response);
      this.#on.state("catching up");
      return await this.#read(response.body.getReader(), heard, abort.signal);
    } finally {
      clearTimeout(watchdog);
    }
  }

  async #read(reader, heard, signal) {
    const decoder = new Decoder();
    let since = performance.now();
    for (;;) {
      const { value, done } = await reader.read().catch(() => ({ done: true }));
      // A clean end without `closed` is no end either.
      if (done) return false;
      heard();
      for (const frame of decoder.push(value)) {
        if (signal.aborted) return false;
        if (frame.retry !== null) this.#retry = Math.min(Math.max(frame.retry, 100), RETRY_MAX_MS);
        if (frame.event === null && frame.id !== null) this.#on.entry(frame.id, frame.data);
        else if (frame.event === "reset") this.#on.reset(parsed(frame.data));
        else if (frame.event === "caught-up") {
          this.#failures = 0;
          this.#on.caughtUp();
          this.#on.state("live");
        } else if (frame.event === "closed") {
          this.#on.state("closed");
          return true;
        }
        if (performance.now() - since > SLICE_MS) {
          await turn();
          since = performance.now();
        }
      }
    }
  }

  /** Some answers stay the same however often one asks. */
  async #refused(response) {
    const problem = await problemOf(response);
    if (response.status === 429 || response.status === 503 || response.status >= 500) {
      const after = Number(response.headers.get("retry-after"));
      if (after > 0) this.#retry = Math.min(after * 1000, RETRY_MAX_MS);
      return false;
    }
    this.#on.state("refused", problem);
    return true;
  }
}

/** What a gateway (or whatever stands before it) says is wrong. */
export async function problemOf(response) {
  const text = await response.text().catch(() => "");
  const { code = "", detail = "" } = parsed(text);
  return { status: response.status, code, detail: detail || `the answer was ${response.status} ${response.statusText}` };
}

function parsed(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}
