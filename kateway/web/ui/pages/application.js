// One application: its limits, its keys, what it may read, its topics.
import { asOf, button, call, closing, confirmDeletion, copyable, dialog, facts, field, formDialog, get, go, h, href, link, list, named, number, path, putOver, QUOTA, quotaFields, quotaOf, rate, replace, say, section, selector, textOf, tried, useOf } from "../parts.js";
import { bindingsTable } from "../bindings.js";
import { keysTable } from "../keys.js";
import { usage } from "../usage.js";
export async function application(view) {
  const app = view.names.app;
  const where = `applications/${path(app)}`;
  const { data: entry, etag } = await call("GET", where, { signal: view.signal });
  const portal = view.may("make_portal_link");
  view.heading(app, {
    above: ["Applications", href(["applications"])],
    below: entry.description,
    actions: [
      view.may("put_application") && button("Change limits", () => change(where, app, entry, etag), { class: "plain" }),
      portal && button("Portal link", () => portalLink(where), { class: "plain" }),
      view.may("delete_application") && button("Delete", () => remove(where, app), { class: "danger" }),
    ],
  });
  view.add(await limitsAndUse(view, app, entry));
  view.add(keysTable(view, app));
  view.add(topicsOf(view, app), bindingsTable(view, { subscriber: app }));
  view.add(await errorsOf(view, app));
}

/** Each limit with what is used of it just now, and charts. */
export async function limitsAndUse(view, app, entry) {
  const holder = h("div");
  const source = asOf(view, "live", { query: { view: "applications", ids: app }, promql: [selector("kateway_quota_used_ratio", { application: app }), rate("kateway_quota_throttled_total", { application: app })] });
  const tell = (figures) => {
    replace(holder, facts([...QUOTA.map((each) => [each[1], useOf(each, entry.quota, figures)]), figures && ["Refused by limits", number(figures.throttled_total ?? 0), "since the gateway's start"]]));
    source.tell();
  };
  tell();
  const charts = await usage(view, app);
  view.live("applications", (rows) => rows.forEach(tell), [app]);
  return section("Limits and use", holder, source, charts);
}

export function topicsOf(view, app) {
  return section("Topics", list(view, {
    caption: "Topics",
    path: "topics",
    prefix: "topics-",
    search: false,
    query: { contains: `${app}/` },
    keep: (row) => row.name.startsWith(`${app}/`),
    columns: [
      { title: "Topic", sort: "name", class: "name", cell: (row) => link(named(row.name), href(["topics", ...row.name.split("/")])) },
      { title: "Partitions", sort: "partitions", number: true, cell: (row) => number(row.partitions) }, { title: "State", cell: (row) => row.state },
    ],
    empty: () => "It has no topic of its own.",
  }).element);
}

async function errorsOf(view, app) {
  const found = await get("errors", { application: app }, view.signal).catch(() => null);
  const own = found?.items?.filter((each) => each.application === app) ?? [];
  if (!own.length) return null;
  return section("Errors", h("ul", null, own.slice(0, 5).map((each) =>
    h("li", null, `${number(each.count)} × ${each.reason} `, h("code", null, each.topic ?? "")))),
  h("p", null, link("All errors", href(["errors"]))));
}

async function change(where, app, entry, etag) {
  let mine = true;
  const done = await formDialog(`Limits of ${app}`, {
    fields: [field("Description", "description", { value: entry.description }), quotaFields(entry.quota)],
    label: "Save",
    submit: async (form) => {
      const wanted = { description: textOf(form, "description"), quota: quotaOf(form) };
      mine = await putOver(where, app, etag, wanted);
      return true;
    },
  });
  if (!done) return;
  say(mine ? `The limits of ${app} are in force.` : "The version in force stays.", { keep: true });
  go(href(["applications", app]));
}

async function remove(where, app) {
  const gone = await confirmDeletion(`application ${app}`, app, () => call("DELETE", where), {
    consequence: "Its keys go with it, and whatever reads or publishes with them fails. Topics and bindings that refer to it must go first.",
  });
  if (!gone) return;
  say(`The application ${app} is deleted.`, { keep: true });
  go(href(["applications"]));
}

async function portalLink(where) {
  await tried(async () => {
    const { data } = await call("POST", `${where}/portal-links`, { json: {} });
    const whole = new URL(href(["signin"], { link: data.link }), document.baseURI).href;
    await dialog("Portal link", (close) => [
      h("p", null, "It works once, within ten minutes, and shows this application and no other."),
      copyable(whole, "Portal link"),
      closing(close),
    ]);
  });
}
