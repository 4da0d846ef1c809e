// Keys: / search, g then o a t r e, j k Enter through rows, p pauses, ? tells them, Esc leaves a field.
import { button, closing, dialog, go, h, href } from "./parts.js";
const GO = { o: [], a: ["applications"], t: ["topics"], r: ["groups"], e: ["errors"] };
const KEYS = [
  ["/", "to the search"], ["g o", "Overview"], ["g a", "Applications"], ["g t", "Topics"], ["g r", "Groups"],
  ["g e", "Errors"], ["j, k", "to the next, the previous row"], ["Enter", "opens the row"],
  ["p", "stops or starts the tail"], ["?", "these keys"], ["Esc", "leaves a field, closes a dialog"],
];
let going = 0;

function tellKeys() {
  dialog("Keys", (close) => [
    h("dl", { class: "keys" }, KEYS.map(([key, does]) => h("div", null, h("dt", null, h("kbd", null, key)), h("dd", null, does)))),
    closing(close),
  ]);
}

function step(by) {
  const links = [...document.querySelectorAll("main tbody tr")].map((row) => row.querySelector("a, button")).filter(Boolean);
  const at = links.findIndex((each) => each.closest("tr").contains(document.activeElement));
  links[Math.min(links.length - 1, Math.max(0, at + by))]?.focus();
}

export function listenToKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest?.("input, textarea, select");
    if (typing) {
      if (event.key === "Escape" && !event.target.closest("dialog")) event.target.blur();
      return;
    }
    if (document.querySelector("dialog[open]")) return;
    const to = Date.now() - going < 1500 && GO[event.key] && href(GO[event.key]);
    // to no page that the navigation does not offer
    if (to && document.querySelector(`#nav a[href="${to}"]`)) go(to);
    else if (event.key === "/") document.querySelector("main .search")?.focus();
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "p") document.querySelector("main .pausable:not([disabled])")?.click();
    else if (event.key === "?") tellKeys();
    else {
      going = event.key === "g" ? Date.now() : 0;
      return;
    }
    going = 0;
    event.preventDefault();
  });
}
