// Light Markdown, as agents write it, into a tree; no HTML anywhere. Text comes in pieces: what is complete is never looked
// at again, so that a long message costs what its newest lines cost.
//
// Blocks: paragraphs, headings, lists, quotes, code, tables, rules. Inline: `code`, **bold**, *emphasis*, [links](https://…).

/** A block is cut here: a single line of 200 KB must not be laid out anew with every word that comes. */
const BLOCK_MAX = 4_000;
/** Any block is cut after so many lines. */
const ITEMS_MAX = 200;
/** A list or a table may be longer, but has no more elements, as far as signs tell: lines, cells, what stands out in them. */
const LISTED_MAX = 16_000;
const ELEMENTS_MAX = 300;
/** A row has no more cells: the last one has the rest of the line, as it stands. */
const CELLS_MAX = 50;
/** In one text no more stands out: what comes after is shown as it was written. */
export const SPANS_MAX = 100;

/**
 * @typedef {{kind: "p"|"h"|"ul"|"ol"|"quote"|"code"|"table"|"hr", level?: number, items: string[]|string[][], start?: number}} Block
 */

export class Blocks {
  /** @type {Block[]} */
  blocks = [];
  #rest = "";
  #fence = null;
  #open = false;
  #undo = null;

  /** Adds text. The last line counts as it stands, until more of it comes. */
  push(text) {
    this.#rollBack();
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) this.#line(line.endsWith("\r") ? line.slice(0, -1) : line);
    while (this.#rest.length > BLOCK_MAX) {
      const at = breakAt(this.#rest);
      this.#line(this.#rest.slice(0, at));
      this.#rest = this.#rest.slice(at);
    }
    if (this.#rest !== "") {
      // A line changes at most the newest block, and its newest line.
      const last = this.blocks.at(-1);
      const { length } = last?.items ?? [];
      const undo = { count: this.blocks.length, last, length, item: last?.items.at(-1), size: last?.size, elements: last?.elements };
      this.#undo = { ...undo, fence: this.#fence, open: this.#open };
      this.#line(this.#rest);
    }
  }

