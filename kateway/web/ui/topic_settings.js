// A topic's settings: partitions, retention, its way from active over deprecated to retired, deletion.
import { button, call, confirmDeletion, field, formDialog, go, h, href, numberOf, pairs, path, putOver, say, section } from "./parts.js";
export function settings(view, names, entry, etag) {
  const where = `topics/${path(...names)}`;
  const name = names.join("/");
  const here = href(["topics", ...names], { tab: "settings" });
  const save = async (changes, title, what) => {
    const done = await formDialog(title, what);
    if (!done) return;
    say(done === "theirs" ? "The version in force stays." : changes, { keep: true });
    go(here);
  };
  const put = async (members) => ((await putOver(where, name, etag, { ...entry, ...members })) ? true : "theirs");
  const grow = () => save(`The topic ${name} has its new partitions.`, `Add partitions to ${name}`, {
    intro: h("p", null, `It has ${entry.partitions}. Partitions cannot be taken away again, and keys move to others: the order of a key's records may break over the change.`),
    fields: [field("Partitions", "partitions", { type: "number", min: entry.partitions, value: entry.partitions, required: true })],
    label: "Add partitions",
    submit: (form) => put({ partitions: numberOf(form, "partitions") }),
  });
  const keep = () => save(`The retention of ${name} is in force.`, `Retention of ${name}`, {
    intro: h("p", null, "Fewer hours delete older records."),
    fields: [field("Hours that records are kept", "hours", { type: "number", min: "1", value: entry.retention_hours ?? "", hint: "Empty: for ever" })],
    label: "Save",
    submit: (form) => put({ retention_hours: numberOf(form, "hours") ?? null }),
  });
  const move = (state, label, consequence, extra = []) => save(`The topic ${name} is ${state}.`, `${label} ${name}`, {
    intro: h("p", null, consequence),
    fields: extra,
    label,
    danger: state === "retired",
    submit: (form) => {
      const members = { state };
      if (form.elements.sunset?.value) members.sunset = new Date(form.elements.sunset.value).toISOString();
      return put(members);
    },
  });
  const remove = async () => {
    const gone = await confirmDeletion(`topic ${name}`, name, (form) =>
      call("DELETE", where, { query: form.elements.records.checked ? { delete_records: "1" } : {} }), {
      consequence: "It is no topic of this gateway any more, and its streams end within a second. Its records stay in the store unless you say otherwise.",
      fields: [field("Delete its records too", "records", { type: "checkbox" })],
    });
    if (!gone) return;
    say(`The topic ${name} is deleted.`, { keep: true });
    go(href(["topics"]));
  };
  const may = view.may("put_topic");
  return section("Settings",
    h("div", { class: "actions" },
      may && button("Add partitions", grow, { class: "plain" }),
      may && button("Retention", keep, { class: "plain" }),
      may && entry.state !== "active" && button("Activate", () => move("active", "Activate", "It takes and gives records again, without a warning."), { class: "plain" }),
      may && entry.state === "active" && button("Deprecate", () => move("deprecated", "Deprecate",
        "It works on; every answer says that it is deprecated, and when it goes.",
        [field("Sunset", "sunset", { type: "date", hint: "The day on which it goes, if that is known" })]), { class: "plain" }),
      may && entry.state !== "retired" && button("Retire", () => move("retired", "Retire", "From now on every request for it is 410. Its records stay."), { class: "plain" }),
      view.may("delete_topic") && button("Delete", remove, { class: "danger" })),
    pairs(Object.entries(entry).map(([member, value]) => [member, value === null ? "null" : typeof value === "object" ? JSON.stringify(value) : String(value)])));
}
