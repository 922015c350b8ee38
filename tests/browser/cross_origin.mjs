// A page of another origin, with a token, as an application's front end is one: it appends, follows and resumes, with fetch and
// with the browser's own EventSource. The same page from an origin that was not allowed gets nothing.

import assert from "node:assert/strict";
import { run } from "./harness.mjs";

await run(async ({ open, base, session, more: [app, stranger, token] }) => {
  const url = `${base}/v1/sessions/${session}/events`;
  const origins = [new URL(base).origin, app, stranger];
  const page = await open(`${app}/`, { origins, expected: [/401 \(Unauthorized\)/, /ERR_CONNECTION|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE/] });

  // Numbered events, so that the preflight asks for all the headers there are; sent twice, as after a lost answer.
  const append = (first, numbers) =>
    page.evaluate(
      async ({ url, token, first, numbers }) => {
        const headers = {
          authorization: `Bearer ${token}`,
          "content-type": "application/json",
          "producer-id": "page",
          "producer-epoch": "0",
          "producer-seq": String(first),
          traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        };
        const body = JSON.stringify(numbers.map((data) => ({ type: "n", data })));
        const answer = await fetch(url, { method: "POST", headers, body });
        return { status: answer.status, id: answer.headers.get("x-request-id"), body: await answer.json() };
      },
      { url, token, first, numbers },
    );
  const appended = await append(0, [0, 1]);
  assert.deepEqual([appended.status, appended.body.ids.length], [201, 2]);
  assert.ok(appended.id, "the header is exposed");
  const again = await append(0, [0, 1]);
  assert.deepEqual([again.status, again.body.duplicate, again.body.ids], [200, true, appended.body.ids]);

  // A refusal can be read, and so can what it asks for.
  const refused = await page.evaluate(async (url) => {
    const answer = await fetch(url, { headers: { authorization: "Bearer nonsense" } });
    return { status: answer.status, asks: answer.headers.get("www-authenticate"), body: await answer.json() };
  }, url);
  assert.deepEqual([refused.status, refused.body.code], [401, "bad_token"]);
  assert.match(refused.asks, /^Bearer/);

  // A stream with fetch: from the start, and behind a cursor.
  const stream = (headers) =>
    page.evaluate(
      async ({ url, headers }) => {
        const stop = new AbortController();
        const answer = await fetch(url, { headers: { accept: "text/event-stream", ...headers }, signal: stop.signal });
        const seen = { status: answer.status, id: answer.headers.get("x-request-id"), text: "" };
        const text = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        while (!seen.text.includes("event: caught-up")) seen.text += (await text.read()).value;
        stop.abort();
        return seen;
      },
      { url, headers },
    );
  const data = (text) => [...text.matchAll(/"data":(\d+)/g)].map((found) => Number(found[1]));
  const authorization = `Bearer ${token}`;
  const whole = await stream({ authorization });
  assert.deepEqual([whole.status, data(whole.text)], [200, [0, 1]]);
  assert.ok(whole.id, "the header is exposed");
  const rest = await stream({ authorization, "last-event-id": appended.body.ids[0] });
  assert.deepEqual(data(rest.text), [1]);

  // The browser's own: it can send no headers, and comes back by itself behind what it had.
  await page.evaluate(
    (url) => {
      window.seen = [];
      window.opened = 0;
      window.source = new EventSource(url);
      window.source.onopen = () => (window.opened += 1);
      window.source.onmessage = (message) => window.seen.push(JSON.parse(message.data).data);
    },
    `${url}?access_token=${token}`,
  );
  const sees = (numbers) => page.waitForFunction((wanted) => JSON.stringify(window.seen) === wanted, JSON.stringify(numbers));
  await sees([0, 1]);
  await append(2, [2]);
  await sees([0, 1, 2]);
  // Every connection to the gateway breaks.
  await fetch(`${app}/cut`, { method: "POST" });
  await page.waitForFunction(() => window.opened === 2);
  await append(3, [3]);
  await sees([0, 1, 2, 3]);
  await page.evaluate(() => window.source.close());
  // A new one begins where an earlier page was.
  const after = await page.evaluate(
    (url) =>
      new Promise((resolve) => {
        const source = new EventSource(url);
        const seen = [];
        source.onmessage = (message) => seen.push(JSON.parse(message.data).data);
        source.addEventListener("caught-up", () => {
          source.close();
          resolve(seen);
        });
      }),
    `${url}?access_token=${token}&after=${appended.body.ids[1]}`,
  );
  assert.deepEqual(after, [2, 3]);

  // From an origin that nobody allowed: the browser lets it read nothing and send nothing.
  const evil = await open(`${stranger}/`, { origins, expected: [/blocked by CORS policy/, /net::ERR_FAILED/] });
  const tried = await evil.evaluate(
    async ({ url, token }) => {
      const said = (promise) => promise.then(() => "it went through", (error) => error.name);
      const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
      const source = new EventSource(`${url}?access_token=${token}`);
      // At once: it may have failed before the others have.
      const opened = new Promise((resolve) => {
        source.onopen = () => resolve("it went through");
        source.onerror = () => resolve(source.readyState === EventSource.CLOSED ? "closed" : "tries again");
      });
      return {
        simple: await said(fetch(`${url}?access_token=${token}`)),
        posted: await said(fetch(url, { method: "POST", headers, body: JSON.stringify({ type: "n", data: 666 }) })),
        source: await opened,
      };
    },
    { url, token },
  );
  assert.deepEqual(tried, { simple: "TypeError", posted: "TypeError", source: "closed" });
  const log = await stream({ authorization });
  assert.deepEqual(data(log.text), [0, 1, 2, 3]);
});
