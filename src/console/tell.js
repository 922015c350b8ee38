// What the page tells whoever reads or listens: what a return brought, what a reset lost, what is new, what went wrong.

import { clock, count, el, find, many, say } from "./dom.js";
import { parseId } from "./ledger.js";

/** Of what was lost, the newest so many are told in words; the counter has all. */
const LOSSES_MAX = 3;
/** Of what a screen reader is told, so much stays. */
export const SPOKEN_MAX = 20;

/** Says what was lost, and goes on saying it: whoever looks an hour later must see it, too. */
export function lose(loss) {
  const losses = find("losses");
  losses.append(el("p", {}, el("time", {}, clock(Date.now())), ` ${lossWords(loss)}`));
  while (losses.childElementCount > LOSSES_MAX) losses.firstChild.remove();
}

/** Says what a return brought. */
export function returned(back) {
  say(find("resume"), resumeWords(back));
}

/** What was lost with a reset, in a sentence. */
export function lossWords({ reason, seen, missing }) {
  const after = `After entry ${count(seen)}`;
  if (missing === 0) return `${after} the log was trimmed up to there: nothing is missing.`;
  if (missing !== null) return `${after}, ${many(missing, "entry is", "entries are")} missing: trimmed before they came here.`;
  if (reason === "trimmed") return `${after} all of the log was trimmed; the next entry tells how much is missing.`;
  if (reason === "deleted") return `${after} the session was gone (erased, expired, or lost with its gateway). This is another log; what else the old one had is not known.`;
  return `${after} the log no longer holds what was seen here (replaced by an older copy, or another log). What is missing is not known.`;
}

/** What a resume brought, in a sentence. */
export function resumeWords({ from, entries, gaps, duplicates, took }) {
  const after = parseId(from ?? "")?.n ?? 0;
  return `Back after entry ${after}: caught up ${many(entries, "entry", "entries")} in ${Math.round(took)} ms, ${many(gaps, "gap")}, ${many(duplicates, "duplicate")}.`;
}

/** Each is added, and what was said before stays for a while: it may not have been read out yet. */
export function speak(news) {
  const spoken = find("spoken");
  spoken.append(...news.map((words) => el("p", {}, words)));
  while (spoken.childElementCount > SPOKEN_MAX) spoken.firstChild.remove();
}

let fading = null;

/** For a moment. */
export function toast(words, tone = "bad") {
  const box = find("toast");
  box.hidden = false;
  box.dataset.tone = tone;
  say(box, words);
  clearTimeout(fading);
  fading = setTimeout(() => {
    box.hidden = true;
    box.textContent = "";
  }, tone === "good" ? 2_500 : 8_000);
}
