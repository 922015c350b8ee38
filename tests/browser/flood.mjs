// However much an agent writes and asks for, the page stays one in which all can be stopped.

import assert from "node:assert/strict";
import { eventually, run } from "./harness.mjs";
import { becomes, consoleOf, numbers } from "./console.mjs";

const MESSAGES = 60;
const APPROVALS = 400;
const ELEMENTS_MAX = 12_000;
/** Each is 40,000 characters: rows of a table, items of a list, what stands out. */
const LINES = [["|a|b|\n", "|a|b|\n|-|-|\n"], ["- x\n", ""], ["*a* `b` ", ""], [`${"|a".repeat(900)}|\n`, "|a|b|\n|-|-|\n"], ["- *a*\n*b*\n", ""]];
const TEXTS = LINES.map(([line, head]) => head + line.repeat(40_000 / line.length));

await run(async ({ open, api, session }) => {
  await api.ask("/runs", { run: "r1", agent: "flood", lease_ms: 600_000 });
  const page = await open(consoleOf(session));
  await becomes(page, "live");
  // A page that is there while it comes, and one that comes after it.
  await flood(api);
  const late = await open(consoleOf(session));
  for (const one of [page, late]) await settled(api, one);
  for (const one of [page, late]) {
    const elements = await one.evaluate(() => document.querySelectorAll("*").length);
    assert.ok(elements < ELEMENTS_MAX, `${elements} elements`);
    assert.equal(await one.locator("#approvals .approval").count(), 50);
    assert.equal(await one.locator("#approvals-count").textContent(), String(APPROVALS));
    await one.locator("#approvals > .more", { hasText: "… and 350 more" }).waitFor();
    await one.locator("#approvals .approval").last().getByText("… and 180 more items").waitFor();
  }

  // The newest can be decided, and so can what comes in its place.
  for (const name of [`Question ${APPROVALS - 1}?`, `Question ${APPROVALS - 51}?`]) {
    const card = page.locator("#approvals .approval", { hasText: name });
    await card.getByRole("button", { name: "Deny" }).click();
    await card.waitFor({ state: "detached" });
    await page.mouse.move(0, 0);
    await page.evaluate(() => document.activeElement.blur());
  }
  await late.locator("#approvals > .more", { hasText: "… and 348 more" }).waitFor();
  // Whoever points at a card keeps it, whatever comes.
  const oldest = page.locator("#approvals .approval").first();
  const words = await oldest.locator(".words").textContent();
  await oldest.hover();
  await api.ask("/approvals", { approval: "new", run: "r1", prompt: "A new one?" });
  await page.locator("#approvals > .more", { hasText: "… and 349 more" }).waitFor();
  assert.equal(await oldest.locator(".words").textContent(), words);
  assert.equal(await page.locator("#approvals", { hasText: "A new one?" }).count(), 0);
  await page.mouse.move(0, 0);
  await page.locator("#approvals .approval", { hasText: "A new one?" }).waitFor();

  // While more of it comes: it is in sight without a search, asks back, and stops.
  const more = Promise.all(TEXTS.map((text) => api.append(Array.from({ length: 5 }, () => say(text)))));
  const all = page.locator("#stop-all");
  assert.ok(await all.evaluate((button) => button.getBoundingClientRect().bottom <= innerHeight), "in sight");
  const began = Date.now();
  await all.click();
  await page.getByRole("button", { name: "Stop all runs?" }).click();
  await api.until(({ type, run }) => type === "run.stopping" && run === "r1");
  console.log(`stopped after ${Date.now() - began} ms`);
  await more;
  await api.ask("/runs/r1/end", { status: "cancelled" });
  for (const one of [page, late]) {
    await one.locator('#runs .card[data-status="cancelled"]').waitFor();
    await one.locator("#stop-all:disabled").waitFor();
  }

  // What is left out is a press away, a part at a time.
  const count = () => page.locator(".item").count();
  const before = await count();
  await page.getByRole("button", { name: /^Show earlier/ }).click();
  assert.ok((await count()) > before);
  const button = await page.getByRole("button", { name: /of this message$/ }).last().elementHandle();
  const prose = await button.evaluateHandle((element) => element.closest(".prose"));
  const inside = () => prose.evaluate((element) => element.querySelectorAll("*").length);
  const some = await inside();
  await button.click();
  const then = await inside();
  assert.ok(then > some && then < some + 3_000, `${some}, then ${then}`);
});

function say(text) {
  return { type: "message", agent: "flood", run: "r1", data: { text } };
}

async function flood(api) {
  const asked = async (n) => {
    const items = Array.from({ length: 200 }, (_, at) => `item ${at}`);
    await api.ask("/approvals", { approval: `a${n}`, run: "r1", prompt: { text: `Question ${n}?`, items } });
  };
  const messages = [];
  for (let n = 0; n < MESSAGES; n += 1) messages.push(api.append(say(TEXTS[n % TEXTS.length])));
  for (let n = 0; n < APPROVALS; n += 1) await asked(n);
  await Promise.all(messages);
}

async function settled(api, page) {
  await becomes(page, "live");
  const { length } = await api.events();
  await eventually(async () => (await numbers(page)).entries >= length);
}
