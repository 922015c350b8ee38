// A gateway without keys on this machine: a page that anybody else serves can neither read nor change what it holds.

import assert from "node:assert/strict";
import { run } from "./harness.mjs";

await run(async ({ open, api, base, session, more: [other] }) => {
  await api.append({ type: "message", data: { text: "mine" } });
  const origins = [base, other].map((url) => new URL(url).origin);
  const page = await open(`${other}/livez`, { origins, expected: [/blocked by CORS policy|Failed to load resource/] });
  const url = `${base}/v1/sessions/${session}`;

  const read = await page.evaluate((url) => fetch(url).then((answer) => answer.text(), (error) => error.name), url);
  assert.equal(read, "TypeError");
  // What a page may send unasked, though it can't read the answer.
  for (const [path, body] of [["/close"], ["/commands", '{"type":"stop"}'], ["/events", '{"data":1}']]) {
    const init = { method: "POST", mode: "no-cors", body };
    const kind = await page.evaluate(([url, init]) => fetch(url, init).then((answer) => answer.type), [url + path, init]);
    assert.equal(kind, "opaque");
  }
  const answered = page.waitForResponse(`${url}/close`);
  await page.evaluate((action) => {
    const form = document.createElement("form");
    Object.assign(form, { method: "post", action });
    document.body.append(form);
    form.submit();
  }, `${url}/close`);
  assert.equal((await answered).status(), 403);

  const { closed, lanes } = await api.ask("");
  assert.equal(closed, null);
  assert.deepEqual([lanes.events.count, lanes.commands.count], [1, 0]);
});
