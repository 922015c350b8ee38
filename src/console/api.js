// The gateway's interface, for one session, with the token of whoever sits here.

import { problemOf } from "./connection.js";

const STORED = "moorline.token";
/** How long an answer may take that is no stream. */
const PATIENCE_MS = 15_000;
/** Relative to the page, so that the console also works below a prefix of somebody's proxy. */
const BASE = new URL("v1/sessions/", document.baseURI.replace(/\/console\/?([?#].*)?$/, "/"));

/** The token: from the address (`#token=`, taken out of it at once), else from this tab's memory. */
export function adoptToken() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token === null) return;
  if (isToken(token.trim())) sessionStorage.setItem(STORED, token.trim());
  fragment.delete("token");
  const rest = fragment.toString();
  history.replaceState(null, "", location.pathname + location.search + (rest === "" ? "" : `#${rest}`));
}

/** Whether a text can be sent as one: a header carries nothing but these. */
export const isToken = (text) => /^[\x21-\x7e]+$/.test(text);

export const token = () => sessionStorage.getItem(STORED);

export function keepToken(text) {
  if (text === null) sessionStorage.removeItem(STORED);
  else sessionStorage.setItem(STORED, text);
}

/** What a token says of itself, unverified: for its bearer to read. `null`: that can't be read. */
export function claimsOf(text) {
  try {
    const part = text.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0))));
  } catch {
    return null;
  }
}

/** An id for a command: sent twice under the same one, it is issued once. */
export function commandId() {
  const unique = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return `console-${unique}`;
}

export class Api {
  #url;

  constructor(session) {
    this.#url = new URL(encodeURIComponent(session), BASE).href;
  }

  #headers(more) {
    const held = token();
    return held === null ? more : { ...more, authorization: `Bearer ${held}` };
  }

  /** Asks for the stream of events from `last` on. */
  follow(last, signal) {
    const headers = this.#headers({ accept: "text/event-stream" });
    if (last !== null) headers["last-event-id"] = last;
    return fetch(`${this.#url}/events`, { headers, signal, cache: "no-store", credentials: "same-origin" });
  }

  /** The session's state; `null`: there is none yet, or it can't be had now. */
  async state() {
    try {
      const response = await fetch(this.#url, { headers: this.#headers({ accept: "application/json" }), cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
      return response.ok ? await response.json() : null;
    } catch {
      return null;
    }
  }

  /** Issues a command. `null`: it was taken; else what is wrong. Under its `id` it can be issued again if there is no answer. */
  async command(command) {
    try {
      const headers = this.#headers({ "content-type": "application/json" });
      const body = JSON.stringify({ id: commandId(), ...command });
      const response = await fetch(`${this.#url}/commands`, { method: "POST", headers, body, signal: AbortSignal.timeout(PATIENCE_MS) });
      return response.ok ? null : await problemOf(response);
    } catch (error) {
      const late = error.name === "TimeoutError";
      const detail = late ? "the gateway has not answered; try again" : "the gateway could not be reached; try again";
      return { status: 0, code: "unreachable", detail };
    }
  }
}
