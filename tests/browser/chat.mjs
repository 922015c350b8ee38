// The chat of examples/chat: type, stream, reload in the middle, a second tab, steer, stop, approve; while tokens end every two
// seconds and the gateway crashes.

import assert from "node:assert/strict";
import { axe, eventually, run } from "./harness.mjs";

await run(async ({ open, base, api, more: [site, chat, owner, crash] }) => {
  // The browser itself notes every refusal and every connection that breaks.
  const expected = [/401 \(Unauthorized\)/, /ERR_CONNECTION|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE/, /503 \(Service Unavailable\)/];
  const origins = [new URL(base).origin, site];
  const at = (options) => open(`${site}/chats/${chat}`, { origins, expected, ...options });
  const everything = api.bearing(owner);
  const say = async (page, text) => {
    await page.getByLabel("What you say").fill(text);
    await page.keyboard.press("Enter");
  };
  const turn = (page, text) => page.locator("article", { has: page.locator(".prompt", { hasText: text }) });
  const said = (page, text) => turn(page, text).locator(".words").last();

  // A message, in two tabs, one of which is loaded anew in the middle.
  const a = await at();
  await say(a, "Why do <b>ships</b> moor?");
  await said(a, "moor").getByText("A ship").waitFor();
  const b = await at({ beside: a });
  await said(b, "moor").getByText("A ship").waitFor();
  await a.reload();
  for (const page of [a, b]) assert.equal(await turn(page, "moor").locator(".prompt").textContent(), "Why do <b>ships</b> moor?");

  // Steered in one, stopped in the other.
  await a.getByLabel("Steer the agent").fill("the sea");
  await a.keyboard.press("Enter");
  await b.locator(".note", { hasText: "ada steers: the sea (consumed)" }).waitFor();
  await turn(b, "moor").locator(".words", { hasText: "About the sea, then:" }).waitFor();
  await b.getByRole("button", { name: "Stop" }).click();
  for (const page of [a, b]) {
    await turn(page, "moor").locator(".status", { hasText: "stopped" }).waitFor();
    assert.equal(await page.getByRole("button", { name: /Stop|Steer|Try again/ }).count(), 0);
  }

  // A gateway that crashes in the middle of an answer, which goes on behind it. Tokens have ended since, too.
  await say(a, "A crash");
  await said(a, "A crash").getByText("A ship").waitFor();
  await fetch(crash, { method: "POST" });
  await say(a, "After it");
  for (const page of [a, b]) {
    for (const words of ["A crash", "After it"]) {
      await turn(page, words).locator('.status:text-is("")').waitFor({ state: "attached" });
      assert.match(await said(page, words).textContent(), /^Message \d of this chat says “[^”]+”\. (A ship .* where she lay\. ){2}$/s);
    }
    assert.equal(await page.locator("#notice").textContent(), "");
  }

  // A question, and all ways to look at it.
  await say(b, "Send a letter");
  await a.locator(".approval", { hasText: "May I send this?" }).waitFor();
  for (const options of [{ colorScheme: "light" }, { colorScheme: "dark", viewport: { width: 320, height: 640 } }]) {
    const page = await at({ ...options, bypassCSP: true });
    await page.getByRole("button", { name: "Approve" }).waitFor();
    await page.evaluate(axe());
    const { violations } = await page.evaluate(() => window.axe.run());
    assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes[0].html} ${nodes[0].failureSummary}`), []);
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "wider than the screen");
    await page.context().close();
  }
  await a.getByRole("button", { name: "Approve" }).press("Enter");
  for (const page of [a, b]) {
    await page.locator(".verdict", { hasText: "Approved: ada" }).waitFor();
    await page.locator(".message", { hasText: "I have sent it." }).waitFor();
  }
  assert.equal(await a.evaluate(() => document.activeElement.id), "words");

  // The tabs have shown the same, each message is in the log once, and each had one agent.
  assert.equal(await a.locator("#turns").innerText(), await b.locator("#turns").innerText());
  const events = await everything.events();
  const of = (wanted) => events.filter(({ type }) => type === wanted);
  assert.deepEqual(of("prompt").map(({ data }) => data.text), ["Why do <b>ships</b> moor?", "A crash", "After it", "Send a letter"]);
  assert.deepEqual(of("run.started").map(({ data }) => data.attempt), [1, 1, 1, 1]);

  // An erased session leaves nothing on the page; a closed one says so, now and when it is loaded anew.
  const erased = await fetch(`${base}/v1/sessions/chat-${chat}`, { method: "DELETE", headers: { authorization: `Bearer ${owner}` } });
  assert.equal(erased.status, 204);
  for (const page of [a, b]) await eventually(async () => (await page.locator("article").count()) === 0);
  await everything.append({ type: "prompt", run: "by-hand", data: { text: "The last word" } });
  await turn(b, "The last word").waitFor();
  await everything.ask("/close", {});
  await a.reload();
  for (const page of [a, b]) {
    await page.locator("#connection", { hasText: "this chat is closed" }).waitFor();
    assert.ok(await page.getByLabel("What you say").isDisabled());
    assert.equal(await page.locator("article").count(), 1);
  }
});
