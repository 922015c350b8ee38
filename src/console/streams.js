// Models' own streams, as agents post them unchanged: what text an event adds, to which message, and which events are only
// the stream's frame. `moorline tail` takes the same for text (src/cli/tail/printer.rs).
//
//   everybody's delta        {"delta":"Hel"}, {"delta":{"text":"Hel"}}; text whose type says that it is one (token, chunk)
//   OpenAI, chat completions {"id":"c1","object":"chat.completion.chunk","choices":[{"delta":{"content":"Hel"}}]}
//   OpenAI, Responses        {"type":"response.output_text.delta","item_id":"m1","delta":"Hel"}
//   Anthropic                {"type":"content_block_delta","delta":{"type":"text_delta","text":"Hel"}}

import { text } from "./plain.js";

/** The text that an event adds to a message. `null`: it adds none. */
export function streamed(type, data) {
  const delta = data?.choices?.[0]?.delta ?? data?.delta;
  if (delta !== undefined && delta !== null) return text(delta) ?? textIn(delta);
  if (["delta", "token", "chunk"].some((word) => type.includes(word))) return text(data) ?? textIn(data);
  return null;
}

/** What the message is called that it adds to. `null`: it is the one that the agent writes at the moment. */
export function messageOf(type, data) {
  if (type === "text-delta" || type === "text-end" || isChunk(data)) return text(data?.id);
  return text(data?.item_id);
}

const BEGINS = new Set(["message_start", "content_block_start", "response.created", "response.queued", "response.in_progress", "response.output_item.added", "response.content_part.added"]);
const ENDS = new Set(["content_block_stop", "message_delta", "message_stop", "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed"]);
/** Blocks and items of text, and none: a call of a tool is more than a frame. */
const TEXTS = new Set([undefined, "text", "message", "output_text"]);
const USUAL = new Set([undefined, null, "end_turn", "stop"]);

/** What an event is of a stream's frame: `"begin"`, `"end"`, `"ping"`; `null`: it is no frame, or says something of its own. */
export function frame(type, data) {
  if (isChunk(data)) return chunkFrame(data);
  if (data?.type !== type) return null;
  if (type === "ping") return "ping";
  if (!TEXTS.has((data.content_block ?? data.item ?? data.part)?.type) || !USUAL.has(data.delta?.stop_reason)) return null;
  if (BEGINS.has(type)) return "begin";
  return ENDS.has(type) ? "end" : null;
}

function isChunk(data) {
  return data?.object === "chat.completion.chunk" && Array.isArray(data.choices);
}

/** The first chunk names the role, the last why it ends; one more may count tokens. */
function chunkFrame({ choices }) {
  const [choice] = choices;
  if (choices.length > 1 || !USUAL.has(choice?.finish_reason)) return null;
  const said = Object.entries(choice?.delta ?? {}).some(([name, value]) => name !== "role" && value !== null && value !== "");
  if (said) return null;
  return choice === undefined || choice.finish_reason ? "end" : "begin";
}

function textIn(value) {
  return text(value?.text ?? value?.content);
}
