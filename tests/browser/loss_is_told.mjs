// What is lost is told for good: a log that was trimmed while the page was away, and one that is another after it. Tries that
// fail are no resumes.

import assert from "node:assert/strict";
import { eventually, run } from "./harness.mjs";
import { becomes, consoleOf, numbers } from "./console.mjs";

/** The gateway keeps as many. */
const KEPT = 50;
const SEEN = 20;
const MISSED = 2_000;

await run(async ({ open, api, base, session }) => {
  const publish = (count) => api.append(Array.from({ length: count }, (_, n) => ({ type: "text-delta", agent: "writer", data: { delta: `${n} ` } })));
  await publish(SEEN);
  const page = await open(consoleOf(session), { expected: [/Failed to load resource/] });
  await becomes(page, "live");
  const cut = page.getByRole("switch", { name: "Cut my connection" });
  const away = async (meanwhile) => {
    await cut.click();
    await becomes(page, "off");
    await meanwhile();
    await cut.click();
    await becomes(page, "live");
  };
  const losses = page.locator("#losses p");
  const shows = (wanted) => eventually(async () => JSON.stringify(await numbers(page)) === JSON.stringify(wanted));

  await away(async () => {
    for (let sent = 0; sent < MISSED; sent += 1_000) await publish(1_000);
  });
  // Trimming may lag, so what is there tells how much is not.
  const { lanes } = await api.ask("");
  const first = Number(lanes.events.first.split("-")[1]);
  const missing = first - SEEN - 1;
  assert.ok(missing > 0 && lanes.events.count >= KEPT, JSON.stringify(lanes));
  await shows({ entries: SEEN + MISSED - first + 1, gaps: missing, duplicates: 0, resumes: 1 });
  const told = missing.toLocaleString("en");
  await losses.getByText(`After entry ${SEEN}, ${told} entries are missing`).waitFor();
  assert.match(await page.locator("#resume").textContent(), new RegExp(`^Back after entry ${SEEN}: caught up [\\d,]+ entries in \\d+ ms, ${told} gaps, 0 duplicates\\.$`));

  // Another log under the same name: how much the old one had is not known, but that something may be lost is.
  await away(async () => {
    assert.equal((await fetch(`${base}/v1/sessions/${session}`, { method: "DELETE" })).status, 204);
    await publish(3);
  });
  await losses.getByText(/After entry 2,020 the session was gone .* another log/).waitFor();
  await shows({ entries: 3, gaps: missing + 1, duplicates: 0, resumes: 2 });
  assert.equal(await losses.count(), 2, "the first one stays");

  // It comes back at the third try: that is one resume.
  let tries = 0;
  await page.route("**/events", (route) => ((tries += 1) < 3 ? route.abort() : route.continue()));
  await away(async () => {});
  assert.equal(tries, 3);
  await shows({ entries: 3, gaps: missing + 1, duplicates: 0, resumes: 3 });
});
