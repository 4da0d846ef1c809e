// A live tail by a stream: it moves no group. Seen and dropped are counted, at most 50 rows a second come.
import { button, copyable, curl, h, number, path, replace, table, tried } from "./parts.js";
import { follow } from "./live.js";
import { recordColumns } from "./records.js";
const MOST_ROWS = 200;

/** `names()` is the topic; `repeat(record)` fills the publish form with it. */
export function tailPanel(view, names, repeat) {
  const shown = table("Records", recordColumns({
    headers: false,
    more: (close, record) => button("Repeat", () => {
      close();
      repeat(record);
    }, { class: "plain" }),
  }), [], { empty: "What is written from now on is shown here." });
  const counts = h("p", { role: "status", class: "muted" }, "The tail is stopped.");
  const trouble = h("div");
  const command = h("div");
  const start = button("Start tail", () => run(), { class: "primary pausable" });
  const stop = button("Stop", () => running?.abort(), { class: "plain pausable", disabled: true });
  const where = () => `records/${path(...names())}/tail`;
  let running = null;
  let seen = 0;
  let dropped = 0;
  let rows = [];
  const tell = (does) => replace(counts, `The tail ${does}: ${number(seen)} seen, ${number(dropped)} dropped.`);
  const take = (kind, data) => {
    seen += data.records.length;
    dropped += data.dropped;
    // under the pointer nothing moves: what came meanwhile is painted with what comes next
    rows = [...data.records.reverse(), ...rows].slice(0, MOST_ROWS);
    if (data.records.length && !shown.body.matches(":hover")) shown.paint(rows);
    tell("runs");
  };
  const turn = (on) => Object.assign(start, { disabled: on }) && Object.assign(stop, { disabled: !on });
  const run = async () => {
    running = new AbortController();
    turn(true);
    replace(trouble);
    replace(counts, "The tail begins…");
    await tried(async () => {
      await follow(where(), {}, running.signal, take);
    }, trouble);
    turn(false);
    tell("is stopped");
  };
  view.signal.addEventListener("abort", () => running?.abort());
  const element = h("div", { class: "tail" },
    h("div", { class: "actions" }, start, stop, button("Clear", () => {
      rows = [];
      shown.paint(rows);
    }, { class: "plain" })),
    counts, trouble, shown.element, command);
  element.tell = () => {
    if (names().every(Boolean)) replace(command, copyable(curl("GET", where(), { signedIn: view.session.needed }).replace("curl", "curl -N"), "The same tail by curl"));
  };
  element.tell();
  return element;
}
