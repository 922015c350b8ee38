// Whatever agents write is shown as text: it becomes no element, runs nothing, asks for nothing, breaks nothing.

import assert from "node:assert/strict";
import { eventually, run } from "./harness.mjs";
import { becomes, consoleOf, messages, numbers } from "./console.mjs";

const SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)><iframe src='https://example.com'></iframe>";
const LINKS = "[a](javascript:alert(4)) [b](data:text/html,<script>alert(5)</script>) [c](//example.com) [d](https://example.com/ok)";
const RTL = "‮evil‬ שלום עולם مرحبا بالعالم";
const EMOJI = "👩‍👩‍👧‍👦 🏴‍☠️ e\u0301 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤A̴̵̜̰͔ͫ͗͢LGO \u0000 \u2028 \ud83d";
const HUGE = "x".repeat(200 * 1024);
const BRACKETS = "[".repeat(60_000) + "**".repeat(30_000) + "`".repeat(9_001);

await run(async ({ open, api, session }) => {
  const page = await open(consoleOf(session));
  await becomes(page, "live");
  const agent = "constructor";
  const say = (text) => api.append({ type: "message", agent, data: { text } });
  for (const text of [SCRIPT, LINKS, RTL, EMOJI, HUGE, BRACKETS, `| a | b |\n|---|---|\n| ${SCRIPT} | ${LINKS} |`]) await say(text);
  for (const piece of SCRIPT.match(/.{1,3}/gs)) await api.append({ type: "text-delta", agent, data: { id: "__proto__", delta: piece } });
  const odd = [
    { type: "toString", data: SCRIPT },
    { type: "__proto__", agent: "__proto__", run: "hasOwnProperty", data: { __proto__: { x: 1 } } },
    { type: "<img/src/onerror=alert(6)>", agent: "-", data: null },
    { type: "text-delta", data: 7 },
    { type: "text-delta", data: { id: {}, delta: [] } },
    { type: "text-end", data: null },
    { type: "message", data: { text: { a: SCRIPT } } },
    { type: "table", agent, data: { title: SCRIPT, columns: [SCRIPT, 1, null], rows: [[SCRIPT, { a: 1 }, null], [], ["a", "b", "c", "d"]], note: SCRIPT } },
    { type: "table", data: { columns: "no", rows: [1] } },
    { type: "file", agent, data: { name: `../../${SCRIPT}.html`, media_type: "text/html", content: SCRIPT } },
    { type: "file", agent, data: { name: "x", media_type: "text/markdown", content: LINKS } },
    { type: "file", data: { name: 5 } },
  ];
  await api.append(odd);
  await api.ask("/runs", { run: "__proto__", agent: "toString", lease_ms: 600_000 });
  await api.ask("/approvals", { approval: "a", run: "__proto__", prompt: { text: SCRIPT, items: [SCRIPT, 5, null, [SCRIPT]] } });
  await api.ask("/approvals", { approval: "b", prompt: [SCRIPT] });
  await api.ask("/commands", { type: "steer", run: "nobody", id: "constructor", data: { text: SCRIPT } });
  await api.ask("/commands", { type: "<b>", id: "__proto__", data: [SCRIPT] });
  await api.ask("/commands/__proto__/outcome", { outcome: "rejected", reason: SCRIPT });
  await api.ask("/runs/__proto__/end", { status: "failed", reason: SCRIPT });

  const count = (await api.events()).length;
  await eventually(async () => (await numbers(page)).entries === count);
  const shown = await eventually(async () => {
    const texts = await messages(page);
    return texts.length === 8 && texts;
  });
  assert.equal(shown[0], SCRIPT);
  assert.equal(shown[2], RTL);
  assert.ok(shown[4].replaceAll(/Show .* of this message/g, "").length >= 36_000, "the newest part of a huge text is there");
  assert.equal(shown[7], SCRIPT);
  assert.equal(await page.locator("main :is(script, iframe, svg, object, embed, img)").count(), 0);
  const links = await page.locator("main a").evaluateAll((links) => links.map(({ href, rel, target }) => [href, rel, target]));
  assert.deepEqual(new Set(links.map(String)), new Set(["https://example.com/ok,noopener noreferrer,_blank"]));
  assert.equal(await page.locator("[onerror], [onload], [style*=url]").count(), 0);

  // All of a huge message is there if somebody wants it.
  const huge = page.locator(".item.message").nth(4);
  await huge.getByRole("button", { name: /Show .* of this message/ }).click();
  assert.equal((await huge.locator(".prose p").allTextContents()).join("").length, HUGE.length);

  // A file is saved as what it is, not opened; its name does not lead anywhere.
  await page.getByText("Preview").first().click();
  const [saved] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: /^Download/ }).first().click()]);
  assert.doesNotMatch(saved.suggestedFilename(), /[/\\]/);

  // And the page still lives.
  await say("still here");
  await page.getByText("still here").first().waitFor();
  await page.locator("#log-rows").focus();
  for (let at = 0; at < 30; at += 1) await page.keyboard.press("ArrowUp");
  await page.locator("#log-detail-json").waitFor();

  // A page that comes later sees the same.
  const late = await open(consoleOf(session), { viewport: { width: 390, height: 844 } });
  await becomes(late, "live");
  await eventually(async () => (await messages(late)).includes(SCRIPT));
  assert.ok(await late.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "nothing is wider than the screen");
});
