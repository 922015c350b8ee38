// Elements, made from text and nothing else: there is no way from here to HTML.

/** An element with attributes, listeners (`onclick`) and children; a child may be a string. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const find = (id) => document.getElementById(id);

/** Sets text only where it differs: screen readers speak of what changes. */
export function say(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

/** So long a button waits for the second press. */
const TWICE_MS = 4_000;

/** A button that asks back: only a second press, while it shows `question`, acts. */
export function pressedTwice(button, question, act) {
  const words = button.textContent;
  let waiting = null;
  const rest = () => {
    clearTimeout(waiting);
    waiting = null;
    say(button, words);
  };
  button.addEventListener("click", (event) => {
    // A double click is one press.
    if (event.detail > 1) return;
    if (waiting !== null) {
      rest();
      act();
      return;
    }
    say(button, question);
    waiting = setTimeout(rest, TWICE_MS);
  });
  button.addEventListener("blur", rest);
}

const HUES = 8;

const met = new Map();

/** Notes an agent. They get their colours in the order in which the log names them: the same on every surface. */
export function meet(agent) {
  if (agent !== null && !met.has(agent)) met.set(agent, String(met.size % HUES));
}

export const forgetAgents = () => met.clear();

export const hue = (agent) => met.get(agent) ?? "none";

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

export const clock = (ms) => CLOCK.format(ms);

const NUMBER = new Intl.NumberFormat("en");

export const count = (number) => NUMBER.format(number);

/** `1 entry`, `2 entries`. */
export const many = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;
