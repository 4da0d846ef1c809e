// Publishes as an operator: a form, its receipt, the same as curl.
import { call, copyable, curl, field, h, href, link, numberOf, path, replace, submitted, textOf, tried } from "./parts.js";
/** `names` is the topic, or a function that gives it. `given` fills the form: a record that is repeated. */
export function publishForm(view, names, { published = () => {} } = {}) {
  const topic = () => (typeof names === "function" ? names() : names);
  const answer = h("div");
  const command = h("div");
  const asked = () => {
    const headers = textOf(form, "headers").split("\n").filter((line) => line.trim()).map((line) => {
      const [name, ...rest] = line.split(":");
      return { name: name.trim(), value: rest.join(":").trim() };
    });
    const record = {
      value: form.elements.tombstone.checked ? null : form.elements.value.value, key: textOf(form, "key") || undefined,
      headers: headers.length ? headers : undefined, partition: numberOf(form, "partition"),
    };
    return { where: `records/${path(...topic())}`, query: { batch: "1" }, body: JSON.stringify([record]), type: "application/json" };
  };
  const tell = () => {
    if (topic().every(Boolean)) {
      const { where, query, body, type } = asked();
      replace(command, copyable(curl("POST", where, { query, body, type, signedIn: view.session.needed }), "The same by curl"));
    }
  };
  const form = h("form", {
    oninput: tell,
    onsubmit: submitted(async () => {
      const began = performance.now();
      await tried(async () => {
        const { where, query, body, type } = asked();
        const { data } = await call("POST", where, { query, body, headers: { "Content-Type": type } });
        const [receipt] = data.results;
        const [app, name, version] = topic();
        replace(answer, h("p", { role: "status", class: "notice ok" }, receipt.handoff ? "✓ Kept on disk until the store is back" : ["✓ Written at ", link(`partition ${receipt.partition}, offset ${receipt.offset}`,
            href(["topics", app, name, version], { tab: "records", from: "offset", at: receipt.offset, partition: receipt.partition, limit: 1 }))],
          ` in ${Math.round(performance.now() - began)} ms.`));
        published(receipt);
      }, answer, form.querySelector("button[type=submit]"));
    }),
  },
  field("Value", "value", { rows: 5, value: "hello" }),
  field("A tombstone: no value at all", "tombstone", { type: "checkbox" }),
  h("div", { class: "columns" }, field("Key", "key"), field("Partition", "partition", { type: "number", min: "0", placeholder: "by key" })),
  field("Headers", "headers", { rows: 2, hint: "One a line, name: value" }),
  h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Publish")));
  tell();
  const element = h("div", { class: "publish" }, form, answer, command);
  element.repeat = (record) => {
    form.elements.value.value = record.value ?? "";
    form.elements.tombstone.checked = record.value === null && record.value_base64 === undefined;
    form.elements.key.value = record.key ?? "";
    form.elements.headers.value = (record.headers ?? []).filter((each) => each.value !== undefined && each.value !== null)
      .map((each) => `${each.name}: ${each.value}`).join("\n");
    tell();
    form.elements.value.focus();
  };
  element.tell = tell;
  return element;
}
