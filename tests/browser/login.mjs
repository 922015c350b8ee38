// A gateway that asks for tokens: the page asks its user for one, says what is wrong with a bad one, sends it in a header,
// and keeps it in its tab alone.

import assert from "node:assert/strict";
import { run } from "./harness.mjs";
import { becomes, consoleOf } from "./console.mjs";

// The browser itself notes every refusal.
const expected = [/status of 40[13]/];

await run(async ({ open, api, session, more: [owner, reader, stranger, expired] }) => {
  const all = api.bearing(owner);
  await all.append({ type: "message", agent: "writer", data: { text: "for those who may" } });
  await all.ask("/approvals", { approval: "a", prompt: "May I?" });

  const page = await open(consoleOf(session), { expected });
  const asked = [];
  page.on("request", (request) => asked.push(request));
  const field = page.getByLabel("Token (JWT)");
  await page.getByText("This gateway asks for a token.").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "login-token");
  for (const [token, why] of [["nonsense", /the token is refused/], [expired, /expired/], [stranger, /not for this session/]]) {
    await field.fill(token);
    await page.keyboard.press("Enter");
    await page.locator("#login-problem", { hasText: why }).waitFor();
  }
  await field.fill(reader);
  await page.getByRole("button", { name: "Go on" }).click();
  await becomes(page, "live");
  await page.locator(".item.message", { hasText: "for those who may" }).waitFor();
  assert.deepEqual(asked.map((request) => request.url()).filter((url) => url.includes("token")), []);
  assert.ok(asked.some((request) => request.headers().authorization === `Bearer ${reader}`));

  // What its rights do not allow is said, and nothing happens.
  await page.locator("#approvals").getByRole("button", { name: "Approve" }).click();
  await page.getByRole("alert").filter({ hasText: "the token does not give the right to command" }).waitFor();

  // It outlives a reload, but is not in another tab.
  await page.reload();
  await becomes(page, "live");
  const other = await open(consoleOf(session), { beside: page, expected });
  await other.getByText("This gateway asks for a token.").waitFor();
  await page.getByRole("button", { name: "Forget token" }).click();
  await page.getByText("This gateway asks for a token.").waitFor();

  // In the address behind `#` it never goes to a server, and does not stay there.
  const brought = await open(`${consoleOf(session)}#token=${owner}`, { expected });
  await becomes(brought, "live");
  assert.equal(new URL(brought.url()).hash, "");
  await brought.locator("#approvals").getByRole("button", { name: "Approve" }).click();
  await brought.locator(".item.approval .verdict", { hasText: "Approved" }).waitFor();
});
