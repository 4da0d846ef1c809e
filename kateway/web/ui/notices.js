// Outcomes: what was done as a status, what failed as an alert with title, detail and the request's id.
import { button, copyText, h, replace } from "./dom.js";
import { moment } from "./format.js";
import { href } from "./router.js";
const status = document.getElementById("status");
const alerts = document.getElementById("alerts");
const old = document.getElementById("stale");
const lacking = document.getElementById("partial");
let kept = false;

/** Says what was done. `keep`: over the change of page that comes with it. */
export function say(text, { keep = false } = {}) {
  kept = keep;
  replace(alerts);
  replace(status, text && h("p", { class: "notice ok" }, h("span", { "aria-hidden": "true" }, "✓ "), text));
}

export function clearNotices() {
  if (!kept) {
    replace(status);
    replace(alerts);
  }
  kept = false;
}

export function fail(problem) {
  if (problem.name === "AbortError") return;
  replace(status);
  replace(alerts, problemBox(problem));
}

/** Does the work, its button `pressed` meanwhile; a failure is shown in `place`, or else above the page. */
export async function tried(work, place, pressed = {}) {
  pressed.disabled = true;
  try {
    if (place) replace(place);
    await work();
  } catch (error) {
    if (!place) fail(error);
    else if (error.name !== "AbortError") replace(place, problemBox(error));
  }
  pressed.disabled = false;
}

/** Since when what the page shows is not known to be so any more; null: it is. */
export function stale(since) {
  document.getElementById("page").classList.toggle("stale", since !== null);
  const text = since === null ? "" : `What is shown is stale since ${moment(since)}.`;
  if (text !== old.textContent) replace(old, text && h("p", { class: "notice warn" }, text));
}

/** The processes of the gateway that what the page shows lacks. */
export function partial(processes = []) {
  const text = processes.length ? `Process ${processes.join(", ")} does not answer: what is shown is without its part.` : "";
  if (text !== lacking.textContent) replace(lacking, text && h("p", { class: "notice warn" }, text));
}

/** A failure, as an alert. Entries that it names become links. */
export function problemBox(problem) {
  const id = problem.id;
  const copy = id && button("Copy", () => copyText(id, copy), { class: "plain small", "aria-label": "Copy request id" });
  return h("div", { role: "alert", class: "notice bad" },
    h("strong", null, problem.title ?? "The page failed"),
    h("p", null, problem.status === 404 ? problem.detail : withLinks(problem.detail ?? String(problem))),
    problem.problems?.length ? h("ul", null, problem.problems.map((each) => h("li", null, each))) : null,
    id && h("p", { class: "requestid" }, "Request id ", h("code", null, id), " ", copy),
  );
}

/** Names of entries in a text, as links to their pages. */
function withLinks(text) {
  const found = [];
  const entry = /\b(application|topic|binding|transforms?(?: of)?) ([\w.-]+(?:\/[\w.-]+){0,3})/g;
  let last = 0;
  for (const match of text.matchAll(entry)) {
    const names = match[2].split("/");
    const target = targetOf(match[1], names);
    if (!target) continue;
    found.push(text.slice(last, match.index), match[1], " ", h("a", { href: target }, match[2]));
    last = match.index + match[0].length;
  }
  found.push(text.slice(last));
  return found;
}

function targetOf(kind, names) {
  if (kind === "application" && names.length === 1) return href(["applications", names[0]]);
  if (kind === "binding" && names.length === 4) return href(["topics", ...names.slice(1)], { tab: "settings" });
  if (names.length === 3) return href(["topics", ...names], kind.startsWith("transform") ? { tab: "transforms" } : {});
  return null;
}
