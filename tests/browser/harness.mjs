// Runs a test's script in real Chromium: `node script.mjs <gateway> <session> [more …]`, started by tests/it/browser.rs.
//
// Whatever a page does that no page of ours may do fails the test by itself: an exception, a dialog, an error in the
// console (a violation of the policy is one), a request to anywhere but the gateway.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";

const modules = createRequire(join(process.env.BROWSER_MODULES, "node_modules", "from-here.js"));
const { chromium } = modules("playwright-core");
/** The text of axe-core, to be run in a page. */
export const axe = () => modules("axe-core").source;

/** Far more than any step takes on a busy machine. */
export const PATIENCE = 40_000;

const [base, session, ...rest] = process.argv.slice(2);

/**
 * Starts a browser and hands `test` what it needs: `open(options)` opens a page of a new context (a device of its own;
 * `beside` another page: a second tab of the same), `api` asks the gateway, `more` are the script's other arguments.
 */
export async function run(test) {
  const browser = await chromium.launch({ executablePath: chromiumPath(), args: flags() });
  const complaints = [];
  const open = async (url, { beside = null, origins = [new URL(base).origin], expected = [], ...options } = {}) => {
    const context = beside?.context() ?? (await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options }));
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    watch(page, origins, (complaint) => expected.some((one) => one.test(complaint)) || complaints.push(complaint));
    await page.goto(url.startsWith("/") ? base + url : url);
    return page;
  };
  try {
    await test({ open, browser, base, session, api: api(base, session), more: rest, complaints });
    assert.deepEqual(complaints, []);
  } finally {
    if (complaints.length > 0) console.error("the pages complained:", complaints);
    await browser.close();
  }
}

function watch(page, origins, complain) {
  page.on("dialog", (dialog) => {
    complain(`a dialog: ${dialog.message()}`);
    dialog.dismiss().catch(() => {});
  });
  page.on("pageerror", (error) => complain(`an exception: ${error.stack}`));
  page.on("console", (message) => message.type() === "error" && complain(`in the console: ${message.text()}`));
  page.on("popup", (popup) => complain(`a window: ${popup.url()}`));
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (!["data:", "blob:"].includes(url.protocol) && !origins.includes(url.origin)) complain(`a request: ${url}`);
  });
}

/** What agents and other surfaces do, over HTTP. */
function api(base, session, headers = {}) {
  const url = `${base}/v1/sessions/${session}`;
  const ask = async (path, body, more = {}) => {
    const method = body === undefined ? "GET" : "POST";
    const sent = body === undefined ? {} : { "content-type": "application/json" };
    const response = await fetch(url + path, { method, headers: { ...sent, ...headers, ...more }, body: body && JSON.stringify(body) });
    const text = await response.text();
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
    return text === "" ? null : JSON.parse(text);
  };
  return {
    ask,
    append: (events) => ask("/events", events),
    bearing: (token) => api(base, session, { authorization: `Bearer ${token}` }),
    /** All events there are. */
    async events() {
      const all = [];
      for (let after = ""; ; ) {
        const page = await ask(`/events?limit=1000${after}`);
        all.push(...page.events);
        if (page.up_to_date) return all;
        after = `&after=${page.next}`;
      }
    },
    /** Waits until an event is there of which `is` is true. */
    async until(is) {
      const found = await eventually(async () => (await this.events()).find(is));
      return found;
    },
  };
}

/** Waits until `probe` gives something. */
export async function eventually(probe) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const found = await probe();
    if (found) return found;
    assert.ok(Date.now() < deadline, `never: ${probe}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Debian's name, and others'. */
function chromiumPath() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  const places = process.env.PATH.split(delimiter);
  for (const name of ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"]) {
    for (const place of places) if (existsSync(join(place, name))) return join(place, name);
  }
  throw new Error("there is no Chromium: run tests/run, which installs it, or say where it is in CHROMIUM");
}

function flags() {
  // Nothing is looked up: a test must not depend on the network, nor reach it.
  const offline = ["--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost"];
  // Chromium's sandbox does not work for root.
  return process.getuid?.() === 0 ? ["--no-sandbox", ...offline] : offline;
}
