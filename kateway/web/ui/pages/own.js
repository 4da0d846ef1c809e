// My application: what a tenant sees of its own. The same parts as an operator's page of it.
import { copyable, get, h, href, link, list, path, section, selector } from "../parts.js";
import { GROUP_COLUMNS } from "../groups.js";
import { keysTable } from "../keys.js";
import { limitsAndUse, topicsOf } from "./application.js";
export async function own(view) {
  const app = view.session.application;
  view.heading("My application", { below: app ? `${app}: does its stream flow, is it throttled, how does it start?` : undefined });
  if (!app) {
    view.add(h("p", { class: "notice" }, "This session is not an application's. ", link("Applications", href(["applications"])), " has all of them."));
    return;
  }
  const entry = await get(`applications/${path(app)}`, {}, view.signal);
  view.add(await limitsAndUse(view, app, entry));
  view.add(section("Three steps", h("ol", { class: "steps" },
    h("li", null, "Make a key to publish and one to read, below. The secret is shown once."),
    h("li", null, "Publish:", copyable(`curl -H 'Pubkey: KEY' -H 'Secret: SECRET' -d 'hello' 'http://GATEWAY:9090/v1/topics/TOPIC'`, "Publish by curl")),
    h("li", null, "Read:", copyable(`curl -N -H 'Subkey: KEY' -H 'Secret: SECRET' 'http://GATEWAY:9090/v1/topics/TOPIC/GROUP'`, "Read by curl")))));
  view.add(keysTable(view, app), topicsOf(view, app));
  view.add(section("Groups", list(view, { caption: "Groups", path: "groups", prefix: "groups-", columns: GROUP_COLUMNS, promql: [selector("kateway_group_lag_records", { reader_application: app })] }).element));
}
