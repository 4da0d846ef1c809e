// A look at records: by place, by time, the last ones, those that contain a text. It moves no group.
import { button, bytes, copyable, curl, duration, field, get, h, moment, number, pairs, path, plural, replace, section, submitted, table, textOf, tried } from "./parts.js";
import { recordColumns, showRecord } from "./records.js";
const STOPPED = {
  limit: "as many as were asked for were found", end: "the topic ends there", records: "it has looked at as many as it may",
  bytes: "it has read as many bytes as it may", seconds: "it has looked for as long as it may",
};

export function peekForm(view, names) {
  const where = `records/${path(...names)}`;
  const results = h("div");
  const command = h("div");
  const shown = table("Records", recordColumns(), [], { empty: "Nothing was found there." });
  const read = async () => {
    const from = form.elements.from.value;
    const query = { limit: textOf(form, "limit"), partition: textOf(form, "partition"), contains: textOf(form, "contains") };
    if (from === "last") query.last = textOf(form, "at") || "100";
    if (from === "offset") query.offset = textOf(form, "at") || "0";
    if (from === "timestamp") query.timestamp = /^\d+$/.test(textOf(form, "at")) ? textOf(form, "at") : Date.parse(textOf(form, "at")) || "0";
    if (form.elements.full.checked) query.full = "1";
    view.note({ from, at: textOf(form, "at"), partition: query.partition, contains: query.contains, limit: query.limit });
    replace(command, copyable(curl("GET", where, { query, signedIn: view.session.needed }), "The same by curl"));
    await tried(async () => {
      const found = await get(where, query, view.signal);
      shown.paint(found.records);
      replace(results, h("p", { role: "status" },
        `${plural(found.records.length, "record")} of ${number(found.scanned.records)} looked at (${bytes(found.scanned.bytes)} in ${duration(found.scanned.seconds)}); it stopped because ${STOPPED[found.scanned.stopped] ?? found.scanned.stopped}.`));
    }, results);
  };
  const form = h("form", { class: "filters", onsubmit: submitted(() => read()) },
  field("From", "from", { options: [["last", "the last"], ["offset", "an offset"], ["timestamp", "a time"]], value: view.query.from ?? "last" }),
  field("Number or time", "at", { value: view.query.at ?? "100" }),
  field("Partition", "partition", { type: "number", min: "0", value: view.query.partition ?? "", placeholder: "all" }),
  field("Contains", "contains", { value: view.query.contains ?? "" }),
  field("At most", "limit", { type: "number", min: "1", max: "1000", value: view.query.limit ?? "100" }),
  field("Whole values", "full", { type: "checkbox" }),
  h("div", { class: "field" }, h("button", { type: "submit", class: "primary" }, "Look")));
  read();
  return section("Records", form, results, shown.element, command, stateForm(view, names));
}

/** What has become of one record for a group. */
function stateForm(view, names) {
  const answer = h("div");
  const form = h("form", { class: "filters", onsubmit: submitted(async () => {
    const place = ["place", "at"].map((each) => textOf(form, each));
    await tried(async () => {
      const found = await get(`records/${path(...names, ...place)}`, { group: textOf(form, "group") }, view.signal);
      replace(answer, pairs([
        ["State", found.state], ["Why", found.reason], ["Attempt", found.attempt], ["Until", found.until && moment(found.until)],
        ["Held by", found.client && JSON.stringify(found.client)], ["Committed", found.committed],
        ["Died", found.dead && JSON.stringify(found.dead)],
      ].filter(([, value]) => value !== null && value !== undefined).map(([term, value]) => [term, String(value)])),
      button("Show the record", () => showRecord(found), { class: "plain" }));
    }, answer);
  }) },
  field("Group", "group", { required: true, value: view.query.group ?? "", hint: "APPLICATION/GROUP" }),
  field("Partition", "place", { type: "number", min: "0", required: true }),
  field("Offset", "at", { type: "number", min: "0", required: true }),
  h("div", { class: "field" }, h("button", { type: "submit", class: "plain" }, "Ask")));
  return h("details", { class: "more" }, h("summary", null, "What has become of one record for a group?"), form, answer);
}
