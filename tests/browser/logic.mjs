// What the console's modules reckon, without a page around them: run in the browser, where they live.

import { run } from "./harness.mjs";

await run(async ({ open }) => {
  const page = await open("/console");
  await page.evaluate(async () => {
    const equal = (found, wanted, what = "") => {
      const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
      if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
    };
    const [{ Decoder }, { Ledger, parseId }, { Blocks, inline }, { Model }, { Connection }, { shown, waiting }, { lossWords, resumeWords }] = await Promise.all(
      ["sse", "ledger", "markdown", "model", "connection", "panel", "tell"].map((name) => import(`/console/${name}.js`)),
    );
    let seed = 12_345;
    const random = (below) => {
      seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
      return seed % below;
    };

    // Frames are the same however the bytes are cut, and whatever ends the lines.
    const text = 'retry: 700\nid: 1-1\ndata: {"a":"ä€👍"}\n\n:\nevent: caught-up\ndata: {}\n\n:\nid: 2-2\ndata:x\ndata: y\n\nevent: reset\n\nid: 3-3\ndata: half';
    for (const end of ["\n", "\r\n", "\r"]) {
      const bytes = new TextEncoder().encode(text.replaceAll("\n", end));
      for (let round = 0; round < 200; round += 1) {
        const decoder = new Decoder();
        const frames = [];
        for (let at = 0; at < bytes.length; ) {
          const size = 1 + random(round < 50 ? 2 : 30);
          frames.push(...decoder.push(bytes.slice(at, at + size)));
          at += size;
        }
        equal(frames, [
          { event: null, id: "1-1", data: '{"a":"ä€👍"}', retry: 700 },
          { event: "caught-up", id: null, data: "{}", retry: null },
          { event: null, id: "2-2", data: "x\ny", retry: null },
        ], `frames, ${JSON.stringify(end)}`);
      }
    }

    // Holes and repeats are counted by `n`, and what a resume brought by itself.
    equal([parseId("5-7"), parseId("5"), parseId("x-1")], [{ ms: 5, n: 7 }, null, null]);
    const ledger = new Ledger();
    equal(["1-5", "1-6", "2-6", "3-9", "3-8"].map((id) => ledger.take(id)), [true, true, false, true, false]);
    equal([ledger.entries, ledger.gaps, ledger.duplicates, ledger.last], [3, 2, 2, "3-9"]);
    ledger.returning(50);
    ledger.returning(100);
    for (const id of ["3-9", "4-10", "4-12"]) ledger.take(id);
    const back = ledger.caughtUp(130);
    equal(back, { from: "3-9", entries: 2, gaps: 1, duplicates: 1, took: 30 });
    equal(resumeWords(back), "Back after entry 9: caught up 2 entries in 30 ms, 1 gap, 1 duplicate.");
    equal([ledger.resumes, ledger.caughtUp(140), ledger.resumes], [1, null, 1], "two attempts are one return");

    // A log that was cut behind the page is one with a hole, whose size the ids tell; of another log nobody knows.
    const cut = new Ledger();
    for (let n = 1; n <= 20; n += 1) cut.take(`1-${n}`);
    cut.returning(0);
    const trimmed = cut.reset({ reason: "trimmed", first: "2-1971" });
    equal([lossWords(trimmed).includes("1,950 entries are missing"), cut.last, cut.entries], [true, null, 0]);
    for (let n = 1971; n <= 2020; n += 1) cut.take(`2-${n}`);
    equal(cut.caughtUp(29), { from: "1-20", entries: 50, gaps: 1950, duplicates: 0, took: 29 });
    equal([cut.gaps, cut.duplicates, cut.last], [1950, 0, "2-2020"]);
    // What is trimmed between the frame and its first entry is missing, too.
    cut.reset({ reason: "trimmed", first: "3-2022" });
    cut.take("3-2024");
    equal(cut.gaps, 1950 + 1 + 2, "trimmed meanwhile");
    equal(lossWords(cut.reset({ reason: "trimmed", first: "3-2025" })).includes("nothing is missing"), true);
    cut.take("3-2025");
    cut.reset({ reason: "trimmed", first: null });
    cut.take("4-2028");
    equal(cut.gaps, 1953 + 2, "an empty log");
    for (const [reason, words] of [["deleted", "another log"], ["unknown", "no longer holds"], ["of tomorrow", "no longer holds"]]) {
      cut.take("5-3000");
      const { gaps } = cut;
      equal(lossWords(cut.reset({ reason, first: "9-4" })).includes(words), true, reason);
      equal([cut.take("9-4"), cut.gaps, cut.duplicates], [true, gaps + 1, 0], reason);
    }
    equal([new Ledger().reset({ reason: "deleted" }), new Ledger().reset({ reason: "trimmed", first: "1-1" })], [null, null], "nothing was seen");

    // Text that comes in pieces gives the same blocks as text that comes whole.
    const document_ = "# One\n\ntext **bold\nmore** `c`\n- a\n- b\n  of b\n1. x\n\n| a | b |\n|---|:-:|\n| 1 | 2 |\n\n> q\n> r\n\n```js\n# no heading\n\n- no list\n```\nafter\n\n---\nend";
    const whole = new Blocks();
    whole.push(document_);
    const kinds = whole.blocks.map(({ kind, items }) => [kind, items]);
    equal(kinds, [
      ["h", ["One"]],
      ["p", ["text **bold", "more** `c`"]],
      ["ul", ["a", "b of b"]],
      ["ol", ["x"]],
      ["table", [["a", "b"], ["1", "2"]]],
      ["quote", ["q", "r"]],
      ["code", ["# no heading", "", "- no list"]],
      ["p", ["after"]],
      ["hr", []],
      ["p", ["end"]],
    ], "blocks");
    const headings = new Blocks();
    headings.push("# C#\n## closed ##\n### ###\n#### a # b\n");
    equal(headings.blocks.map(({ items }) => items[0]), ["C#", "closed", "", "a # b"], "headings");
    for (let round = 0; round < 300; round += 1) {
      const pieces = new Blocks();
      for (let at = 0; at < document_.length; ) {
        const size = 1 + random(round < 20 ? 1 : 12);
        pieces.push(document_.slice(at, at + size));
        at += size;
      }
      equal(pieces.blocks.map(({ kind, items }) => [kind, items]), kinds, "blocks in pieces");
    }
    equal(inline("a **b** `<i>` [x](https://e.org) [y](javascript:1) *z*").map(({ kind, text, href }) => [kind, text, href ?? ""]), [
      ["text", "a ", ""], ["strong", "b", ""], ["text", " ", ""], ["code", "<i>", ""], ["text", " ", ""],
      ["link", "x", "https://e.org"], ["text", " [y](javascript:1) ", ""], ["em", "z", ""],
    ], "spans");
    // Lines of any length are cut, and nothing is lost; no character is cut in two.
    const long = new Blocks();
    const emoji = "👍".repeat(9_999);
    for (let at = 0; at < emoji.length; at += 777) long.push(emoji.slice(at, at + 777));
    equal(long.blocks.length > 3 && long.blocks.flatMap(({ items }) => items).join("") === emoji, true, "a long line");
    equal(long.blocks.every(({ items }) => items.every((item) => item.isWellFormed?.() ?? true)), true, "whole characters");

    // Whatever a message holds, it has a few hundred elements; a press brings some more, and the last press all of it.
    const { Prose } = await import("/console/prose.js");
    const elements = (element) => element.querySelectorAll("*").length;
    const rows = (row) => `|a|b|\n|-|-|\n${row.repeat(40_000 / row.length)}`;
    const crowds = {
      rows: rows("|a|b|\n"),
      cells: rows(`${"|a".repeat(1_900)}|\n`),
      "what stands out in cells": rows(`${"|*a*`b`".repeat(300)}|\n`),
      items: "- x\n".repeat(10_000),
      "what stands out in items": "- *a\nb* `c` [d](http://e)\n".repeat(1_600),
      "an item that goes on": `- x\n${"*a* `b`\n".repeat(5_000)}`,
      "what stands out": "*a*".repeat(13_000),
      "lines that stand out": "*a\nb*\n".repeat(6_000),
      headings: "# *a*\n".repeat(6_000),
      rules: "---\n".repeat(10_000),
      "lines of code": `\`\`\`\n${"\n".repeat(40_000)}`,
      quotes: "> *a*\n".repeat(6_000),
    };
    for (const [what, crowd] of Object.entries(crowds)) {
      const whole = new Prose();
      whole.show(crowd);
      const growing = new Prose();
      for (let at = 0; at < crowd.length; at += 4_999) {
        growing.show(crowd.slice(0, at + 4_999));
        equal(elements(growing.element) <= 700, true, `${what}, growing: ${elements(growing.element)} elements`);
      }
      const first = elements(whole.element);
      equal(first > 5 && first <= 700, true, `${what}: ${first} elements`);
      const lines = whole.element.innerText.split("\n").length;
      equal(lines < 2_000, true, `${what}: ${lines} lines`);
      let presses = 0;
      for (let before = first; whole.element.querySelector("button.quiet") !== null; presses += 1) {
        whole.element.querySelector("button.quiet").click();
        const now = elements(whole.element);
        equal(now > before && now - before < 3_000, true, `${what}: ${before}, then ${now}`);
        before = now;
      }
      equal(presses > 0, true, `${what}: ${presses} presses`);
    }
    const broad = new Blocks();
    broad.push(`|a|b|\n|-|-|\n|${Array.from({ length: 60 }, (_, n) => n).join("|")}|`);
    equal([broad.blocks[0].items[1].length, broad.blocks[0].items[1].at(-1)], [50, "49 | 50 | 51 | 52 | 53 | 54 | 55 | 56 | 57 | 58 | 59"], "cells");
    equal([inline("*a*".repeat(200)).length, inline("*a*".repeat(200)).at(-1).text], [101, "*a*".repeat(100)], "the rest is as written");

    // All that is shown has a few thousand, whether one reads the end or further up.
    const { Conversation } = await import("/console/conversation.js");
    const scroller = document.createElement("div");
    scroller.style.cssText = "height: 300px; overflow: auto";
    document.body.append(scroller);
    const talk = new Conversation(scroller, () => {});
    const crowded = new Model();
    const items = Array.from({ length: 200 }, (_, n) => `item ${n}`);
    const wide = { columns: Array(60).fill("c"), rows: Array(300).fill(Array(60).fill(1)) };
    const happens = (n) => {
      const text = Object.values(crowds)[n % Object.keys(crowds).length];
      crowded.take(`1-${4 * n + 1}`, JSON.stringify({ type: "message", agent: "a", data: { text } }));
      crowded.take(`1-${4 * n + 2}`, JSON.stringify({ type: "table", agent: "a", data: wide }));
      crowded.take(`1-${4 * n + 3}`, JSON.stringify({ type: "approval.requested", agent: "a", data: { approval: `a${n}`, prompt: { text: "?", items } } }));
      crowded.take(`1-${4 * n + 4}`, JSON.stringify({ type: "message", agent: "a", data: { text: "x ".repeat(20_000) } }));
    };
    for (let n = 0; n < 60; n += 1) {
      happens(n);
      if (n > 5) for (let turn = 0; talk.update(crowded); turn += 1) equal(turn < 100, true, "an end of it");
      equal(elements(scroller) < 8_000, true, `${elements(scroller)} elements are shown`);
    }
    const newest = () => scroller.querySelector(".items").lastChild.textContent.includes("x x x");
    equal(newest(), true, "the newest is shown");
    equal(scroller.querySelector(".asked").childElementCount, 21);
    equal(scroller.querySelector(".asked").lastChild.textContent, "… and 180 more items, which the log has");
    const [there, had] = [scroller.querySelectorAll(".item").length, elements(scroller)];
    scroller.querySelector(".earlier").click();
    equal(scroller.querySelectorAll(".item").length > there, true, "earlier ones");
    equal(elements(scroller) - had < 5_000, true, "a press brings so many");
    for (let n = 60; n < 120; n += 1) happens(n);
    talk.update(crowded);
    equal(elements(scroller) < 14_000, true, `${elements(scroller)} elements are shown to a reader`);
    talk.toEnd();
    for (let turn = 0; talk.update(crowded); turn += 1) equal(turn < 100, true, "an end of it");
    equal([newest(), elements(scroller) < 8_000], [true, true], "back at the end");
    scroller.remove();

    // Deltas become messages by agent, run and id; without an id, by who speaks without a pause.
    const model = new Model();
    let n = 0;
    const take = (event) => model.take(`${1_000 + n}-${(n += 1)}`, JSON.stringify(event));
    const delta = (agent, run, data) => take({ type: "text-delta", agent, run, data });
    delta("a", "r1", { id: "m", delta: "Hel" });
    delta("b", "r2", { id: "m", delta: "Wor" });
    delta("a", "r1", { id: "m", delta: "lo" });
    delta("b", "r2", { id: "m", delta: "ld" });
    take({ type: "text-end", agent: "b", run: "r2", data: { id: "m" } });
    delta("b", "r2", { id: "m", delta: "anew" });
    delta("c", null, { delta: "one " });
    delta("a", "r1", { id: "n", delta: "-" });
    delta("c", null, { delta: "two" });
    take({ type: "tool", agent: "c" });
    delta("c", null, "three");
    equal(model.items.map((item) => item.text ?? item.type), ["Hello", "World", "anew", "one two", "-", "tool", "three"], "messages");
    equal(model.items.filter((item) => item.open).length, 3, "open messages");

    // Models' streams, posted as they come: their text is one growing message, their frame is nothing, and what else they
    // say is shown.
    const streamsOf = (events) => {
      const one = new Model();
      events.forEach(([type, data], n) => one.take(`1-${n + 1}`, JSON.stringify({ type, agent: "a", run: "r", data: typeof data === "string" ? data : { type, ...data } })));
      return one.items.map((item) => (item.kind === "message" ? `${item.text}${item.open ? "…" : ""}` : item.type));
    };
    const chunk = (choice, id = "c1") => ["message", { type: undefined, id, object: "chat.completion.chunk", choices: choice === null ? [] : [{ index: 0, finish_reason: null, ...choice }] }];
    const chat = [chunk({ delta: { role: "assistant", content: "" } }), chunk({ delta: { content: "Hel" } }), chunk({ delta: { content: "lo" } })];
    equal(streamsOf(chat), ["Hello…"], "chat completions");
    equal(streamsOf([...chat, chunk({ delta: {}, finish_reason: "stop" }), chunk(null), chunk({ delta: { content: "Next" } }, "c2")]), ["Hello", "Next…"], "two of them");
    equal(streamsOf([...chat, chunk({ delta: {}, finish_reason: "length" })]), ["Hello…", "message"], "an unusual end");
    equal(streamsOf([...chat, chunk({ delta: { tool_calls: [{ index: 0 }] } })]), ["Hello…", "message"], "a tool");
    const output = (delta, item_id = "m1") => ["response.output_text.delta", { item_id, output_index: 0, delta }];
    const began = [["response.created", { response: {} }], ["response.output_item.added", { item: { type: "message" } }], ["response.content_part.added", { item_id: "m1", part: { type: "output_text" } }]];
    const over = [["response.output_text.done", { item_id: "m1", text: "Hello" }], ["response.completed", { response: {} }]];
    equal(streamsOf([...began, output("Hel"), output("Wor", "m2"), output("lo"), ...over]), ["Hello", "Wor"], "responses");
    const block = (text) => ["content_block_delta", { index: 0, delta: { type: "text_delta", text } }];
    const anthropic = [["message_start", { message: {} }], ["content_block_start", { index: 0, content_block: { type: "text", text: "" } }], ["ping", {}], block("Hel"), ["ping", {}], block("lo")];
    equal(streamsOf(anthropic), ["Hello…"], "content blocks");
    equal(streamsOf([...anthropic, ["message_start", { message: {} }], block("Anew")]), ["Hello", "Anew…"], "a stream that broke, and its next try");
    equal(streamsOf([...anthropic, ["content_block_stop", { index: 0 }], ["content_block_start", { index: 1, content_block: { type: "tool_use" } }], ["content_block_stop", { index: 1 }], block("More"), ["message_delta", { delta: { stop_reason: "end_turn" } }], ["message_stop", {}]]), ["Hello", "content_block_start", "More"], "a tool between");
    equal(streamsOf([["token", "a"], ["TEXT_MESSAGE_CHUNK", { delta: "b" }], ["progress", { delta: { content: "c" } }], ["text-delta", { text: "d" }]]), ["abcd…"], "whatever else has a delta");
    equal(streamsOf([["ping", "x"], ["message", "y"], ["progress", { delta: 5 }], ["x", { choices: "abc", delta: null }], ["y", { choices: [null] }]]), ["ping", "y", "progress", "x", "y"], "what only looks like it");

    // What is written after a steer stands below it, whoever it names; what has an id stays one message; so do others.
    const steered = (whom, type = "steer") => {
      const one = new Model();
      let n = 0;
      const take = (event) => one.take(`1-${(n += 1)}`, JSON.stringify(event));
      const write = (word) => {
        take({ type: "text-delta", agent: "a", run: "r1", data: { delta: word } });
        take({ type: "text-delta", agent: "a", run: "r1", data: { id: "m", delta: word } });
        take({ type: "text-delta", agent: "b", run: "r2", data: { delta: word } });
      };
      write("one ");
      take({ type: "command.issued", ...whom, data: { command: "c", type, data: { text: "shorter" } } });
      write("two ");
      return one.items.map((item) => (item.kind === "message" ? `${item.agent}: ${item.text}` : "·"));
    };
    const [both, above] = [["a: one two ", "b: one two "], ["a: one ", "a: one two "]];
    for (const whom of [{ run: "r1" }, { agent: "a" }, { agent: "a", run: "r1" }]) equal(steered(whom), [...above, "b: one two ", "·", "a: two "], JSON.stringify(whom));
    equal(steered({}, "message"), [...above, "b: one ", "·", "a: two ", "b: two "], "everyone");
    equal(steered({ run: "r3" }), ["a: one two ", ...both, "·"], "another");
    equal(steered({}, "decide"), ["a: one two ", ...both, "·"], "a decision");

    // Short members are told in words, the rest as JSON.
    const rawOf = (data) => {
      const one = new Model();
      one.take("1-1", JSON.stringify({ type: "finding", data }));
      const [{ pairs, sample }] = one.items;
      return [pairs.map((pair) => pair.join(": ")), sample];
    };
    const figures = { a: 1 };
    equal(rawOf({ title: "Pipeline", n: 3, ok: true, none: null }), [["title: Pipeline", "n: 3", "ok: true", "none: null"], ""]);
    equal(rawOf({ title: "Pipeline", figures, parts: [1] }), [["title: Pipeline"], '{"figures":{"a":1},"parts":[1]}']);
    equal(rawOf({ long: "x".repeat(200), b: 1 }), [["b: 1"], `{"long":"${"x".repeat(200)}"}`]);
    equal(rawOf(JSON.parse('{"__proto__":{"x":1},"y":2}')), [["y: 2"], '{"__proto__":{"x":1}}']);
    const thirteen = Object.fromEntries(Array.from({ length: 13 }, (_, n) => [`k${n}`, n]));
    for (const data of [{ figures }, [1, 2], "text", 5, thirteen, {}]) equal(rawOf(data), [[], typeof data === "string" ? data : JSON.stringify(data)]);

    // A run's ending shuts its messages; an older answer of the gateway does not bring it back to life.
    take({ type: "run.started", agent: "a", run: "r1", data: { attempt: 1, lease_ms: 500 } });
    take({ type: "run.ended", agent: "a", run: "r1", data: { attempt: 1, status: "lost" } });
    model.takeState({ now: Date.now(), closed: null, runs: [{ run: "r1", attempt: 1, status: "running", lease_until: Date.now() }] });
    equal([model.runs.get("r1").status, model.items[0].open, model.live().length], ["lost", false, 0], "a run that is over");
    take({ type: "run.started", agent: "a", run: "r1", data: { attempt: 2, lease_ms: 500 } });
    equal([model.runs.get("r1").status, model.runs.get("r1").attempt], ["running", 2], "its next attempt");

    // What is asked is shown whole, however the prompt is made.
    const asks = (approval, prompt) => {
      take({ type: "approval.requested", agent: "a", data: { approval, prompt } });
      const { words, items, more } = model.approvals.get(approval);
      return [words, items, more];
    };
    equal(asks("a1", "Sure?"), ["Sure?", [], ""]);
    equal(asks("a2", { text: "Drop?", items: ["x", 1] }), ["Drop?", ["x", "1"], ""]);
    equal(asks("a3", { text: "Clean up?", command: "rm" }), ["Clean up?", [], '{\n "command": "rm"\n}']);
    equal(asks("a4", { text: "", sql: "DROP" }), ['{"text":"","sql":"DROP"}', [], ""]);

    // What waits is shown although the log begins after it, once all of the log has been read that the gateway speaks of.
    const waits = (n, approvals) => {
      const pending_approvals = approvals.map((approval) => ({ approval, agent: "old", run: null, expires: Date.now(), on_expiry: "deny" }));
      const pending_commands = [{ command: "c0", type: "steer", agent: null, run: "r1", entry: "1-1", issued: 1 }];
      model.takeState({ now: Date.now(), lanes: { events: { last: `1-${n}` } }, runs: [], pending_approvals, pending_commands });
      return [model.approvals.get("old")?.item.agent, model.commands.get("c0")?.type];
    };
    const read = model.lastN;
    equal(waits(read + 1, ["old"]), [null, null], "an answer ahead of the log");
    equal(waits(read, ["old"]), ["old", "steer"], "what waits behind the log's beginning");
    equal(waits(read, []), [null, "steer"], "decided since");

    // A tree too large for the panel keeps what is live and what is above it.
    const runs = new Map();
    const start = (run, parent, status) => runs.set(run, { run, parent, status });
    start("root", null, "running");
    start("mid", "root", "completed");
    for (let n = 0; n < 300; n += 1) start(`old${n}`, "root", "completed");
    start("leaf", "mid", "running");
    const kept = shown(runs).map(({ run, depth }) => `${run.run} ${depth}`);
    equal([kept.length, kept.slice(0, 4), kept.at(-1)], [200, ["root 0", "mid 1", "leaf 2", "old103 1"], "old299 1"]);
    runs.clear();
    for (let n = 0; n < 10_000; n += 1) start(`r${n}`, n === 0 ? null : `r${n - 1}`, "running");
    equal(shown(runs).length, 10_000, "a deep tree");

    // Of what waits, the newest; and what somebody is at.
    const open_ = Array.from({ length: 400 }, (_, n) => ({ approval: `a${n}` }));
    const names = (held) => waiting(open_, new Map(held.map((name) => [name, null]))).map(({ approval }) => approval);
    equal([names([]).length, names([])[0], names([]).at(-1)], [50, "a350", "a399"]);
    equal([names(["a3"]).length, names(["a3"]).slice(0, 2)], [50, ["a3", "a351"]]);
    equal(waiting(open_.slice(0, 50), new Map()).length, 50);

    // A connection: what breaks is tried again with the last id, longer and longer apart; what is refused is not.
    const bytes = (lines) => new TextEncoder().encode(lines);
    const answers = [
      () => Promise.reject(new TypeError("no network")),
      () => new Response("{}", { status: 503, headers: { "retry-after": "0" } }),
      () => new Response(bytes("retry: 100\nid: 1-1\ndata: 1\n\nid: 2-2\nda")),
      () => new Response(bytes("id: 2-2\ndata: 2\n\nevent: caught-up\ndata: {}\n\nevent: closed\ndata: {}\n\n")),
    ];
    const heard = [];
    let last = null;
    const on = {
      state: (name, detail) => heard.push(detail?.ms === undefined ? name : `${name} ${detail.failures}`),
      entry: (id) => heard.push((last = id)),
      reset: () => heard.push("reset"),
      caughtUp: () => heard.push("caught-up"),
      last: () => last,
    };
    const asked = [];
    const open = async (id) => (asked.push(id), answers[asked.length - 1]());
    await new Connection(open, on, { random: () => 0 }).run();
    equal(asked, [null, null, null, "1-1"], "what is asked for");
    equal(heard, ["connecting", "waiting 1", "connecting", "waiting 2", "connecting", "catching up", "1-1", "waiting 3", "connecting", "catching up", "2-2", "caught-up", "live", "closed"]);

    // Silence is a lost connection; 204 is the end; 401 is for a person.
    heard.length = 0;
    const silent = (signal) => new Response(new ReadableStream({ start: (c) => signal.addEventListener("abort", () => c.error(new Error("aborted"))) }));
    let turn = 0;
    await new Connection(async (_, signal) => ((turn += 1) === 1 ? silent(signal) : new Response(null, { status: 204 })), on, { random: () => 0, silence: 20 }).run();
    equal(heard, ["connecting", "catching up", "waiting 1", "connecting", "closed"], "silence");
    heard.length = 0;
    await new Connection(async () => new Response('{"code":"bad_token","detail":"no"}', { status: 401 }), on).run();
    equal(heard, ["connecting", "refused"], "a refusal");
  });
});
