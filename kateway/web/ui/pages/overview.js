// Overview: is it well? What is slow, over quota, behind, and why? What changed?
import { ago, asOf, bytes, callerOf, duration, h, href, link, mark, moment, number, openMode, plural, rate, repaint, replace, section, table, windowChoice } from "../parts.js";
import { GROUP_COLUMNS, groupLink, KINDS, trouble, troublesByKind } from "../groups.js";
import { gatewayCharts, perSecond } from "../usage.js";
const [WORST, MOST_OF_A_KIND] = [5, 10];
const quantile = (share) => `histogram_quantile(${share}, sum by (le) (rate(kateway_http_request_duration_seconds_bucket{operation="publish"}[1m])))`;
const CHARTS = [
  ["Records a second", { in_records: "published", out_records: "read" }, perSecond, [rate("kateway_publish_records_total", {}), rate("kateway_subscribe_records_total", {})]],
  ["Publishing takes", { publish_seconds_p50: "half of them", publish_seconds_p99: "99 %" }, duration, [quantile(0.5), quantile(0.99)]],
  ["Lag of all groups", { lag: "lag" }, number, ["sum(kateway_group_lag_records)"]],
  ["Refused and failed a second", { errors: "publishes failed", rejected: "requests rejected", throttled: "refused by quotas" }, perSecond,
    [rate("kateway_publish_errors_total", {}), rate("kateway_http_rejected_total", {}), rate("kateway_quota_throttled_total", {})]],
];

export async function overview(view) {
  view.heading("Overview");
  await openMode(view);
  const words = h("div", { role: "status", class: "verdict" });
  const charts = h("div", { class: "charts" });
  const worst = table("Groups", GROUP_COLUMNS.filter((each) => each.title !== "Unacknowledged"), [], { empty: "No group is read through this gateway just now." });
  const source = asOf(view, "groups", { query: { sort: "severity", desc: "1", limit: WORST }, promql: [`topk(${WORST}, kateway_group_lag_records)`] });
  const [parts, lists] = [h("div"), h("div", { class: "halves quarters" })];
  const window_ = windowChoice(view, () => gatewayCharts(view, charts, CHARTS, window_.value, replace));
  view.add(words, h("div", { class: "halves wide-left" },
    section("Groups that are furthest behind", worst.element, h("p", null, link("All groups", href(["groups"]))), source), parts),
  section("What flows", window_, charts), lists);
  const live = view.live("summary", () => {
    const { status, groups, refused, of } = sorted(live.rows);
    if (!status) return;
    replace(words, ...inWords(status, groups, refused.filter((each) => each.last_minute)));
    worst.paint(groups.toSorted(byLag).slice(0, WORST));
    source.tell();
    replace(parts, section("Stores and registry", h("ul", { class: "parts" }, partsOf(status).map(([name, part, more]) =>
      h("li", null, h("span", null, name), part, h("small", null, more)))),
    h("p", null, link("Gateways and stores", href(["gateways"])))));
    const part = (title, items, line) => section(title, items.length ? h("ul", { class: "events" }, items.slice(0, WORST).map((each) => h("li", null, line(each))))
      : h("p", { class: "muted" }, "Nothing."));
    if (!lists.matches(":hover") && !lists.contains(document.activeElement)) replace(lists,
      part("Throttled applications", refused, (each) => [callerOf(each), ` ${number(each.throttled_total)} refused, ${number(each.last_minute)} in the last minute`]),
      part("Slowest", of("slow", "seconds"), (each) => [`${duration(each.seconds)} ${each.operation} ${each.topic} `, callerOf(each)]),
      part("Errors by reason", of("error", "count"), (each) => [`${number(each.count)} × ${each.reason} ${each.topic} `, callerOf({ actor: each.samples[0]?.actor, ...each })]),
      part("Last changes", of("change", "at"), (each) => `${moment(each.at)} ${each.kind} ${each.object} ${each.outcome}`));
  });
  view.every(2.5, () => gatewayCharts(view, charts, CHARTS, window_.value, repaint));
}

const byLag = (a, b) => (b.lag ?? 0) - (a.lag ?? 0);
/** The rows of the view: the gateway's own, groups with the worst first, applications that were throttled; what is told `of` a part. */
function sorted(rows) {
  const all = [...rows.values()];
  const groups = all.filter((each) => each.group !== undefined);
  groups.sort((a, b) => b.severity - a.severity || byLag(a, b));
  const of = (part, most) => all.filter((each) => each.part === part).sort((a, b) => (a[most] < b[most] ? 1 : -1));
  return { status: rows.get("status"), groups, refused: all.filter((each) => each.throttled_total), of };
}

/** The state of everything in a sentence or two. */
function inWords(status, groups, refused) {
  const away = Object.entries(status.stores).filter(([, store]) => !store.healthy);
  const said = [];
  for (const [name, store] of away) said.push(["bad", `The store ${name} is away: ${store.reason || "no reason is known"}.`]);
  if (!status.registry.healthy) said.push(["warn", `The registry is away: ${status.registry.reason}. Its last state stays in force.`]);
  const reload = status.configuration.last_reload;
  if (reload && !reload.ok) said.push(["warn", "The last reload was refused; the old configuration is in force."]);
  for (const [state, [row, ...others]] of troublesByKind(groups)) {
    said.push([KINDS[state] === "bad" ? "bad" : "warn", [groupLink(row), `: ${trouble(row)}.`, others.length > 0 && [" ",
      link(`${plural(others.length, "further group")}${others.length + 1 < MOST_OF_A_KIND ? "" : " or more"} likewise.`, href(["groups"], { state }))]]]);
  }
  for (const each of refused.slice(0, WORST)) said.push(["warn", `${each.application} is over its quota: ${number(each.last_minute)} refused in the last minute.`]);
  if (!said.length) {
    said.push(["ok", `${plural(status.readers, "reader")} in ${plural(status.groups, "group")}, stores and registry answer, up for ${duration(Math.round(status.uptime_seconds))}.`]);
  }
  const kinds = { bad: "Trouble:", warn: "Look at this:", ok: "All is well." };
  return said.map(([kind, text]) => h("p", { class: `notice ${kind}` }, mark(kind, kinds[kind]), " ", text));
}

function partsOf(status) {
  const health = (part) => (part.healthy ? mark("ok", "healthy") : mark("bad", "away"));
  return [
    ...Object.entries(status.stores).map(([name, store]) => [`Store ${name}`, health(store),
      [store.driver, store.breaker && `breaker ${store.breaker}`, store.free_bytes !== undefined && `${bytes(store.free_bytes)} free`].filter(Boolean).join(", ")]),
    ["Registry", health(status.registry), status.registry.driver],
    ["Configuration", mark(status.configuration.last_reload?.ok === false ? "warn" : "ok", `generation ${status.configuration.generation}`),
      status.configuration.last_reload ? `reloaded ${ago(status.configuration.last_reload.at)}` : "as it was started"],
  ];
}
