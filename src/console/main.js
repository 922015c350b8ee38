// The console: wires the connection to the model, and the model to the page, once a frame.
//
//   Connection ─▶ Ledger (counts) ─▶ Model (means) ─▶ Conversation, Panel, Log, Lanes: drawn in `frame`
//        buttons ─▶ Api.command ─▶ the gateway ─▶ back as events, as for every other surface

import { Api, adoptToken, claimsOf, commandId, isToken, keepToken, token } from "./api.js";
import { Connection } from "./connection.js";
import { Conversation } from "./conversation.js";
import { clock, count, el, find, forgetAgents, meet, pressedTwice, say } from "./dom.js";
import { Lanes } from "./lanes.js";
import { Ledger, parseId } from "./ledger.js";
import { Log } from "./log.js";
import { Model } from "./model.js";
import { Panel } from "./panel.js";
import { Meter, Plots, forgetColours } from "./plots.js";
import { tabs } from "./tabs.js";
import { SPOKEN_MAX, lose, returned, speak, toast } from "./tell.js";

/** While runs are live their leases are asked for this often; no log says them. */
const STATE_MS = 4_000;
/** The pause between two pictures of history that comes in. */
const HURRY_MS = 400;

const model = new Model();
const meter = new Meter();
const plots = new Plots(meter);
const lanes = new Lanes();
const log = new Log();
const conversation = new Conversation(find("conversation"), decide);
const panel = new Panel({ stop, steer, decide });

let ledger = new Ledger();
let api = null;
let connection = null;
let live = false;
/** The store's clock against ours, as far as known. */
let ahead = 0;

// --- a session ------------------------------------------------------------------------------------------------------

function begin(name) {
  find("leave").hidden = token() === null;
  if (name === null || name === "") return welcome();
  find("welcome").hidden = true;
  find("main").hidden = false;
  find("cut").hidden = false;
  say(find("session-name"), name);
  api = new Api(name);
  connection?.end();
  connection = new Connection((last, signal) => api.follow(last, signal), { state, entry, reset, caughtUp, last: () => ledger.last });
  connection.run();
}

function entry(id, json) {
  if (!ledger.take(id)) return;
  const now = Date.now();
  const taken = model.take(id, json);
  meet(taken.agent);
  // The newest entry is never in the future.
  ahead = Math.max(ahead, taken.ms - now);
  meter.take(taken.ms, now, live);
  log.take(taken);
  // A hidden page draws no frame, and reads nothing out.
  model.news.splice(0, model.news.length - 3);
  model.asked.splice(0, model.asked.length - SPOKEN_MAX);
  ask();
}

function reset(told) {
  live = false;
  const loss = ledger.reset(told);
  if (loss !== null) lose(loss);
  model.clear();
  known = 0;
  // An answer under way is about what was before.
  refreshing += 1;
  forgetAgents();
  say(find("spoken"), "");
  conversation.clear();
  panel.clear();
  log.clear();
  ask();
}

function caughtUp() {
  live = true;
  // History is no news.
  model.news.length = 0;
  model.asked.length = 0;
  if (ledger.last !== null) refresh();
  const back = ledger.caughtUp(performance.now());
  if (back !== null) returned(back);
  ask();
}

const STATES = {
  connecting: "connecting",
  "catching up": "catching up",
  live: "live",
  closed: "the session is closed",
  off: "cut by you",
  refused: "refused",
};

/** There was a connection: the next one is a return. */
let connected = false;

function state(name, detail) {
  const box = find("connection");
  box.dataset.state = name;
  if (name !== "live") live = false;
  // A name that the gateway has taken.
  if (name === "catching up") remember(find("session-name").textContent);
  if (name === "catching up") connected = true;
  if (name === "connecting" && connected) ledger.returning(performance.now());
  if (name === "waiting") say(find("connection-state"), `connection lost, next try in ${(detail.ms / 1000).toFixed(1)} s`);
  else say(find("connection-state"), STATES[name]);
  find("cut").disabled = name === "closed";
  if (name === "closed") {
    caughtUp();
    live = false;
    shut();
  }
  if (name === "off") say(find("resume"), `Cut after entry ${parseId(ledger.last ?? "0-0").n}. The session goes on without you.`);
  if (name === "refused") refused(detail);
  // At once, also where history was drawn seldom: the numbers are those of this state.
  requestAnimationFrame(frame);
}

