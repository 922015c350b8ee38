// 50,000 events: all are counted, few are in the page, and it stays one that can be used. Says how long it took; what that
// should be depends on the machine, so nothing here is measured against it.

import assert from "node:assert/strict";
import { eventually, run } from "./harness.mjs";
import { becomes, consoleOf, numbers } from "./console.mjs";

const COUNT = 50_000;
const BATCH = 1_000;
/** An empty page has about 150. */
const NODES_MAX = 6_000;

await run(async ({ open, api, session }) => {
  for (let from = 0; from < COUNT; from += BATCH) {
    await api.append(Array.from({ length: BATCH }, (_, at) => event(from + at)));
  }
  const page = await open("/console");
  await page.evaluate(() => {
    window.longest = 0;
  });
  await page.addInitScript(() => {
    window.tasks = [];
    new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map(({ duration }) => duration))).observe({ type: "longtask" });
  });
  await page.goto(new URL(consoleOf(session), page.url()).href);
  await becomes(page, "live");
  await eventually(async () => (await numbers(page)).entries === COUNT);
  const took = await page.evaluate(() => performance.now());
  const nodes = () => page.evaluate(() => document.querySelectorAll("*").length);
  assert.ok((await nodes()) < NODES_MAX, `${await nodes()} elements`);
  assert.deepEqual(await numbers(page), { entries: COUNT, gaps: 0, duplicates: 0, resumes: 0 });

  // The log's first and last rows can be reached; the newest is in sight by itself.
  const rows = page.locator("#log-rows");
  await rows.getByText(String(COUNT), { exact: true }).waitFor();
  await rows.focus();
  await page.keyboard.press("Home");
  await rows.locator(".row", { hasText: /^1\d\d:/ }).waitFor();
  for (let step = 0; step < 40; step += 1) {
    await rows.evaluate((element, share) => (element.scrollTop = element.scrollHeight * share), Math.abs(Math.sin(step)));
  }
  await page.keyboard.press("End");
  await page.getByLabel("Filter by type, agent, run or data").fill("agent-3");
  await page.getByText(`${(COUNT / 8).toLocaleString("en")} of 50,000`).waitFor();

  // Earlier messages come when they are wanted, in pieces.
  const earlier = page.getByRole("button", { name: /^Show earlier/ });
  const before = await page.locator(".item").count();
  await earlier.click();
  assert.ok((await page.locator(".item").count()) > before);
  await page.getByRole("button", { name: "Newest" }).click();

  // A tab of a phone begins at the newest, too, and so does the way back.
  const phone = await open(consoleOf(session), { viewport: { width: 390, height: 844 } });
  await becomes(phone, "live");
  await phone.getByRole("tab", { name: "Log" }).click();
  await phone.locator("#log-rows .row", { hasText: new RegExp(`^${COUNT}`) }).waitFor();
  await phone.getByRole("tab", { name: "Talk" }).click();
  await eventually(() => phone.locator("#conversation").evaluate((it) => it.scrollHeight - it.scrollTop - it.clientHeight < 80));
  await phone.close();

  // And what comes live is there at once.
  for (let at = 0; at < 20; at += 1) await api.append(Array.from({ length: 100 }, (_, n) => event(COUNT + at * 100 + n)));
  await eventually(async () => (await numbers(page)).entries === COUNT + 2_000);
  assert.ok((await nodes()) < NODES_MAX, `${await nodes()} elements`);
  const tasks = await page.evaluate(() => window.tasks);
  const heap = await page.evaluate(() => performance.memory?.usedJSHeapSize ?? 0);
  console.log(`${COUNT} events in ${Math.round(took)} ms; ${tasks.length} tasks above 50 ms, the longest ${Math.max(0, ...tasks)} ms; ${await nodes()} elements, ${Math.round(heap / 2 ** 20)} MiB`);
});

/** Mostly deltas of eight agents at once; a message of each has 200. */
function event(n) {
  const agent = `agent-${n % 8}`;
  const id = `m${Math.floor(n / 1600)}`;
  if (n % 400 === 7) return { type: "tool-call", agent, data: { tool: "search", n } };
  return { type: "text-delta", agent, run: `r${n % 8}`, data: { id, delta: n % 97 === 0 ? `${n}.\n\n` : `word ${n} ` } };
}
