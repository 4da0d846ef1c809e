// Whether the gateway has a registry at all.
import { get } from "./api.js";
import { h, link } from "./dom.js";
import { href } from "./router.js";
let driver = null;

export async function openMode(view) {
  // a tenant has its application from a registry
  if (view.session.application) return false;
  driver ??= (await get("status", {}, view.signal)).registry.driver;
  return driver === "open";
}

/** The application of a request, as a link where it has a page; of a person's request, the name that it came under. */
export function callerOf({ application, actor }) {
  if (!application) return actor ? h("span", { class: "muted" }, `${actor} (admin API)`) : "";
  return driver === "open" ? application : link(application, href(["applications", application]));
}
