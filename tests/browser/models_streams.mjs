// The SSE bodies of models, posted as they come: each is one message that grows, and nothing of its frame is in the conversation.

import assert from "node:assert/strict";
import { eventually, run } from "./harness.mjs";
import { becomes, consoleOf, messages } from "./console.mjs";

const sse = (events) => events.map(([event, data]) => `${event === null ? "" : `event: ${event}\n`}data: ${typeof data === "string" ? data : JSON.stringify(event === null ? data : { type: event, ...data })}\n\n`).join("");
const chunk = (choice) => [null, { id: "chatcmpl-1", object: "chat.completion.chunk", created: 1, model: "m", choices: choice === null ? [] : [{ index: 0, finish_reason: null, ...choice }] }];

const STREAMS = {
  chat: [
    chunk({ delta: { role: "assistant", content: "", refusal: null } }),
    chunk({ delta: { content: "Ships " } }),
    chunk({ delta: { content: "**moor**." } }),
    chunk({ delta: {}, finish_reason: "stop" }),
    chunk(null),
    [null, "[DONE]"],
  ],
  responses: [
    ["response.created", { response: { id: "resp_1", status: "in_progress" } }],
    ["response.output_item.added", { output_index: 0, item: { id: "msg_1", type: "message", content: [] } }],
    ["response.content_part.added", { item_id: "msg_1", part: { type: "output_text", text: "" } }],
    ["response.output_text.delta", { item_id: "msg_1", delta: "Ships " }],
    ["response.output_text.delta", { item_id: "msg_1", delta: "**moor**." }],
    ["response.output_text.done", { item_id: "msg_1", text: "Ships **moor**." }],
    ["response.output_item.done", { output_index: 0, item: { id: "msg_1", type: "message" } }],
    ["response.completed", { response: { id: "resp_1", status: "completed" } }],
  ],
  blocks: [
    ["message_start", { message: { id: "msg_2", role: "assistant", content: [] } }],
    ["content_block_start", { index: 0, content_block: { type: "text", text: "" } }],
    ["ping", {}],
    ["content_block_delta", { index: 0, delta: { type: "text_delta", text: "Ships " } }],
    ["ping", {}],
    ["content_block_delta", { index: 0, delta: { type: "text_delta", text: "**moor**." } }],
    ["content_block_stop", { index: 0 }],
    ["message_delta", { delta: { stop_reason: "end_turn", stop_sequence: null }, usage: { output_tokens: 5 } }],
    ["message_stop", {}],
  ],
};

await run(async ({ open, api, base, session }) => {
  const page = await open(consoleOf(session));
  await becomes(page, "live");
  for (const [agent, events] of Object.entries(STREAMS)) {
    const posted = await fetch(`${base}/v1/sessions/${session}/events?agent=${agent}&run=${agent}`, { method: "POST", headers: { "content-type": "text/event-stream" }, body: sse(events) });
    assert.equal(posted.status, 201, await posted.text());
  }
  const wanted = JSON.stringify(Array(3).fill("Ships moor."));
  await eventually(async () => JSON.stringify(await messages(page)) === wanted);
  assert.equal(await page.locator(".item").count(), 3);
  assert.equal(await page.locator(".item.open").count(), 0, "all are complete");
  // The log has all of it; of a delta, its row shows the text.
  const count = Object.values(STREAMS).flat().length - 1;
  assert.equal((await api.events()).length, count);
  assert.equal((await page.locator("#log-rows .row .data").allTextContents()).filter((text) => text === '"**moor**."').length, 3);
});
