// Server-sent events, as the gateway writes them: bytes into frames, however they are cut. LF, CRLF and CR end a line.

/** @typedef {{event: string|null, id: string|null, data: string, retry: number|null}} Frame */

export class Decoder {
  #utf8 = new TextDecoder();
  #rest = "";
  #frame = blank();
  #cr = false;

  /** Takes bytes, and gives the frames that are complete. A comment (a heartbeat) is none. @returns {Frame[]} */
  push(bytes) {
    let text = this.#utf8.decode(bytes, { stream: true });
    // The LF of a CRLF that was cut in two.
    if (this.#cr && text.startsWith("\n")) text = text.slice(1);
    if (text !== "") this.#cr = text.endsWith("\r");
    const frames = [];
    let from = 0;
    const line = /\r\n|\n|\r/g;
    for (let end = line.exec(text); end !== null; end = line.exec(text)) {
      this.#line(this.#rest + text.slice(from, end.index), frames);
      this.#rest = "";
      from = line.lastIndex;
    }
    this.#rest += text.slice(from);
    return frames;
  }

  #line(line, frames) {
    if (line === "") {
      if (this.#frame.data !== null) frames.push(this.#frame);
      this.#frame = blank();
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    const frame = this.#frame;
    if (field === "data") frame.data = frame.data === null ? value : `${frame.data}\n${value}`;
    else if (field === "id" && !value.includes("\0")) frame.id = value;
    else if (field === "event") frame.event = value;
    else if (field === "retry" && /^\d+$/.test(value)) frame.retry = Number(value);
  }
}

function blank() {
  return { event: null, id: null, data: null, retry: null };
}
