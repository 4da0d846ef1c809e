// What a page is given: its place in the document, its names and query, work that ends when the page is left.
import { append, h, link } from "./dom.js";
import { Live } from "./live.js";
import { clearNotices, fail, partial, stale } from "./notices.js";
import { noteQuery } from "./router.js";
const STALE = 10000;

export class View {
  constructor(element, names, query, session) {
    this.element = element;
    this.names = names;
    this.query = query;
    this.session = session;
    this.ending = new AbortController();
    this.timers = new Set();
    this.sources = [];
    this.title = "";
    const ticking = setInterval(() => this.tick(), 1000);
    this.signal.addEventListener("abort", () => clearInterval(ticking));
  }
  get signal() {
    return this.ending.signal;
  }
  get left() {
    return this.signal.aborted;
  }
  /** The page's one h1, where it belongs, and what can be done. */
  heading(title, { above, below, actions = [] } = {}) {
    this.title = title;
    document.title = `${title} · kateway`;
    this.add(h("header", { class: "pagehead" }, above && h("p", { class: "above" }, link(above[0], above[1])),
      h("h1", { id: "title", tabindex: "-1" }, title), below && h("p", { class: "lead" }, below),
      actions.some(Boolean) && h("div", { class: "actions" }, actions)));
  }
  add(...nodes) {
    append(this.element, ...nodes);
  }
  note(changes) {
    Object.assign(this.query, changes);
    noteQuery(changes);
  }
  /** What the page's figures come from: a failure of it is said, and since when it was not heard of. */
  source(seconds = 0) {
    const source = { at: Date.now(), most: Math.max(STALE, seconds * 2000), failed: false };
    source.heard = () => {
      source.at = Date.now();
      if (source.failed && !this.left) clearNotices();
      source.failed = false;
    };
    source.trouble = (error) => {
      if (this.left || error.name === "AbortError") return;
      source.failed = true;
      fail(error);
    };
    this.sources.push(source);
    return source;
  }
  tick() {
    const now = Date.now();
    if (document.hidden) this.sources.forEach((each) => { each.at = now; });
    const old = this.sources.filter((each) => now - each.at > each.most).map((each) => each.at);
    stale(old.length ? Math.min(...old) : null);
  }
  /** Follows rows of GET live. */
  live(name, told, names = null) {
    const live = new Live(this, name, told);
    if (names !== undefined) live.only(names);
    return live;
  }
  /** Does the work now and again each so many seconds, while the page is open and seen. */
  async every(seconds, work) {
    const source = this.source(seconds);
    const turn = async () => {
      if (this.left) return;
      if (!document.hidden) await work().then(source.heard, source.trouble);
      if (this.left) return;
      const timer = setTimeout(() => {
        this.timers.delete(timer);
        turn();
      }, seconds * 1000);
      this.timers.add(timer);
    };
    await turn();
  }
  leave() {
    this.ending.abort();
    stale(null);
    partial();
    for (const timer of this.timers) clearTimeout(timer);
  }
  may(call, owner) {
    return this.session.may(call, owner);
  }
}
