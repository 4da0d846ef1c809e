// Gateways and stores: is a member missing, hot, behind? Reload, drain, breakers, what was kept on disk.
import { ago, button, bytes, call, closing, confirmDeletion, dialog, duration, facts, formDialog, get, h, list, mark, moment, number, path, plural, repaint, replace, say, section, table, tried } from "../parts.js";
import { profile } from "../profile.js";
import { gatewayCharts } from "../usage.js";
import { slowest } from "./errors.js";
const lateness = (name) => `histogram_quantile(0.99, sum by (le) (rate(${name}_bucket[1m])))`;
const CHARTS = [
  ["Stores take", { store_seconds_p50: "half of them", store_seconds_p99: "99 %" }, duration, [lateness("kateway_store_request_duration_seconds")]],
  ["Reactor lag", { reactor_lag_seconds_p99: "99 %" }, duration, [lateness("kateway_reactor_lag_seconds")]],
  ["Bytes in flight to stores", { store_bytes_in_flight: "in flight" }, bytes, ["sum(kateway_store_bytes_in_flight)"]],
  ["Processor", { cpu: "cores" }, (value) => `${number(value * 100)} %`, ["rate(process_cpu_seconds_total[1m])"]],
];

export async function gateways(view) {
  view.heading("Gateways and stores", {
    below: "Is a member missing, hot, behind?",
    actions: [
      view.may("reload") && button("Reload", reload, { class: "primary" }),
      view.may("profile") && button("Profile 10 s", profile, { class: "plain" }),
    ],
  });
  const status = h("div", { class: "page" });
  const charts = h("div", { class: "charts" });
  view.add(status, section("Load and latency", charts));
  view.add(section("Gateways", list(view, {
    caption: "Gateways", path: "gateways", prefix: "gateways-", search: false, promql: ["kateway_build_info", "kateway_configuration_generation"],
    columns: [
      { title: "Gateway", sort: "name", class: "name", cell: (row) => [row.name, row.name === view.session.gateway && " (this one)"] },
      { title: "Version", cell: (row) => row.version }, { title: "Since", cell: (row) => ago(row.started) },
      { title: "Public", cell: (row) => row.public.join(", ") }, { title: "Admin", cell: (row) => row.admin.join(", ") },
      { title: "Load", cell: ({ load }) => `${plural(load.readers, "reader")}, ${plural(load.groups, "group")}, ${plural(load.connections, "connection")}` },
      { title: "In flight", number: true, cell: (row) => bytes(row.load.bytes_in_flight) },
      { title: "Actions", cell: (row) => view.may("drain") && row.name === view.session.gateway && button("Drain", () => drain(row.name), { class: "plain small", "aria-label": `Drain ${row.name}` }) },
    ],
    empty: () => "No gateway is known.",
  }).element));
  view.add(section("Breakers", list(view, {
    caption: "Breakers", path: "breakers", prefix: "breakers-", search: false, promql: ["kateway_breaker_state"],
    columns: [
      { title: "Store", sort: "name", class: "name", cell: (row) => row.name },
      { title: "State", cell: (row) => mark({ closed: "ok", half_open: "warn", open: "bad" }[row.state], row.state.replace("_", " ") + (row.by_hand ? " by hand" : "")) },
      { title: "Since", cell: (row) => ago(row.since) }, { title: "Failures", number: true, cell: (row) => number(row.failures) },
      { title: "Next probe", cell: (row) => (row.next_probe_seconds === null ? "" : `in ${duration(row.next_probe_seconds)}`) },
      { title: "Last error", class: "text", cell: (row) => row.last_error ?? "" },
      { title: "Actions", cell: (row) => view.may("set_breaker") && button(row.state === "closed" ? "Open" : "Close", () => breaker(row), { class: "plain small", "aria-label": `${row.state === "closed" ? "Open" : "Close"} the breaker of ${row.name}` }) },
    ],
  }).element));
  view.add(section("Handoff", h("p", { class: "muted" }, "Records that are kept on disk while their store is away."), list(view, {
    caption: "Handoff", path: "handoff", prefix: "handoff-", search: false, promql: ["kateway_store_handoff_records", "kateway_store_handoff_oldest_seconds"],
    columns: [
      { title: "Store", sort: "name", class: "name", cell: (row) => row.name }, { title: "Records", number: true, cell: (row) => number(row.records) },
      { title: "Bytes", number: true, cell: (row) => `${bytes(row.bytes)} of ${bytes(row.max_bytes)}` },
      { title: "Oldest", number: true, cell: (row) => duration(row.oldest_seconds) },
      { title: "Drains", number: true, cell: (row) => `${number(row.drained_per_second)}/s` },
      { title: "Refused", number: true, cell: (row) => number(row.refused) },
      {
        title: "Actions",
        cell: (row) => row.refused > 0 && h("span", { class: "rowactions" },
          view.may("refused") && button("Look", () => refused(row.name), { class: "plain small" }),
          view.may("retry_refused") && button("Retry", () => retry(row.name), { class: "plain small" }),
          view.may("delete_refused") && button("Delete", () => discard(row.name), { class: "plain small" })),
      },
    ],
    empty: () => "No store has a handoff ([storage.NAME] handoff = true).",
  }).element));
  view.add(slowest(view, 5));
  const live = view.live("status", () => replace(status, state(live.rows.get("status"))));
  view.every(5, () => gatewayCharts(view, charts, CHARTS, "15m", repaint));
}

