// The manager's start: navigation, the page that the URL names, keys.
import { clearNotices, current, find, go, h, href, link, onSessionElsewhere, onSignedOut, problemBox, replace, route, say, sessionHalf } from "./parts.js";
import { listenToKeys } from "./keyboard.js";
import { signOut, whoami } from "./session.js";
import { View } from "./view.js";
import { application } from "./pages/application.js";
import { applications } from "./pages/applications.js";
import { audit } from "./pages/audit.js";
import { errors } from "./pages/errors.js";
import { gateways } from "./pages/gateways.js";
import { group } from "./pages/group.js";
import { groups } from "./pages/groups.js";
import { overview } from "./pages/overview.js";
import { own } from "./pages/own.js";
import { signin } from "./pages/signin.js";
import { topic } from "./pages/topic.js";
import { topics } from "./pages/topics.js";
import { tryit } from "./pages/tryit.js";
const PAGES = [["Overview", []], ["Applications", ["applications"]], ["Topics", ["topics"]], ["Groups", ["groups"]], ["Try it", ["try"]],
  ["Gateways and stores", ["gateways"]], ["Errors", ["errors"]], ["Audit", ["audit"]]];
const OWN = [["My application", ["own"]], ["Try it", ["try"]]];
Object.entries({
  "": overview, applications, "applications/{app}": application, topics, "topics/{app}/{topic}/{version}": topic,
  groups, "groups/{reader}/{app}/{topic}/{version}/{group}": group, try: tryit, gateways, errors, audit, own, signin,
}).forEach(([pattern, load]) => route(pattern, load));

const main = document.getElementById("page");
const nav = document.getElementById("nav");
const who = document.getElementById("whoami");
const menu = document.getElementById("menu");
let view = null;
let session = null;
let shown = 0;

function paintFrame(place) {
  const pages = session ? (session.application ? OWN : PAGES) : [["Sign in", ["signin"]]];
  replace(nav, h("ul", null, pages.map(([title, segments]) => {
    const here = (segments[0] ?? "") === place;
    return h("li", null, link(title, href(segments), { "aria-current": here ? "page" : null }));
  })));
  replace(who,
    session?.role && session.needed && h("span", { class: "muted" }, session.name === session.role ? session.role : `${session.name ?? ""} (${session.role})`),
    session?.needed && h("button", { type: "button", class: "plain small", onclick: leave }, "Sign out"));
}

async function leave() {
  try {
    await signOut();
  } catch {
    // the session was gone already
  }
  session = null;
  say("You are signed out.", { keep: true });
  go(href(["signin"]));
}

async function show() {
  const turn = (shown += 1);
  view?.leave();
  clearNotices();
  const { segments, query } = current();
  try {
    session ??= await whoami();
  } catch (error) {
    replace(main, h("h1", null, "The gateway does not answer"), problemBox(error));
    return;
  }
  if (turn !== shown) return;
  if (!session && segments[0] !== "signin") {
    go(href(["signin"], { then: location.hash }));
    return;
  }
  if (session?.application && segments[0] === "") {
    go(href(["own"]));
    return;
  }
  paintFrame(segments[0]);
  menu.setAttribute("aria-expanded", "false");
  const found = find(segments);
  const element = h("div", { class: "page" });
  view = new View(element, found?.names ?? {}, query, session);
  replace(main, element);
  window.scrollTo(0, 0);
  try {
    if (found) await found.load(view);
    else view.heading("There is no such page", { below: "The address may be old. The pages are in the navigation." });
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!view.title) view.heading(Object.values(view.names).join("/") || "The page failed", { below: error.status === 404 && "It is not there, or not any more." });
    element.append(problemBox(error));
    if (error.status === undefined) console.error(error);
  }
  // says to a screen reader that this is another page, but not over a focus that was moved while the page was loading
  if (turn > 1 && turn === shown && !element.contains(document.activeElement)) document.getElementById("title")?.focus({ preventScroll: true });
}

onSignedOut(() => {
  if (current().segments[0] === "signin") return;
  session = null;
  sessionHalf.set(null);
  go(href(["signin"], { then: location.hash }));
});
// another tab has signed in or out, and this one with it
onSessionElsewhere(() => {
  session = null;
  show();
});
menu.addEventListener("click", () => {
  menu.setAttribute("aria-expanded", menu.getAttribute("aria-expanded") === "true" ? "false" : "true");
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("content").focus();
});
window.addEventListener("hashchange", show);
listenToKeys();
show();