/** Nobody can be asked for anything in a closed session. */
function shut() {
  if (find("composer").contains(document.activeElement)) find("conversation").focus({ preventScroll: true });
  for (const id of ["to", "words", "send"]) find(id).disabled = true;
  find("shut").hidden = false;
}

function refused(problem) {
  if (problem.status === 401 || problem.status === 403) return login(problem);
  // A name that is none, mostly.
  welcome();
  toast(problem.detail);
}

// --- what is drawn, once a frame ------------------------------------------------------------------------------------

let asked = false;

/** Has the page brought up to date with the next frame. */
function ask() {
  if (asked) return;
  asked = true;
  // History rushes by: nobody can read it, and drawing all of it would keep the end from coming.
  if (find("connection").dataset.state === "catching up") setTimeout(requestAnimationFrame, HURRY_MS, frame);
  else requestAnimationFrame(frame);
}

function frame() {
  asked = false;
  // The stream waits for the session's first entry.
  const nothing = live && ledger.last === null;
  find("log-empty").hidden = !nothing;
  find("conversation").dataset.nothing = nothing;
  const more = conversation.update(model);
  panel.update(model);
  log.update();
  say(find("count-entries"), count(ledger.entries));
  say(find("count-gaps"), count(ledger.gaps));
  say(find("count-duplicates"), count(ledger.duplicates));
  say(find("count-resumes"), count(ledger.resumes));
  find("count-gaps").dataset.trouble = ledger.gaps > 0;
  find("count-duplicates").dataset.trouble = ledger.duplicates > 0;
  say(find("cursor"), ledger.last === null ? "" : ledger.last);
  const waiting = [...model.approvals.values()].filter((one) => one.decision === null).length;
  say(find("tab-waiting"), waiting === 0 ? "" : String(waiting));
  document.title = `${waiting > 0 ? `(${waiting}) ` : ""}${find("session-name").textContent} · Moorline`;
  // Not every token: what is over, and what waits.
  if (live) speak([...model.asked.splice(0), ...model.news.splice(0)]);
  if (more) ask();
  targets();
}

setInterval(() => {
  if (api === null || document.hidden) return;
  const now = Date.now();
  plots.draw(now, ahead);
  lanes.draw(model, now + ahead, live && model.live().length > 0);
  panel.tick();
  if (live && model.said !== known) refresh();
}, 250);

document.addEventListener("themechange", () => {
  forgetColours();
  lanes.draw(model, Date.now() + ahead, live);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", forgetColours);

let refreshing = 0;
/** What the log had said of runs when they were last asked for. */
let known = 0;

/** Leases and what else no entry says. */
async function refresh() {
  const turn = (refreshing += 1);
  known = model.said;
  const answer = await api.state();
  if (turn !== refreshing || answer === null) return;
  model.takeState(answer);
  ahead = answer.now - Date.now();
  ask();
}

setInterval(() => {
  if (live && !document.hidden && model.live().length > 0) refresh();
}, STATE_MS);

// --- commands -------------------------------------------------------------------------------------------------------

async function issue(command, done) {
  const problem = await api.command(command);
  if (problem === null) return toast(done, "good");
  toast(problem.code === "approval_ended" ? "Somebody else has decided before." : problem.detail);
}

/** Those under way: a second press must not come back as somebody else's decision. */
const deciding = new Set();

async function decide({ approval }, decision) {
  if (deciding.has(approval)) return;
  deciding.add(approval);
  await issue({ type: "decide", approval, data: { decision } }, decision === "approve" ? "Approved." : "Denied.");
  deciding.delete(approval);
}

function stop(run, tree) {
  const command = run === null ? { type: "stop" } : { type: "stop", run, ...(tree ? { tree } : {}) };
  return issue(command, run === null ? "Stop sent to all runs." : `Stop sent to ${run}.`);
}

function steer(run) {
  find("to").value = `run:${run}`;
  composerMode();
  find("words").focus();
  if (narrow.matches) showTab("talk");
}

pressedTwice(find("stop-all"), "Stop all runs?", () => stop(null, false));

/** Whom one can speak to: everyone, live runs, agents. */
let offered = "";

function targets() {
  const runs = model.live().map((run) => [`run:${run.run}`, `run ${run.run}${run.agent ? ` (${run.agent})` : ""}`]);
  const agents = [...model.agents].slice(0, 100).map((agent) => [`agent:${agent}`, `agent ${agent}`]);
  const options = [["", "everyone"], ...runs, ...agents];
  const select = find("to");
  const { value } = select;
  // Words meant for one must not go to all because it is over.
  if (find("words").value !== "" && !options.some(([of]) => of === value)) options.push([value, `${value.replace(":", " ")}, which is over`]);
  const key = JSON.stringify(options);
  if (key === offered) return;
  offered = key;
  select.replaceChildren(...options.map(([of, words]) => el("option", { value: of }, words)));
  select.value = options.some(([of]) => of === value) ? value : "";
  composerMode();
}

function composerMode() {
  say(find("send"), find("to").value === "" ? "Send" : "Steer");
}

find("to").addEventListener("change", composerMode);
find("words").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  find("composer").requestSubmit();
});

