// A stop in tab B is seen in tab A, and ends the run; another one goes on. A tree goes with its root, and "all" is all.

import assert from "node:assert/strict";
import { run } from "./harness.mjs";
import { becomes, consoleOf } from "./console.mjs";

await run(async ({ open, api, session }) => {
  for (const [name, parent] of [["r0"], ["r1", "r0"], ["r2", "r0"], ["r3"]]) {
    await api.ask("/runs", { run: name, agent: `agent-${name}`, parent, lease_ms: 600_000 });
  }
  const a = await open(consoleOf(session));
  await becomes(a, "live");
  const b = await open(consoleOf(session), { beside: a });
  await becomes(b, "live");
  const card = (page, name) => page.locator("#runs .card", { hasText: `agent-${name}` });
  const status = (page, name, status) => page.locator(`#runs .card[data-status="${status}"]`, { hasText: `agent-${name}` }).waitFor();

  await b.getByRole("button", { name: "Stop r1", exact: true }).click();
  // Both see it; the time until the gateway ends the run is counted down; the agent ends it before that.
  for (const page of [a, b]) await status(page, "r1", "stopping");
  await card(a, "r1").getByText("ends in").waitFor();
  assert.equal((await api.ask("")).runs.find(({ run }) => run === "r1").status, "stopping");
  await api.ask("/runs/r1/end", { status: "cancelled" });
  for (const page of [a, b]) {
    await status(page, "r1", "cancelled");
    await page.locator("#commands li", { hasText: "stop" }).locator('[data-outcome="consumed"]').waitFor();
  }
  for (const name of ["r0", "r2", "r3"]) await status(a, name, "running");

  await a.getByRole("button", { name: "Stop tree of r0" }).click();
  for (const name of ["r0", "r2"]) await status(b, name, "stopping");
  await status(b, "r3", "running");
  for (const name of ["r0", "r2"]) await api.ask(`/runs/${name}/end`, { status: "cancelled" });
  for (const name of ["r0", "r2"]) await status(b, name, "cancelled");

  // One press of "Stop all" asks back, and forgets it again.
  const all = b.locator("#stop-all");
  await all.dblclick();
  await all.getByText("Stop all runs?").waitFor();
  await all.getByText("Stop all", { exact: true }).waitFor();
  assert.equal((await api.ask("")).runs.find(({ run }) => run === "r3").status, "running");
  await all.click();
  await b.getByRole("button", { name: "Stop all runs?" }).click();
  await status(a, "r3", "stopping");
  // Nobody ends it: the gateway does, when the grace is over.
  for (const page of [a, b]) await status(page, "r3", "cancelled");
  await a.locator("#stop-all:disabled").waitFor();
});
