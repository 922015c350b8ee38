// A message's text on the page. It follows text that grows: only the newest block is built anew.

import { el, many } from "./dom.js";
import { Blocks, SPANS_MAX, inline } from "./markdown.js";

/** So much of a message is in the page at once; the rest is a button away. */
const BLOCKS_MAX = 120;
const CHARACTERS_MAX = 40_000;
const ELEMENTS_MAX = 600;
/** A press of the button brings so many elements more, whatever they hold. */
const MORE = 2_000;

export class Prose {
  element = el("div", { class: "prose", dir: "auto" });
  #parser = new Blocks();
  #taken = 0;
  /** What the page shows of each block from `#from` on. */
  #shown = [];
  #from = 0;
  /** What may be in the page. */
  #most = { blocks: BLOCKS_MAX, characters: CHARACTERS_MAX, elements: ELEMENTS_MAX };
  #sizes = new WeakMap();
  #more = null;

  /** Shows all of `text`, which may only have grown. */
  show(text) {
    if (text.length > this.#taken) {
      this.#parser.push(text.slice(this.#taken));
      this.#taken = text.length;
    }
    this.#build();
  }

  #build() {
    const { blocks } = this.#parser;
    // The newest line may have gone back into a block that had left.
    if (this.#from >= blocks.length) this.#restart();
    const from = this.#start(blocks);
    while (this.#from < from && this.#shown.length > 0) {
      this.#shown.shift().element.remove();
      this.#from += 1;
    }
    if (this.#shown.length === 0) this.#from = from;
    // The newest two can still change: a paragraph may turn out to be the head of a table.
    const settled = Math.max(this.#from, this.#from + this.#shown.length - 2);
    for (let at = settled; at < Math.max(blocks.length, this.#from + this.#shown.length); at += 1) {
      const [block, shown] = [blocks[at], this.#shown[at - this.#from]];
      if (block === undefined) {
        this.#shown.length = at - this.#from;
        shown?.element.remove();
      } else if (shown?.block === block) {
        refill(shown);
      } else {
        const made = build(block);
        if (shown === undefined) this.element.append(made.element);
        else shown.element.replaceWith(made.element);
        this.#shown[at - this.#from] = made;
      }
    }
    this.#button();
  }

  #restart() {
    for (const shown of this.#shown) shown.element.remove();
    this.#shown = [];
    this.#from = 0;
  }

  /** Where the newest part begins that there is room for; the newest block is always in it. */
  #start(blocks) {
    const most = this.#most;
    let [characters, elements] = [0, 0];
    for (let at = blocks.length - 1; at >= this.#from; at -= 1) {
      const size = this.#size(blocks, at);
      characters += size.characters;
      elements += size.elements;
      const over = blocks.length - at > most.blocks || characters > most.characters || elements > most.elements;
      if (over && at < blocks.length - 1) return at + 1;
    }
    return this.#from;
  }

  #size(blocks, at) {
    const known = this.#sizes.get(blocks[at]);
    if (known !== undefined) return known;
    const size = sizeOf(blocks[at]);
    // The newest two can still change.
    if (at < blocks.length - 2) this.#sizes.set(blocks[at], size);
    return size;
  }

  #button() {
    if (this.#from === 0) {
      this.#more?.remove();
      this.#more = null;
      return;
    }
    const words = `Show ${many(this.#from, "earlier paragraph")} of this message`;
    if (this.#more === null) {
      const earlier = () => {
        this.#most = { blocks: Infinity, characters: Infinity, elements: this.#most.elements + MORE };
        this.#restart();
        this.#build();
      };
      this.#more = el("button", { type: "button", class: "quiet", onclick: earlier });
      this.element.prepend(this.#more);
    }
    this.#more.textContent = words;
  }
}

/** A whole text at once, for what does not grow. */
export function prose(text) {
  const made = new Prose();
  made.show(text);
  return made.element;
}

const CONTAINER = { p: "p", quote: "blockquote", ul: "ul", ol: "ol", table: "table", hr: "hr" };

/** What a block takes in the page: as `build` and `refill` make it. Two lines of a text take no less than an element. */
function sizeOf({ kind, items }) {
  if (kind === "ul" || kind === "ol") return sizeOfTexts(items, 1 + items.length);
  if (kind !== "table") return sizeOfTexts([items.join("\n")], 2 + items.length / 2, kind === "code" ? 0 : SPANS_MAX);
  const size = { characters: 0, elements: 2 };
  for (const cells of items) {
    const row = sizeOfTexts(cells, 1 + cells.length, inCell(cells));
    size.characters += row.characters;
    size.elements += row.elements;
  }
  return size;
}

function sizeOfTexts(texts, elements, most = SPANS_MAX) {
  let characters = 0;
  for (const text of texts) {
    characters += text.length;
    if (most > 0) elements += inline(text, most).filter(({ kind }) => kind !== "text").length;
  }
  return { characters, elements };
}

/** What may stand out in a cell, for a row to have no more than any text. */
function inCell(cells) {
  return Math.max(2, Math.floor(SPANS_MAX / cells.length));
}

function build(block) {
  const shown = { block, element: null, body: null, items: 0, last: null };
  if (block.kind === "h") {
    // The page's own headings are 1 and 2.
    shown.element = el(`h${Math.min(block.level + 2, 6)}`, { dir: "auto" }, ...spans(block.items[0]));
  } else if (block.kind === "code") {
    shown.body = el("code");
    shown.element = el("pre", { tabindex: "0", dir: "ltr", "aria-label": "code" }, shown.body);
  } else if (block.kind === "table") {
    shown.body = el("table");
    shown.element = el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "table" }, shown.body);
  } else {
    shown.element = el(CONTAINER[block.kind], block.kind === "ol" && block.start > 1 ? { start: block.start } : {});
    shown.element.dir = "auto";
  }
  refill(shown);
  return shown;
}

/** Brings an element up to what its block holds now: the last line may have changed, others have come. */
function refill(shown) {
  const { block, element, body } = shown;
  const { items } = block;
  switch (block.kind) {
    case "p":
    case "quote": {
      const text = items.join("\n");
      if (text !== shown.last) element.replaceChildren(...spans(text));
      shown.last = text;
      return;
    }
    case "code": {
      const text = items.join("\n");
      if (text !== shown.last) body.textContent = text;
      shown.last = text;
      return;
    }
    case "ul":
    case "ol":
      return grow(element, items, (item) => el("li", { dir: "auto" }, ...spans(item)));
    case "table":
      return grow(body, items, (cells, at) =>
        el("tr", {}, ...cells.map((cell) => el(at === 0 ? "th" : "td", at === 0 ? { scope: "col" } : {}, ...spans(cell, inCell(cells))))),
      );
  }
}

function grow(parent, items, make) {
  const have = parent.childNodes;
  while (have.length > items.length) parent.lastChild.remove();
  const from = Math.max(0, have.length - 1);
  if (have.length > 0) parent.lastChild.remove();
  for (let at = from; at < items.length; at += 1) parent.append(make(items[at], at));
}

function spans(text, most = SPANS_MAX) {
  return inline(text, most).map((span) => {
    switch (span.kind) {
      case "code":
        return el("code", { dir: "auto" }, span.text);
      case "strong":
      case "em":
        return el(span.kind, {}, span.text);
      case "link":
        return el("a", { href: span.href, title: span.href, rel: "noopener noreferrer", target: "_blank" }, span.text);
      default:
        return span.text;
    }
  });
}