function state(found) {
  const reload_ = found.configuration.last_reload;
  const parts = [...Object.entries(found.stores).map(([name, each]) => ({ name: `store ${name}`, ...each })), { name: "registry", ...found.registry }];
  return [
    section("This gateway", facts([
      ["Version", found.version],
      ["Up", duration(Math.round(found.uptime_seconds))],
      ["Configuration", `generation ${found.configuration.generation}`,
        reload_ ? `reloaded ${ago(reload_.at)}${reload_.ok ? "" : ", refused"}` : "never reloaded"],
      ["Readers", number(found.readers)],
      ["Groups", number(found.groups)],
      ["In flight", bytes(found.bytes_in_flight)],
      ["Waiting", number(found.requests_waiting), "requests"],
      ["Turned away", number(found.requests_refused), "requests"],
    ]), reload_ && !reload_.ok && h("div", { class: "notice bad" }, "The last reload was refused; the old configuration is in force.",
      h("ul", null, reload_.problems.map((each) => h("li", null, each))))),
    section("Stores and registry", table("Stores", [
      { title: "Part", class: "name", cell: (row) => row.name }, { title: "Driver", cell: (row) => row.driver },
      { title: "State", cell: (row) => (row.healthy ? mark("ok", "healthy") : mark("bad", "away")) },
      { title: "Why", class: "text", cell: (row) => row.reason || "" }, { title: "Breaker", cell: (row) => row.breaker ?? "" },
      { title: "Size", number: true, cell: (row) => (row.bytes === undefined ? "" : bytes(row.bytes)) },
      { title: "Free", number: true, cell: (row) => (row.free_bytes === undefined ? "" : bytes(row.free_bytes)) },
    ], parts).element),
  ];
}

async function reload(event) {
  await tried(async () => {
    const { data } = await call("POST", "reload");
    say(`The configuration is read again: generation ${data.generation}.`);
  }, null, event.target);
}

async function drain(name) {
  if (await confirmDeletion(`gateway ${name}`, name, () => call("POST", `gateways/${path(name)}/drain`), {
    consequence: "It does what TERM does: it takes no new connections, finishes what is under way, leaves its groups and ends. This page ends with it.",
    label: "Drain",
  })) say(`The gateway ${name} drains.`);
}

async function breaker(row) {
  const opening = row.state === "closed";
  const done = await formDialog(`${opening ? "Open" : "Close"} the breaker of ${row.name}`, {
    intro: h("p", null, opening ? "Until it is closed by hand nothing is asked of the store: publishes are refused, or kept on disk where it has a handoff."
      : "The store is asked again."),
    label: opening ? "Open" : "Close the breaker",
    danger: opening,
    submit: () => call("POST", `breakers/${path(row.name)}`, { json: { state: opening ? "open" : "closed" } }),
  });
  if (done) say(`The breaker of ${row.name} is ${opening ? "open" : "closed"}.`);
}

async function refused(cluster) {
  const found = await get(`handoff/${path(cluster)}/refused`, { limit: 100 });
  await dialog(`Refused by ${cluster}`, (close) => [
    table("Refused", [
      { title: "Topic", cell: (row) => row.topic }, { title: "Taken", cell: (row) => moment(row.taken) },
      { title: "Bytes", number: true, cell: (row) => number(row.value_bytes) }, { title: "Why", class: "text", cell: (row) => row.reason },
    ], found.items).element,
    closing(close),
  ], { wide: true });
}

async function retry(cluster) {
  await tried(async () => {
    const { data } = await call("POST", `handoff/${path(cluster)}/refused/retry`);
    say(`${number(data.retried)} records are written again.`);
  });
}

async function discard(cluster) {
  if (await confirmDeletion(`refused records of ${cluster}`, cluster, () => call("DELETE", `handoff/${path(cluster)}/refused`),
    { consequence: "They are lost." })) say("The refused records are deleted.");
}
