// Applications: which there are, and a new one.
import { button, call, field, formDialog, go, h, href, link, list, number, openMode, path, QUOTA, quotaFields, quotaOf, say, textOf, useOf } from "../parts.js";
export async function applications(view) {
  const open = await openMode(view);
  view.heading("Applications", {
    below: "Who uses this gateway, and within which limits.",
    actions: [!open && view.may("put_application") && button("Create application", create, { class: "primary" })],
  });
  if (open) {
    view.add(h("p", { class: "notice" }, "This gateway has no registry: every caller is the application default, without keys and limits. [registry] driver in kateway.toml gives it one."));
    return;
  }
  view.add(list(view, {
    caption: "Applications",
    path: "applications", live: "applications", merge: (row, figures) => ({ ...row, figures }),
    promql: [`sum by (application) (rate(kateway_publish_records_total[1m]))`, "kateway_quota_used_ratio"],
    columns: [
      { title: "Application", sort: "name", class: "name", cell: (row) => link(row.name, href(["applications", row.name])) },
      { title: "Description", class: "text", cell: (row) => row.description },
      ...QUOTA.map((each, place) => ({ title: ["Records in/s", "Bytes in/s", "Bytes out/s", "Readers"][place], number: true, cell: (row) => useOf(each, row.quota, row.figures) })),
      { title: "Refused", number: true, cell: (row) => number(row.figures ? row.figures.throttled_total ?? 0 : null) },
    ],
    empty: () => "There is no application yet. Create one, then give it a key.",
  }).element);
}

async function create() {
  const name = await formDialog("Create application", {
    fields: [
      field("Name", "name", { required: true, pattern: "[A-Za-z0-9_\\-]{1,64}", hint: "Letters, digits, _ and -, up to 64" }),
      field("Description", "description"),
      h("fieldset", null, h("legend", null, "Limits"), quotaFields({})),
    ],
    label: "Create",
    submit: async (form) => {
      const app = textOf(form, "name");
      await call("PUT", `applications/${path(app)}`, {
        json: { description: textOf(form, "description"), quota: quotaOf(form) }, headers: { "If-None-Match": "*" },
      });
      return app;
    },
  });
  if (!name) return;
  say(`The application ${name} is made.`, { keep: true });
  go(href(["applications", name]));
}
