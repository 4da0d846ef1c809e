// Try it: a record goes in on the left and comes out on the right.
import { get, h, openMode, section } from "../parts.js";
import { publishForm } from "../publish.js";
import { tailPanel } from "../tail.js";
export async function tryit(view) {
  view.heading("Try it", { below: "Publish on the left; what arrives is on the right. No group is moved." });
  if (!view.may("peek")) {
    view.add(h("p", { class: "notice" }, `The role ${view.session.role} sees no records.`));
    return;
  }
  const open = await openMode(view);
  const items = open ? [] : (await get("topics", { limit: 1000 }, view.signal)).items;
  const known = items.map((each) => each.name);
  const first = view.query.topic ?? (open ? "default/hello/v1" : known[0] ?? "");
  const input = h("input", {
    id: "trytopic", list: "trytopics", value: first, autocomplete: "off", spellcheck: "false", class: "search",
    pattern: "[^\\/]+\\/[^\\/]+\\/v[0-9]+", required: true,
  });
  const names = () => {
    const parts = input.value.trim().split("/");
    return parts.length === 3 ? parts : ["", "", ""];
  };
  const form = publishForm(view, names);
  const tail = tailPanel(view, names, (record) => form.repeat(record));
  input.addEventListener("change", () => {
    view.note({ topic: input.value.trim() });
    form.tell();
    tail.tell();
  });
  view.add(h("div", { class: "card field" }, h("label", { for: "trytopic" }, "Topic"), input,
    h("datalist", { id: "trytopics" }, known.map((each) => h("option", { value: each }))),
    h("small", null, open ? "default/TOPIC/v1: without a registry every topic belongs to default." : "application/topic/version")));
  if (!open && !known.length) view.add(h("p", { class: "notice" }, "There is no topic yet: register one first."));
  view.add(h("div", { class: "halves" }, section("Publish", form), section("Tail", tail)));
}
