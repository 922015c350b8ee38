// What a connection brought, counted. The `n` of an entry's id counts the lane's entries without holes, so whoever has the
// ids can tell what is missing (a hole) and what came twice (a repeat), and need not believe anybody.

/** An entry's id, `<ms>-<n>`. `null`: it is none. */
export function parseId(text) {
  const found = /^(\d+)-(\d+)$/.exec(text);
  return found === null ? null : { ms: Number(found[1]), n: Number(found[2]) };
}

export class Ledger {
  /** The id of the newest entry, for coming back. */
  last = null;
  entries = 0;
  gaps = 0;
  duplicates = 0;
  /** How often a connection was there again. */
  resumes = 0;
  resets = 0;
  #n = null;
  #back = null;

  /** Notes an entry. `false`: it was here before, and is not to be shown again. */
  take(id) {
    const { n } = parseId(id) ?? {};
    if (n === undefined) return false;
    if (this.#n !== null && n <= this.#n) {
      this.duplicates += 1;
      if (this.#back !== null) this.#back.duplicates += 1;
      return false;
    }
    const missing = this.#n === null ? 0 : n - this.#n - 1;
    this.gaps += missing;
    this.entries += 1;
    if (this.#back !== null) {
      this.#back.gaps += missing;
      this.#back.entries += 1;
    }
    this.#n = n;
    this.last = id;
    return true;
  }

  /** The log is another one, or was cut: what comes is counted anew. */
  reset() {
    this.resets += 1;
    this.last = null;
    this.entries = 0;
    this.#n = null;
  }

  /** A connection is there again, `now` in ms. */
  resumed(now) {
    this.resumes += 1;
    this.#back = { since: now, from: this.last, entries: 0, gaps: 0, duplicates: 0 };
  }

  /** History is done. What the resume brought; `null` if this was the first connection. */
  caughtUp(now) {
    const back = this.#back;
    this.#back = null;
    if (back === null) return null;
    const { since, ...rest } = back;
    return { ...rest, took: now - since };
  }
}
