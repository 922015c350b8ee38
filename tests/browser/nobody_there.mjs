// A session that is not there yet, a message that nobody takes, words that stand in some entry: the page says so, or finds it.

import assert from "node:assert/strict";
import { run } from "./harness.mjs";
import { becomes, consoleOf } from "./console.mjs";

await run(async ({ open, api, session }) => {
  const page = await open(consoleOf(session));
  const phone = await open(consoleOf(session), { viewport: { width: 390, height: 844 } });
  for (const place of [page, phone]) {
    await becomes(place, "live");
    await place.locator('#conversation[data-nothing="true"]').waitFor();
  }
  const empty = page.locator("#log-empty");
  await empty.getByText("Nothing here yet").waitFor();

  // The message is the session's first entry. It waits, in both lists, until somebody is at work.
  await page.getByLabel("What to say").fill("Is anybody there?");
  await page.getByRole("button", { name: "Send" }).click();
  await empty.waitFor({ state: "hidden" });
  const outcomes = page.locator(".item.command .outcome, #commands .outcome");
  const say = (words) => page.waitForFunction((words) => {
    const all = [...document.querySelectorAll(".item.command .outcome, #commands .outcome")];
    return all.length === 2 && all.every((one) => one.textContent === words);
  }, words);
  await say("no agent is at work here; it waits");
  await api.ask("/runs", { run: "r1", agent: "writer", lease_ms: 600_000 });
  await say("waiting");
  await api.ask("/runs/r1/end", { status: "completed" });
  await say("no agent is at work here; it waits");
  const { events: [message] } = await api.ask("/commands");
  await api.ask(`/commands/${message.command}/outcome`, { outcome: "rejected", reason: "too late" });
  await outcomes.filter({ hasText: /^rejected: too late$/ }).waitFor();

  // The filter looks into the data, whatever its letters and signs, and at the names of no members but its.
  await api.append([
    { type: "tool", agent: "a", data: { path: "C:\\Temp", note: 'say "Hi" (now)' } },
    { type: "tool", agent: "a", data: { note: "data" } },
    { type: "tool", agent: "a" },
  ]);
  const filter = page.getByLabel("Filter by type, agent, run or data");
  const count = (await api.events()).length;
  for (const [words, found] of [["anybody THERE", 1], ['"hi" (NOW)', 1], ["c:\\temp", 1], [".*", 0], ["agent", 0], ["tool", 3], ["nowhere", 0]]) {
    await filter.fill(words);
    await page.getByText(`${found} of ${count}`, { exact: true }).waitFor();
  }
  assert.equal(await page.locator("#log-rows .row").count(), 0);
});
