// Behind figures: as of when they are, and the same by curl and by PromQL.
import { curl } from "./api.js";
import { copyable, h, replace } from "./dom.js";
import { moment } from "./format.js";
/** `promql`: queries that Prometheus answers with the same. `tell(query)` says that the figures are of now. */
export function asOf(view, where, { query = {}, promql = [] } = {}) {
  const time = h("time");
  const lines = h("div");
  const element = h("details", { class: "source" }, h("summary", null, "As of ", time, promql.length ? " · curl, PromQL" : " · curl"), lines);
  let told;
  element.tell = (asked = query, at = Date.now()) => {
    replace(time, moment(at));
    const line = curl("GET", where, { query: asked, signedIn: view.session.needed });
    if (line === told) return;
    told = line;
    replace(lines, copyable(line, "By curl"), promql.map((each) => copyable(each, "As PromQL")));
  };
  element.tell();
  return element;
}

/** A selector of Prometheus; a label without a value is left out. */
export const selector = (name, labels) => `${name}{${Object.entries(labels).filter(([, value]) => value !== undefined)
  .map(([label, value]) => `${label}=${JSON.stringify(value)}`).join(",")}}`;
export const rate = (name, labels) => `sum(rate(${selector(name, labels)}[1m]))`;
