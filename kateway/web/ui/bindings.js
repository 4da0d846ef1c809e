// Bindings: which application may read a topic of another one, with which groups.
import { button, call, confirmDeletion, field, formDialog, h, href, link, list, numberOf, path, putOver, say, sectionWith, textOf, tried } from "./parts.js";
/** Those of a `subscriber`, or of a `topic` (application/topic/version). */
export function bindingsTable(view, { subscriber, topic }) {
  const table = list(view, {
    caption: "Bindings",
    path: "bindings",
    prefix: "bindings-",
    search: false,
    keep: (row) => (subscriber ? row.name.startsWith(`${subscriber}/`) : row.name.endsWith(`/${topic}`)),
    query: { contains: subscriber ? `${subscriber}/` : `/${topic}` },
    columns: [
      {
        title: "Binding", sort: "name", class: "name",
        cell: (row) => {
          const [reader, ...names] = row.name.split("/");
          return subscriber ? link(names.join("/"), href(["topics", ...names])) : link(reader, href(["applications", reader]));
        },
      },
      { title: "Groups", cell: (row) => row.groups.map((each) => (each === "*" ? "any group" : each)).join(", ") },
      { title: "Dead letters", cell: (row) => (row.dead_letter ? `after ${row.max_deliveries} deliveries` : "no") },
      { title: "Filter", class: "text", cell: (row) => row.filter ?? "" },
      {
        title: "Actions",
        cell: (row) => h("span", { class: "rowactions" },
          view.may("put_binding") && button("Change", () => change(row), { class: "plain small", "aria-label": `Change binding ${row.name}` }),
          view.may("delete_binding") && button("Delete", () => remove(row), { class: "plain small", "aria-label": `Delete binding ${row.name}` })),
      },
    ],
    empty: () => (subscriber ? "It reads no topic of another application." : "No other application reads it."),
  });
  const whereOf = (name) => `bindings/${path(...name.split("/"))}`;
  const edit = async (title, fixed, entry, etag) => {
    let mine = true;
    const name = await formDialog(title, {
      fields: [
        !fixed && (subscriber
          ? field("Topic", "other", { required: true, pattern: "[^/]+/[^/]+/v[0-9]+", hint: "application/topic/version" })
          : field("Application that reads", "other", { required: true, pattern: "[A-Za-z0-9_\\-]{1,64}" })),
        field("Groups", "groups", { value: entry.groups?.join(", ") ?? "*", hint: "Names with commas between; * is any group" }),
        field("Undeliverable records go to the dead letters", "dead", { type: "checkbox", value: entry.dead_letter ?? true }),
        field("Deliveries before that", "most", { type: "number", min: "1", value: entry.max_deliveries ?? 5 }),
        // it can mask contents, as transforms can: a right of its own
        view.may("put_transforms") && field("Filter", "filter", { value: entry.filter ?? "", hint: "A CEL expression; empty: every record" }),
      ],
      label: "Save",
      submit: async (form) => {
        const other = fixed || textOf(form, "other");
        const whole = fixed || (subscriber ? `${subscriber}/${other}` : `${other}/${topic}`);
        const wanted = {
          ...entry, groups: textOf(form, "groups").split(",").map((each) => each.trim()).filter(Boolean),
          dead_letter: form.elements.dead.checked, max_deliveries: numberOf(form, "most") ?? entry.max_deliveries,
        };
        if (form.elements.filter) wanted.filter = textOf(form, "filter") || null;
        mine = await putOver(whereOf(whole), whole, etag, wanted);
        return whole;
      },
    });
    if (name) say(mine ? `The binding ${name} is in force.` : "The version in force stays.");
    await table.reload();
  };
  const change = async (row) => {
    await tried(async () => {
      const { data, etag } = await call("GET", whereOf(row.name));
      await edit(`Binding ${row.name}`, row.name, data, etag);
    });
  };
  const remove = async (row) => {
    const gone = await confirmDeletion(`binding ${row.name}`, row.name, () => call("DELETE", whereOf(row.name)), {
      consequence: "Streams that live on it end within a second.",
    });
    if (gone) say(`The binding ${row.name} is deleted.`);
    await table.reload();
  };
  return sectionWith("Bindings", view.may("put_binding") && button("Create binding", () => edit("Create binding", null, {}, null), { class: "plain" }), table.element);
}
