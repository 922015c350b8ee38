// The switch cuts the connection while events flow. Switched back, the page has every entry, in order, once, and says so.

import assert from "node:assert/strict";
import { eventually, run } from "./harness.mjs";
import { becomes, consoleOf, messages, numbers } from "./console.mjs";

const CUTS = 3;

await run(async ({ open, api, session }) => {
  let flowing = true;
  let sent = 0;
  const flow = (async () => {
    for (; flowing; sent += 1) await api.append({ type: "text-delta", agent: "writer", data: { id: "m1", delta: `${sent} ` } });
  })();

  const page = await open(consoleOf(session));
  await becomes(page, "live");
  const cut = page.getByRole("switch", { name: "Cut my connection" });
  for (let time = 1; time <= CUTS; time += 1) {
    await cut.click();
    await becomes(page, "off");
    assert.equal(await cut.getAttribute("aria-checked"), "true");
    // What it had when it was cut; the numbers are drawn a frame later. Nothing was trimmed: entries count from 1.
    const then = Number(/^Cut after entry (\d+)\./.exec(await page.locator("#resume").textContent())[1]);
    // The session goes on: what is missed is seen by others.
    const before = sent;
    await eventually(() => sent > before + 40);
    await eventually(async () => (await numbers(page)).entries === then);
    await eventually(() => sent > before + 80);
    assert.equal((await numbers(page)).entries, then, "nothing comes while it is cut");
    await cut.click();
    await becomes(page, "live");
    const said = await page.locator("#resume").textContent();
    const [, caughtUp] = /caught up ([\d,]+) entries in \d+ ms, 0 gaps, 0 duplicates/.exec(said) ?? assert.fail(said);
    assert.ok(Number(caughtUp.replaceAll(",", "")) >= 40, said);
    assert.equal((await numbers(page)).resumes, time);
  }
  flowing = false;
  await flow;

  const events = await api.events();
  assert.equal(events.length, sent);
  await eventually(async () => (await numbers(page)).entries === sent);
  assert.deepEqual(await numbers(page), { entries: sent, gaps: 0, duplicates: 0, resumes: CUTS });
  const whole = Array.from({ length: sent }, (_, n) => `${n} `).join("");
  await eventually(async () => (await messages(page)).join("") === whole);
});
