// The page can be used by everybody: with names for what can be pressed, contrast in both themes (axe-core's rules), with the
// keyboard alone, and on a phone without scrolling sideways.

import assert from "node:assert/strict";
import { axe, run } from "./harness.mjs";
import { becomes, consoleOf } from "./console.mjs";

await run(async ({ open, api, session }) => {
  await api.ask("/runs", { run: "r1", agent: "writer", lease_ms: 600_000 });
  await api.ask("/runs", { run: "r2", agent: "reader", parent: "r1", lease_ms: 600_000 });
  await api.ask("/approvals", { approval: "a", run: "r1", prompt: { text: "May I?", items: ["one", "two"] } });
  await api.append([
    { type: "prompt", agent: "ada", data: { text: "A question, and `code`" } },
    { type: "message", agent: "writer", run: "r1", data: { text: `# A heading\n\n- a list\n\n> a quote\n\n\`\`\`\n${"code ".repeat(80)}\n\`\`\`\n\n[a link](https://example.com)` } },
    { type: "table", agent: "writer", data: { title: "A table", columns: Array.from({ length: 14 }, (_, n) => `column ${n}`), rows: [Array(14).fill(12_345.678)] } },
    { type: "file", agent: "writer", data: { name: `${"a-long-name-".repeat(20)}.md`, media_type: "text/markdown", content: "# Hello" } },
    { type: "tool-call", agent: "w".repeat(128), run: "r".repeat(128), data: { some: "x".repeat(500) } },
  ]);
  await api.ask("/commands", { type: "steer", run: "r1", data: { text: "y".repeat(500) } });
  await api.ask("/runs/r2/end", { status: "failed", reason: "z".repeat(300) });

  for (const [what, options] of [
    ["light", { colorScheme: "light" }],
    ["dark", { colorScheme: "dark" }],
    ["phone", { viewport: { width: 390, height: 844 }, colorScheme: "light" }],
    ["small phone", { viewport: { width: 320, height: 640 }, colorScheme: "dark" }],
  ]) {
    const page = await open(consoleOf(session), { ...options, bypassCSP: true });
    await becomes(page, "live");
    await page.locator(".item.raw").waitFor();
    const tabs = await page.getByRole("tab").all();
    assert.equal(tabs.length, what.includes("phone") ? 4 : 0, what);
    for (const tab of tabs.length > 0 ? tabs : [null]) {
      await tab?.click();
      const name = tab === null ? what : `${what}, ${await tab.textContent()}`;
      assert.deepEqual(await tooWide(page), [], `${name}: wider than the screen`);
      assert.deepEqual(await faults(page), [], name);
    }
  }

  // The door, too.
  const door = await open("/console", { bypassCSP: true });
  assert.deepEqual(await faults(door), [], "without a session");
  await door.getByLabel("Name of the session").fill(session);
  await door.keyboard.press("Enter");
  await becomes(door, "live");

  // With the keyboard alone: from the top to the words, and through the tabs of a phone.
  const reached = new Set();
  for (let at = 0; at < 80; at += 1) {
    await door.keyboard.press("Tab");
    reached.add(await door.evaluate(() => document.activeElement.id || document.activeElement.textContent.trim()));
  }
  for (const wanted of ["cut", "theme", "words", "send", "stop-all", "Approve", "Deny", "Steer", "Stop", "log-filter", "log-rows", "span"]) {
    assert.ok(reached.has(wanted), `${wanted} can't be reached with the keyboard: ${[...reached]}`);
  }
  const phone = await open(consoleOf(session), { viewport: { width: 390, height: 844 } });
  await becomes(phone, "live");
  await phone.getByRole("tab", { name: "Talk" }).focus();
  await phone.keyboard.press("ArrowRight");
  await phone.getByRole("tabpanel", { name: "Runs and commands" }).waitFor();
  await phone.keyboard.press("ArrowRight");
  await phone.getByRole("tabpanel", { name: "Log" }).waitFor();

  // The theme can be chosen, and stays.
  const dark = () => phone.evaluate(() => getComputedStyle(document.body).colorScheme);
  const button = phone.getByRole("button", { name: /^Theme/ });
  while (!(await button.getAttribute("aria-label")).includes("dark")) await button.click();
  assert.equal(await dark(), "dark");
  await phone.reload();
  assert.equal(await dark(), "dark");
});

/** The parts of the page whose contents do not fit. */
async function tooWide(page) {
  return page.locator("html, .top, .connection, #numbers, #numbers figure, .panel, .items, .card, .log-head, .composer").evaluateAll((parts) =>
    parts.filter((part) => part.scrollWidth > part.clientWidth + 1).map((part) => `${part.id} ${part.className} ${part.scrollWidth}`),
  );
}

async function faults(page) {
  await page.evaluate(axe());
  const { violations } = await page.evaluate(() => window.axe.run());
  return violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => `${node.html.slice(0, 200)} ${node.failureSummary}`).join(" | ")}`);
}
