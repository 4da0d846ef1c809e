// Topics: which there are, and a new one.
import { button, call, field, formDialog, get, go, h, href, link, list, mark, named, number, numberOf, openMode, path, say, submitted, textOf } from "../parts.js";
import { perSecond } from "../usage.js";
const STATES = ["active", "deprecated", "retired"];
export const stateMark = (state) => mark({ active: "ok", deprecated: "warn", retired: "off" }[state], state);

export async function topics(view) {
  const open = await openMode(view);
  view.heading("Topics", {
    below: "What flows through this gateway.",
    actions: [!open && view.may("put_topic") && button("Register topic", () => register(view), { class: "primary" })],
  });
  if (open) {
    view.add(openForm());
    return;
  }
  view.add(list(view, {
    caption: "Topics",
    path: "topics", live: "topics", merge: (row, figures) => ({ ...row, figures }),
    promql: ["sum by (application, topic, version) (rate(kateway_publish_records_total[1m]))"],
    filters: [{ name: "state", label: "State", any: "any state", options: STATES }],
    columns: [
      { title: "Topic", sort: "name", class: "name wide", cell: (row) => link(named(row.name), href(["topics", ...row.name.split("/")])) },
      { title: "State", sort: "state", cell: (row) => stateMark(row.state) },
      ...[["In", "in_records"], ["Out", "out_records"]].map(([title, series]) => ({ title, number: true, cell: (row) => (row.figures ? perSecond(row.figures[series]) : "–") })),
      { title: "Partitions", sort: "partitions", number: true, cell: (row) => number(row.partitions) },
      { title: "Kept", number: true, cell: (row) => (row.retention_hours === null ? "for ever" : `${number(row.retention_hours)} h`) },
      { title: "Store", sort: "cluster", cell: (row) => row.cluster }, { title: "Name in the store", class: "text", cell: (row) => row.storage_name ?? "" },
    ],
    empty: () => "There is no topic yet. Register one, or take over one that the store has already.",
  }).element);
}

/** Without a registry a topic is whatever the store has: one names it. */
export function openForm() {
  const form = h("form", {
    class: "card narrow",
    onsubmit: submitted(() => go(href(["topics", "default", textOf(form, "topic"), textOf(form, "version")]))),
  },
  h("p", null, "This gateway has no registry: a topic is whatever the store has under its name. Name one to look at it."),
  field("Topic", "topic", { required: true }), field("Version", "version", { value: "v1", pattern: "v[0-9]+", required: true }),
  h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Open")));
  return form;
}

async function register(view) {
  const [{ items: apps }, status] = await Promise.all([get("applications", { limit: 1000 }), get("status")]);
  const name = await formDialog("Register topic", {
    intro: apps.length ? null : h("p", null, "A topic belongs to an application: create one first."),
    fields: [
      field("Application", "app", { options: apps.map((each) => each.name), value: view.query.app }),
      field("Topic", "topic", { required: true, pattern: "[A-Za-z0-9_\\-]{1,64}" }),
      field("Version", "version", { value: "v1", required: true, pattern: "v[0-9]+" }),
      field("Store", "cluster", { options: Object.keys(status.stores) }),
      field("Partitions", "partitions", { type: "number", min: "1", hint: "Empty: 4, or what it has already" }),
      field("Hours that records are kept", "retention", { type: "number", min: "1", value: "168", hint: "Empty: for ever" }),
      field("Name in the store", "storage", { hint: "Of a topic that exists there; empty: application.topic.version" }),
    ],
    label: "Register",
    submit: async (form) => {
      const names = ["app", "topic", "version"].map((each) => textOf(form, each));
      const json = {
        cluster: textOf(form, "cluster"), retention_hours: numberOf(form, "retention") ?? null,
        partitions: numberOf(form, "partitions"), storage_name: textOf(form, "storage") || undefined,
      };
      await call("PUT", `topics/${path(...names)}`, { json, headers: { "If-None-Match": "*" } });
      return names;
    },
  });
  if (!name) return;
  say(`The topic ${name.join("/")} is registered.`, { keep: true });
  go(href(["topics", ...name]));
}
