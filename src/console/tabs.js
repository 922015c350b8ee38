// On narrow screens the views are tabs; on wide ones they stand side by side, and there are no tabs.

import { el, find } from "./dom.js";

const VIEWS = [["talk", "Talk"], ["control", "Runs"], ["log", "Log"], ["time", "Time line"]];

/** Makes the tabs, and gives a function that shows one. */
export function tabs(narrow) {
  const list = find("tabs");
  let chosen = "talk";
  const buttons = VIEWS.map(([view, words]) =>
    el("button", { type: "button", role: "tab", id: `tab-${view}`, "aria-controls": view, onclick: () => show(view) }, words),
  );
  // What waits for a decision must show in every view.
  buttons[1].append(" ", el("span", { class: "badge", id: "tab-waiting" }));
  list.append(...buttons);
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    const at = VIEWS.findIndex(([view]) => view === chosen);
    show(VIEWS[(at + step + VIEWS.length) % VIEWS.length][0]);
    find(`tab-${chosen}`).focus();
  });

  function show(view) {
    chosen = view;
    list.hidden = !narrow.matches;
    VIEWS.forEach(([one], at) => {
      const panel = find(one);
      panel.hidden = narrow.matches && one !== chosen;
      buttons[at].setAttribute("aria-selected", String(one === chosen));
      buttons[at].tabIndex = one === chosen ? 0 : -1;
      if (narrow.matches) panel.setAttribute("role", "tabpanel");
      else panel.removeAttribute("role");
    });
  }

  narrow.addEventListener("change", () => show(chosen));
  show(chosen);
  return show;
}
