// Light or dark, before anything is drawn. Not a module: those come too late.
"use strict";
{
  const STORED = "moorline.theme";
  const ORDER = ["system", "light", "dark"];
  const SIGNS = { system: "◐", light: "☀", dark: "☾" };
  const SAYS = { system: "as the system", light: "light", dark: "dark" };
  let theme = "system";
  try {
    theme = localStorage.getItem(STORED) ?? "system";
  } catch {
    // A browser that keeps nothing still has the system's.
  }
  const apply = () => {
    if (!ORDER.includes(theme)) theme = "system";
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button === null) return;
    button.textContent = SIGNS[theme];
    button.setAttribute("aria-label", `Theme: ${SAYS[theme]}`);
    button.title = `Theme: ${SAYS[theme]}`;
  };
  apply();
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", () => {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      try {
        localStorage.setItem(STORED, theme);
      } catch {
        // It holds for this page.
      }
      apply();
      document.dispatchEvent(new Event("themechange"));
    });
  });
}
