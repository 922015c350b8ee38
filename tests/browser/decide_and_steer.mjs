// What an agent asks can be approved in one tab and is decided in the other; what is said to agents reaches them and all tabs.

import assert from "node:assert/strict";
import { run } from "./harness.mjs";
import { becomes, consoleOf } from "./console.mjs";

await run(async ({ open, api, session }) => {
  await api.ask("/runs", { run: "r1", agent: "discovery", lease_ms: 600_000 });
  const a = await open(consoleOf(session));
  const b = await open(consoleOf(session), { beside: a });
  for (const page of [a, b]) await becomes(page, "live");

  const items = ["Henderson, 14 Oak St", "Miller & Sons"];
  await api.ask("/approvals", { approval: "drop", run: "r1", prompt: { text: "Drop these leads?", items } });
  for (const page of [a, b]) {
    const asked = page.locator("#approvals .approval");
    await asked.getByText("Drop these leads?").waitFor();
    assert.deepEqual(await asked.locator("li").allTextContents(), items);
    assert.equal(await page.locator("#approvals-count").textContent(), "1");
    assert.equal(await page.locator("#tab-waiting").textContent(), "1");
  }
  await b.locator("#approvals").getByRole("button", { name: "Approve" }).press("Enter");
  for (const page of [a, b]) {
    await page.locator(".item.approval .verdict", { hasText: "Approved" }).waitFor();
    await page.locator("#approvals .empty").waitFor();
    assert.equal(await page.locator(".item.approval button:visible").count(), 0);
  }
  // Nobody who uses the keyboard is thrown back to the page's beginning.
  assert.equal(await b.evaluate(() => document.activeElement.id), "approvals-title");
  const decided = await api.until(({ type }) => type === "approval.decided");
  assert.deepEqual(decided.data.decision, "approve");

  await api.ask("/approvals", { approval: "again", run: "r1", prompt: "And these?" });
  await a.locator(".item.approval", { hasText: "And these?" }).getByRole("button", { name: "Deny" }).press("Enter");
  for (const page of [a, b]) await page.locator(".item.approval .verdict", { hasText: "Denied" }).waitFor();
  assert.equal(await a.evaluate(() => document.activeElement.textContent), "Denied");

  // Steer one run, with the keyboard.
  await a.getByRole("button", { name: "Steer r1" }).click();
  assert.equal(await a.evaluate(() => document.activeElement.id), "words");
  await a.keyboard.type("Leave out <b>everything</b> before 2024");
  await a.keyboard.press("Enter");
  const said = b.locator(".item.command", { hasText: "Leave out <b>everything</b> before 2024" });
  await said.getByText("to r1").waitFor();
  await said.locator('[data-outcome="waiting"]').waitFor();
  const { events: commands } = await api.ask("/commands?run=r1");
  const steer = commands.find(({ type }) => type === "steer");
  assert.deepEqual(steer.data, { text: "Leave out <b>everything</b> before 2024" });
  await api.ask(`/commands/${steer.command}/outcome`, { outcome: "rejected", reason: "no such year" });
  for (const page of [a, b]) await page.locator(".item.command .outcome", { hasText: "rejected: no such year" }).waitFor();

  // And say something to all.
  await b.getByLabel("To", { exact: true }).selectOption("");
  await b.getByLabel("What to say").fill("Capacity is 8 jobs a month");
  await b.getByRole("button", { name: "Send" }).click();
  await a.locator(".item.command", { hasText: "Capacity is 8 jobs a month" }).getByText("to all").waitFor();
  const message = await api.until(({ type, data }) => type === "command.issued" && data.type === "message");
  assert.deepEqual(message.data.data, { text: "Capacity is 8 jobs a month" });
});
