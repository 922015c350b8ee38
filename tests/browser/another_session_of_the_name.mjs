// A session that is erased leaves nothing on the page; what comes to life under its name is shown as it is.

import assert from "node:assert/strict";
import { run } from "./harness.mjs";
import { becomes, consoleOf, messages } from "./console.mjs";

await run(async ({ open, api, base, session }) => {
  await api.ask("/runs", { run: "old-run", agent: "old-agent", lease_ms: 600_000 });
  await api.append({ type: "message", run: "old-run", data: { text: "old words" } });
  await api.ask("/approvals", { approval: "old", run: "old-run", prompt: "Old question?" });
  await api.ask("/commands", { type: "steer", run: "old-run", data: { text: "old command" } });
  // Between the two sessions there is none to ask for.
  const page = await open(consoleOf(session), { expected: [/status of 404/] });
  await becomes(page, "live");
  await page.locator("#approvals .approval").waitFor();
  await page.locator("#runs .card", { hasText: "old-agent" }).waitFor();

  // Also what a screen reader is told.
  await api.append({ type: "message", agent: "old-agent", data: { text: "old words" } });
  await page.locator("#spoken", { hasText: "A message of old-agent" }).waitFor({ state: "attached" });

  // What the page has asked of the old one is answered when the new one is there.
  const url = `${base}/v1/sessions/${session}`;
  let release;
  const held = new Promise((resolve) => (release = resolve));
  const asked = new Promise((resolve) => {
    page.route(url, async (route) => {
      const response = await route.fetch();
      resolve();
      await held;
      await route.fulfill({ response });
    }, { times: 1 });
  });
  await asked;
  const deleted = await fetch(url, { method: "DELETE" });
  assert.equal(deleted.status, 204);
  await page.waitForFunction(() => document.getElementById("spoken").textContent === "");
  await api.append({ type: "message", agent: "new-agent", data: { text: "new words" } });
  await page.locator(".item.message .prose", { hasText: "new words" }).waitFor();
  assert.deepEqual(await messages(page), ["new words"]);
  const answered = page.waitForEvent("requestfinished", (request) => request.url() === url);
  release();
  await answered;
  await page.evaluate(() => new Promise((shown) => requestAnimationFrame(() => requestAnimationFrame(shown))));
  await page.locator("#approvals .empty").waitFor();
  await page.locator("#runs .card").waitFor({ state: "detached" });
  await api.ask("/runs", { run: "new-run", agent: "new-agent", lease_ms: 600_000 });
  await page.locator("#runs .card", { hasText: "new-agent" }).waitFor();
  const shown = await page.locator("body").innerText();
  for (const old of ["old-run", "old-agent", "old words", "Old question?", "old command"]) assert.ok(!shown.includes(old), `${old}: ${shown}`);
});