/** What was sent last and has had no answer. Sent again as it was, it keeps its id, for it may have arrived. */
let unanswered = null;
let sending = false;

find("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const words = find("words");
  const text = words.value.trim();
  if (text === "" || sending) return;
  const target = find("to").value;
  const at = target.indexOf(":");
  const whom = at < 0 ? {} : { [target.slice(0, at)]: target.slice(at + 1) };
  const again = unanswered?.text === text && unanswered.target === target;
  const id = again ? unanswered.id : commandId();
  // Taken out at once: what is typed meanwhile is another one.
  words.value = "";
  sending = true;
  const problem = await api.command({ id, type: at < 0 ? "message" : "steer", ...whom, data: { text } });
  sending = false;
  const reached = problem === null || (problem.status > 0 && problem.status < 500);
  unanswered = reached ? null : { text, target, id };
  if (problem === null) return conversation.toEnd();
  toast(problem.detail);
  words.value = words.value === "" ? text : `${text}\n${words.value}`;
});

// --- the switch, the tabs, the doors --------------------------------------------------------------------------------

find("cut").addEventListener("click", () => {
  const cut = find("cut").getAttribute("aria-checked") !== "true";
  find("cut").setAttribute("aria-checked", String(cut));
  connection.want(!cut);
});
window.addEventListener("online", () => connection?.hurry());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) connection?.hurry();
});

const narrow = matchMedia("(max-width: 1099px)");
const showTab = tabs(narrow);

const RECENT = "moorline.sessions";

function recent() {
  try {
    const names = JSON.parse(localStorage.getItem(RECENT) ?? "[]");
    return Array.isArray(names) ? names.filter((name) => typeof name === "string").slice(0, 6) : [];
  } catch {
    return [];
  }
}

function remember(name) {
  try {
    localStorage.setItem(RECENT, JSON.stringify([name, ...recent().filter((other) => other !== name)].slice(0, 6)));
  } catch {
    // Then there is no list the next time.
  }
}

function welcome() {
  find("welcome").hidden = false;
  find("main").hidden = true;
  find("connection").hidden = true;
  find("cut").hidden = true;
  const names = recent();
  find("recent").hidden = names.length === 0;
  const link = (name) => el("a", { href: `?session=${encodeURIComponent(name)}` }, name);
  find("recent").replaceChildren("Lately: ", ...names.flatMap((name, at) => (at === 0 ? [link(name)] : [", ", link(name)])));
  find("choose-name").focus();
}

find("choose").addEventListener("submit", (event) => {
  event.preventDefault();
  location.search = `?session=${encodeURIComponent(find("choose-name").value.trim())}`;
});

function login(problem) {
  find("welcome").hidden = false;
  find("choose").hidden = true;
  find("login").hidden = false;
  find("main").hidden = true;
  find("cut").hidden = true;
  const held = token() === null ? null : claimsOf(token());
  const whose = held === null ? "" : ` The token here is for ${held.sub ?? "nobody"}${held.exp ? `, until ${clock(held.exp * 1000)}` : ""}.`;
  say(find("login-problem"), problem.code === "unauthenticated" ? "This gateway asks for a token." : `The gateway says: ${problem.detail}.${whose}`);
  find("login-token").focus();
}

find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = find("login-token").value.trim();
  if (!isToken(given)) return say(find("login-problem"), "This is no token: one has letters, digits and a few signs, in one line.");
  keepToken(given);
  find("login-token").value = "";
  comeIn();
});

function comeIn() {
  find("login").hidden = true;
  find("choose").hidden = false;
  begin(new URLSearchParams(location.search).get("session"));
}

find("leave").addEventListener("click", () => {
  keepToken(null);
  location.reload();
});

adoptToken();
window.addEventListener("hashchange", () => {
  adoptToken();
  if (!find("login").hidden) comeIn();
});
begin(new URLSearchParams(location.search).get("session"));
