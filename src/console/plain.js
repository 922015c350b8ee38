// JSON that anybody may have made up, as short texts.

/** A text; `null`: it is none. */
export function text(value) {
  return typeof value === "string" ? value : null;
}

/** What a prompt asks: its words, what it is about, and all else that it says, or nobody would know what they approve. */
export function question(prompt) {
  const words = text(prompt?.text) ?? "";
  if (words === "") return { words: text(prompt) ?? plain(prompt), items: [], more: "" };
  const { text: _, items, ...rest } = prompt;
  const listed = Array.isArray(items);
  if (!listed && items !== undefined) rest.items = items;
  const more = Object.keys(rest).length === 0 ? "" : JSON.stringify(rest, null, 1);
  return { words, items: listed ? items.map(plain) : [], more };
}

/** More short members, or longer ones, are easier to look at as JSON. */
const PAIRS_MAX = 12;
const SHORT_MAX = 120;

/** Of an object: its few short members as `[name, words]`, and the rest; of anything else, all is rest. */
export function members(data) {
  const all = data !== null && typeof data === "object" && !Array.isArray(data) ? Object.entries(data) : [];
  const short = ([name, value]) => (value === null || typeof value !== "object") && name.length + String(value).length <= SHORT_MAX;
  const pairs = all.filter(short).map(([name, value]) => [name, String(value)]);
  if (pairs.length === 0 || pairs.length > PAIRS_MAX) return { pairs: [], rest: data };
  const rest = all.filter((one) => !short(one));
  return { pairs, rest: rest.length === 0 ? undefined : Object.fromEntries(rest) };
}

/** A name as it is written: without what would turn the direction of its letters, and `exe.pdf` into `fdp.exe`. */
export function written(name) {
  return name.replaceAll(/[\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

/** Any JSON as a short text. */
export function plain(value) {
  if (value === undefined) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
}
