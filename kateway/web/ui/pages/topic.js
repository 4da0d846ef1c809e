// One topic: its partitions and its parts as tabs, each with a URL of its own.
import { ago, button, call, facts, fail, get, go, h, href, link, list, number, openMode, path, section, submitted, table } from "../parts.js";
import { bindingsTable } from "../bindings.js";
import { GROUP_COLUMNS } from "../groups.js";
import { publishForm } from "../publish.js";
import { peekForm } from "../peek.js";
import { settings } from "../topic_settings.js";
import { transforms } from "../transforms.js";
import { usage } from "../usage.js";
import { stateMark } from "./topics.js";
// each with the call that it needs the right to
const TABS = [["", "Overview", "topic"], ["records", "Records", "peek"], ["publish", "Publish", "publish_records"],
  ["groups", "Groups", "groups"], ["settings", "Settings", "topic"], ["transforms", "Transforms", "topic_transforms"]];

export async function topic(view) {
  const names = [view.names.app, view.names.topic, view.names.version];
  const name = names.join("/");
  const open = await openMode(view);
  const found = open ? { data: {}, etag: null } : await call("GET", `topics/${path(...names)}`, { signal: view.signal });
  const tab = view.query.tab ?? "";
  view.heading(name, {
    above: ["Topics", href(["topics"])],
    below: !open && h("span", null, stateMark(found.data.state), ` in the store ${found.data.cluster}`),
  });
  const shown = TABS.filter(([key, , right]) => view.may(right, names[0]) && !(open && ["settings", "transforms"].includes(key)));
  view.add(h("nav", { "aria-label": "Parts of the topic", class: "tabs" }, h("ul", null, shown.map(([key, title]) =>
    h("li", null, link(title, href(["topics", ...names], { tab: key }), { "aria-current": key === tab ? "page" : null }))))));
  const parts = {
    "": () => about(view, names, found.data, open),
    records: () => view.add(peekForm(view, names)),
    publish: () => view.add(section("Publish", publishForm(view, names))),
    groups: () => groupsOf(view, names),
    settings: () => {
      view.add(settings(view, names, found.data, found.etag), bindingsTable(view, { topic: name }));
    },
    transforms: () => transforms(view, names),
  };
  if (shown.some(([key]) => key === tab)) await parts[tab]();
  else view.add(h("p", { class: "notice" }, TABS.some(([key]) => key === tab) ? `The role ${view.session.role} does not see this part of a topic, or this gateway has none.` : "There is no such part of a topic."));
}

async function about(view, names, entry, open) {
  const name = names.join("/");
  if (!open) {
    const { items } = await get("topics", { contains: `${names[0]}/${names[1]}/` }, view.signal);
    view.add(section("What it is", facts([
      ["Partitions", number(entry.partitions)],
      ["Replicas", number(entry.replicas)],
      ["Kept", entry.retention_hours === null ? "for ever" : `${number(entry.retention_hours)} h`],
      ["Name in the store", entry.storage_name ?? names.join(".")],
      entry.sunset && ["Sunset", entry.sunset],
      ["Versions", items.map((each) => [link(each.name.split("/")[2], href(["topics", ...each.name.split("/")])), " "])],
    ])));
  }
  view.add(section("What flows", await usage(view, name, "topic")));
  if (view.may("peek")) await partitions(view, names);
  const producers = await get("producers", { topic: name }, view.signal).catch(() => null);
  if (producers) {
    view.add(section("Producers", table("Producers", [
      { title: "Application", cell: (row) => row.application }, { title: "Key", cell: (row) => row.key ?? "none" },
      { title: "Records a second", number: true, cell: (row) => number(row.records_per_second) }, { title: "Last use", cell: (row) => ago(row.last_used) },
    ], producers.items ?? [], { empty: "Nothing has published to it lately." }).element));
  }
}

/** Where each partition ends, by a look at its last record, and how even they are. */
async function partitions(view, names) {
  const shown = table("Partitions", [
    { title: "Partition", number: true, cell: (row) => String(row.partition) }, { title: "First looked at", number: true, cell: (row) => number(row.first) },
    { title: "Last record", number: true, cell: (row) => number(row.last) },
    { title: "Share of the last 100", cell: (row) => h("meter", { min: 0, max: 1, value: row.share, "aria-label": `Share of partition ${row.partition}` }) },
    { title: "Percent", number: true, cell: (row) => `${number(Math.round(row.share * 100))} %` },
  ], [], { empty: "It has no record yet." });
  // not again and again by itself: each look at records is in the audit
  const look = async () => {
    const { records, scanned } = await get(`records/${path(...names)}`, { last: 100 }, view.signal);
    shown.paint(scanned.partitions.map((each) => ({
      ...each, share: records.filter((record) => record.partition === each.partition).length / records.length,
    })));
  };
  view.add(section("Partitions", h("div", { class: "sectionhead" }, h("p", { class: "muted" }, "Where the topic's last hundred records lie."),
    button("Look again", () => look().catch(fail), { class: "plain small" })), shown.element));
  await look();
}

async function groupsOf(view, names) {
  view.add(section("Groups", h("p", { class: "muted" }, "Those that read it through this gateway."), list(view, {
    caption: "Groups", path: "groups", prefix: "groups-", query: { contains: names.slice(1).join("/") }, search: false,
    keep: (row) => row.application === names[0] && row.topic === names[1] && row.version === names[2], columns: GROUP_COLUMNS,
    empty: () => "No group reads it here just now.",
  }).element));
  const form = h("form", {
    class: "inline",
    onsubmit: submitted(() => go(href(["groups", form.elements.reader.value, ...names, form.elements.group.value]))),
  }, ["reader", "group"].map((each) => h("input", { name: each, required: true, "aria-label": each === "reader" ? "Application that reads" : "Group", placeholder: each === "reader" ? "Application" : "Group", value: each === "reader" ? names[0] : "" })),
  h("button", { type: "submit", class: "plain" }, "Open group"));
  view.add(section("A group that is not read now", form));
}
