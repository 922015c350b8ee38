// What is said is said once: Enter pressed twice, an answer that never comes, words that go on being typed.

import assert from "node:assert/strict";
import { run } from "./harness.mjs";
import { becomes, consoleOf } from "./console.mjs";

await run(async ({ open, api, session }) => {
  const lost = [/Failed to load resource/];
  const page = await open(consoleOf(session), { expected: lost });
  await becomes(page, "live");
  const words = page.getByLabel("What to say");
  const said = async () => {
    const { events } = await api.ask("/commands");
    return events.map(({ data }) => data.text);
  };

  // The answer is held until Enter was pressed a second time, and something else was typed.
  let release;
  const held = new Promise((resolve) => (release = resolve));
  await page.route("**/commands", async (route) => {
    await held;
    await route.continue();
  });
  await words.fill("slower, please");
  await words.press("Enter");
  await words.press("Enter");
  await words.pressSequentially("and then");
  await words.press("Enter");
  release();
  await page.locator(".item.command", { hasText: "slower, please" }).waitFor();
  assert.equal(await words.inputValue(), "and then");
  await page.unrouteAll({ behavior: "wait" });
  await words.press("Enter");
  await page.locator(".item.command", { hasText: "and then" }).waitFor();
  assert.deepEqual(await said(), ["slower, please", "and then"]);

  // It arrives, and its answer does not: the words come back, and sending them again says nothing twice.
  await page.route("**/commands", async (route) => {
    await route.fetch();
    await route.abort();
  });
  await words.fill("only once");
  await words.press("Enter");
  await page.locator("#toast:visible").waitFor();
  assert.equal(await words.inputValue(), "only once");
  await page.unrouteAll({ behavior: "wait" });
  await words.press("Enter");
  await page.waitForFunction(() => document.getElementById("words").value === "");

  // It arrives, and no answer ever comes: after a while that is said, and the words are back, too.
  await page.evaluate(() => {
    const timeout = AbortSignal.timeout.bind(AbortSignal);
    AbortSignal.timeout = (ms) => timeout(ms / 50);
  });
  let end;
  const ended = new Promise((resolve) => (end = resolve));
  await page.route("**/commands", async (route) => {
    await route.fetch();
    await ended;
    await route.abort();
  });
  await words.fill("and never answered");
  await words.press("Enter");
  await page.getByRole("alert").filter({ hasText: "the gateway has not answered; try again" }).waitFor();
  assert.equal(await words.inputValue(), "and never answered");
  end();
  await page.unrouteAll({ behavior: "wait" });
  await words.press("Enter");
  await page.waitForFunction(() => document.getElementById("words").value === "");

  await words.fill("the end");
  await words.press("Enter");
  await page.locator(".item.command", { hasText: "the end" }).waitFor();
  assert.deepEqual(await said(), ["slower, please", "and then", "only once", "and never answered", "the end"]);
});
