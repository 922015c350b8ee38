// A page that comes late shows the history, then what comes, as it comes; a second tab and a phone show the same.

import assert from "node:assert/strict";
import { eventually, run } from "./harness.mjs";
import { becomes, consoleOf, messages, numbers } from "./console.mjs";

await run(async ({ open, api, session }) => {
  await api.ask("/runs", { run: "r1", agent: "writer", lease_ms: 600_000 });
  const say = (delta, id = "m1") => api.append({ type: "text-delta", agent: "writer", run: "r1", data: { id, delta } });
  await api.append({ type: "prompt", agent: "ada", data: { text: "Why do ships moor?" } });
  await say("So that they");

  const first = await open(consoleOf(session));
  await becomes(first, "live");
  const phone = await open(consoleOf(session), { viewport: { width: 390, height: 844 } });
  const tab = await open(consoleOf(session), { beside: first });
  for (const page of [phone, tab]) await becomes(page, "live");

  // Word by word, in every place, into the same message.
  for (const [word, whole] of [[" stay.", "So that they stay."], ["\n\n**Always.**", "So that they stay.Always."]]) {
    await say(word);
    for (const page of [first, tab, phone]) {
      await eventually(async () => (await messages(page)).at(-1) === whole);
    }
  }
  assert.deepEqual(await messages(first), ["Why do ships moor?", "So that they stay.Always."]);
  assert.equal(await first.locator(".item.message strong", { hasText: "Always." }).count(), 1);

  // An agent's run, its lease, the log and the lanes are there, too.
  await first.locator("#runs .card", { hasText: "writer" }).getByText("lease in").waitFor();
  assert.equal(await first.locator("#runs .card .status").textContent(), "running");
  const rows = await first.locator("#log-rows .row .type").allTextContents();
  assert.deepEqual(rows.sort(), ["prompt", "run.started", "text-delta", "text-delta", "text-delta"]);
  assert.match(await first.locator("#lanes").getAttribute("aria-label"), /writer · r1/);

  await api.ask("/runs/r1/end", { status: "completed" });
  await first.locator('#runs .card[data-status="completed"]').waitFor();
  const { events } = await api.ask("/events?limit=1000");
  for (const page of [first, tab, phone]) {
    await eventually(async () => (await numbers(page)).entries === events.length);
    const { gaps, duplicates, resumes } = await numbers(page);
    assert.deepEqual({ gaps, duplicates, resumes }, { gaps: 0, duplicates: 0, resumes: 0 });
  }

  await api.ask("/close", {});
  for (const page of [first, tab, phone]) await becomes(page, "closed");
});
