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
  /** Entries that are missing. A log that was replaced counts as one: nobody can tell how many. */
  gaps = 0;
  duplicates = 0;
  /** How often a connection was there again. */
  resumes = 0;
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
    this.#miss(this.#n === null ? 0 : n - this.#n - 1);
    this.entries += 1;
    if (this.#back !== null) this.#back.entries += 1;
    this.#n = n;
    this.last = id;
    return true;
  }

  #miss(entries) {
    this.gaps += entries;
    if (this.#back !== null) this.#back.gaps += entries;
  }

  /**
   * The log was cut behind what is here, or is another one: what comes is counted anew. What was lost, for `tell.js`;
   * `null`: nothing had been seen, so nothing is.
   */
  reset({ reason, first = null }) {
    const seen = this.#n;
    const begins = parseId(first ?? "")?.n ?? null;
    this.last = null;
    this.entries = 0;
    if (seen === null) return null;
    // The same lane goes on, further up: its numbers tell how much is gone.
    const cut = reason === "trimmed" && (begins === null || begins > seen);
    const missing = cut && begins !== null ? begins - seen - 1 : null;
    if (cut) this.#n = begins === null ? seen : begins - 1;
    else this.#n = null;
    this.#miss(cut ? (missing ?? 0) : 1);
    return { reason, seen, missing };
  }

  /** A connection is tried again, `now` in ms. */
  returning(now) {
    this.#back = { since: now, from: this.last, entries: 0, gaps: 0, duplicates: 0 };
  }

  /** History is done. What the resume brought; `null` if this was the first connection. */
  caughtUp(now) {
    const back = this.#back;
    this.#back = null;
    if (back === null) return null;
    this.resumes += 1;
    const { since, ...rest } = back;
    return { ...rest, took: now - since };
  }
}
