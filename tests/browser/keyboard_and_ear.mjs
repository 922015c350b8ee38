// Whoever uses the keyboard stays where they are when what they pressed goes away; whoever listens hears of all that waits.
// What can't be asked any more says so.

import assert from "node:assert/strict";
import { eventually, run } from "./harness.mjs";
import { becomes, consoleOf } from "./console.mjs";

await run(async ({ open, api, session }) => {
  for (const name of ["r1", "r2"]) await api.ask("/runs", { run: name, agent: `agent-${name}`, lease_ms: 600_000 });
  const page = await open(consoleOf(session));
  await becomes(page, "live");
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className);

  // A run that was stopped: on its card, not at the page's beginning.
  await page.getByRole("button", { name: "Stop r1", exact: true }).press("Enter");
  await page.locator('#runs .card[data-status="stopping"]').waitFor();
  await api.ask("/runs/r1/end", { status: "cancelled" });
  await page.locator('#runs .card[data-status="cancelled"]').waitFor();
  assert.equal(await focused(), "card");
  assert.match(await page.evaluate(() => document.activeElement.textContent), /r1/);

  // Two that ask at about the same time are both heard, also among much else; so is one that asks after them.
  const spoken = page.locator("#spoken p");
  for (const name of ["a", "b"]) await api.ask("/approvals", { approval: name, run: "r2", prompt: `Question ${name}?` });
  await api.append(Array.from({ length: 30 }, (_, n) => ({ type: "message", agent: "ada", data: { text: `${n}` } })));
  await api.ask("/approvals", { approval: "c", run: "r2", prompt: "Question c?" });
  for (const name of ["a", "b", "c"]) await spoken.filter({ hasText: `agent-r2 asks for a decision: Question ${name}?` }).waitFor({ state: "attached" });
  assert.ok((await spoken.count()) <= 20);

  // What was decided: on the heading in the panel, on the verdict in the conversation.
  await page.locator("#approvals .approval", { hasText: "Question a?" }).getByRole("button", { name: "Approve" }).press("Enter");
  await page.locator("#approvals .approval", { hasText: "Question a?" }).waitFor({ state: "detached" });
  assert.equal(await focused(), "approvals-title");
  await page.locator(".item.approval", { hasText: "Question b?" }).getByRole("button", { name: "Approve" }).press("Enter");
  await eventually(async () => (await focused()) === "verdict");

  // All are stopped: on the heading, for the button can't be pressed any more.
  const all = page.locator("#stop-all");
  await all.press("Enter");
  await page.getByRole("button", { name: "Stop all runs?" }).press("Enter");
  await page.locator('#runs .card[data-status="stopping"]').waitFor();
  await api.ask("/runs/r2/end", { status: "cancelled" });
  await page.locator("#stop-all:disabled").waitFor();
  assert.equal(await focused(), "runs-title");

  // A closed session takes no words; they stay where they are.
  await page.getByLabel("What to say").fill("half a sentence");
  await api.ask("/close", {});
  await becomes(page, "closed");
  for (const place of [page, await open(consoleOf(session))]) {
    await place.getByText("The session is closed: it takes no more messages.").waitFor();
    for (const id of ["to", "words", "send"]) assert.ok(await place.locator(`#${id}`).isDisabled(), id);
  }
  assert.equal(await page.getByLabel("What to say").inputValue(), "half a sentence");
  assert.equal(await focused(), "conversation");
});