  #rollBack() {
    const undo = this.#undo;
    if (undo === null) return;
    this.#undo = null;
    this.blocks.length = undo.count;
    const { last } = undo;
    if (last !== undefined) {
      // It may have become a table.
      this.blocks[undo.count - 1] = last;
      last.items.length = undo.length;
      if (undo.length > 0) last.items[undo.length - 1] = undo.item;
      last.size = undo.size;
      last.elements = undo.elements;
    }
    this.#fence = undo.fence;
    this.#open = undo.open;
  }

  #line(line) {
    if (this.#fence !== null) {
      if (line.trimStart().startsWith(this.#fence)) this.#close();
      else this.#into("code", line);
      return;
    }
    if (line.length > BLOCK_MAX) return this.#long(line);
    const trimmed = line.trim();
    if (trimmed === "") {
      this.#open = false;
      return;
    }
    const fence = /^\s{0,3}(```+|~~~+)/.exec(line);
    if (fence !== null) {
      this.#begin("code");
      this.#fence = fence[1];
      return;
    }
    const heading = /^(#{1,6})\s+(.*)$/.exec(trimmed);
    if (heading !== null) {
      this.#begin("h", { level: heading[1].length, items: [withoutHashes(heading[2])] });
      this.#open = false;
      return;
    }
    if (/^([-*_])(\s*\1){2,}$/.test(trimmed)) {
      this.#begin("hr");
      this.#open = false;
      return;
    }
    if (trimmed.startsWith("|")) return this.#row(trimmed);
    const bullet = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/.exec(line);
    if (bullet !== null) {
      const kind = bullet[2] === undefined ? "ul" : "ol";
      if (!(this.#open && this.blocks.at(-1).kind === kind && this.#hasRoom())) this.#begin(kind, { start: Number(bullet[2] ?? 1) });
      this.blocks.at(-1).items.push(bullet[3]);
      return this.#grown(bullet[3], 1);
    }
    const quote = /^\s{0,3}>\s?(.*)$/.exec(line);
    if (quote !== null) return this.#into("quote", quote[1]);
    const last = this.blocks.at(-1);
    if (this.#open && (last.kind === "ul" || last.kind === "ol") && last.items.at(-1).length < BLOCK_MAX) {
      // The rest of an item.
      last.items.push(`${last.items.pop()} ${trimmed}`);
      return this.#grown(trimmed, 0);
    }
    this.#into("p", line);
  }

  #long(line) {
    for (let rest = line; rest !== ""; ) {
      const at = rest.length > BLOCK_MAX ? breakAt(rest) : rest.length;
      this.#begin("p", { items: [rest.slice(0, at)] });
      rest = rest.slice(at);
    }
  }

  #row(line) {
    const cells = cellsOf(line);
    const last = this.blocks.at(-1);
    if (this.#open && last.kind === "table") {
      const row = atMost(cells, CELLS_MAX);
      if (this.#hasRoom()) last.items.push(row);
      else this.#begin("table", { items: [last.items[0], row] });
      return this.#grown(line, 1 + row.length);
    }
    const rule = cells.every((cell) => /^:?-+:?$/.test(cell));
    if (rule && this.#open && last.kind === "p" && last.items.at(-1)?.trim().startsWith("|")) {
      // Now the line before is known to be a head.
      const head = last.items.pop();
      if (last.items.length === 0) this.blocks.pop();
      this.#begin("table", { items: [atMost(cellsOf(head.trim()), CELLS_MAX)] });
      return;
    }
    this.#into("p", line);
  }

  #into(kind, line) {
    const last = this.blocks.at(-1);
    const room = last !== undefined && last.size + line.length <= BLOCK_MAX && last.items.length < ITEMS_MAX;
    if (!(this.#open && last.kind === kind && room)) this.#begin(kind);
    const block = this.blocks.at(-1);
    block.items.push(line);
    block.size += line.length;
  }

  #hasRoom() {
    const { items, size, elements } = this.blocks.at(-1);
    return items.length < ITEMS_MAX && size < LISTED_MAX && elements < ELEMENTS_MAX;
  }

  #grown(line, elements) {
    const block = this.blocks.at(-1);
    block.size += line.length;
    block.elements += elements + signs(line);
  }

  #begin(kind, more = {}) {
    this.blocks.push({ kind, items: [], size: 0, elements: 0, ...more });
    this.#open = true;
  }

  #close() {
    this.#fence = null;
    this.#open = false;
  }
}

/** A heading may end in a space and hashes, which are no part of it (`C#` has none). One look, whatever the text. */
function withoutHashes(text) {
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  const closed = end === 0 || /\s/.test(text[end - 1]);
  return closed ? text.slice(0, end).trimEnd() : text;
}

/** Where a long line may be cut: after a space if there is one, and never within a character. */
function breakAt(text) {
  const space = text.lastIndexOf(" ", BLOCK_MAX);
  if (space > BLOCK_MAX / 2) return space + 1;
  const code = text.charCodeAt(BLOCK_MAX - 1);
  return code >= 0xd800 && code < 0xdc00 ? BLOCK_MAX - 1 : BLOCK_MAX;
}

/** Not fewer than what stands out in a text; a part of it at a time gives the same. */
function signs(text) {
  let pairs = 0;
  let links = 0;
  for (const sign of text) {
    if (sign === "[") links += 1;
    else if (sign === "*" || sign === "_" || sign === "`") pairs += 1;
  }
  return pairs / 2 + links;
}

function atMost(cells, most) {
  return cells.length <= most ? cells : [...cells.slice(0, most - 1), cells.slice(most - 1).join(" | ")];
}

function cellsOf(line) {
  const inner = line.replace(/^\|/, "").replace(/\|$/, "");
  return inner.split("|").map((cell) => cell.trim());
}

/** @typedef {{kind: "text"|"code"|"strong"|"em"|"link", text?: string, parts?: Span[], href?: string}} Span */

// Each alternative needs its own end within the line, so nothing is tried twice.
const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|__([^_]+)__|\*([^*\s][^*]*)\*|\b_([^_\s][^_]*)_\b|\[([^[\]]+)\]\(([^()\s]+)\)/g;

/** The spans of a line; at most so many of them are more than text. @returns {Span[]} */
export function inline(text, most = SPANS_MAX) {
  const spans = [];
  let from = 0;
  let left = most;
  for (const found of text.matchAll(INLINE)) {
    if (left === 0) break;
    const span = spanOf(found);
    if (span === null) continue;
    left -= 1;
    if (found.index > from) spans.push({ kind: "text", text: text.slice(from, found.index) });
    spans.push(span);
    from = found.index + found[0].length;
  }
  if (from < text.length) spans.push({ kind: "text", text: text.slice(from) });
  return spans;
}

function spanOf([, code, strong, strong2, em, em2, label, href]) {
  if (code !== undefined) return { kind: "code", text: code };
  if ((strong ?? strong2) !== undefined) return { kind: "strong", text: strong ?? strong2 };
  if ((em ?? em2) !== undefined) return { kind: "em", text: em ?? em2 };
  // Only addresses that can't do anything but lead somewhere.
  return /^https?:\/\//i.test(href) ? { kind: "link", text: label, href } : null;
}
