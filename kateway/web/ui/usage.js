// What flows of an object, as charts of the history; words where no history is kept.
import { bytes, chart, duration, h, marks, number, rate, repaint, replace, selector, series, windowChoice } from "./parts.js";
export const perSecond = (value) => `${number(value)}/s`;
const NAMES = { in_records: "in", out_records: "out", in_bytes: "in", out_bytes: "out", oldest_seconds: "age of the oldest" };
const NONE = "No history is kept of it: what flowed is known to /metrics alone.";
const perByte = (value) => `${bytes(value)}/s`;
const [OUT, BYTES_OUT] = ["kateway_subscribe_records_total", "kateway_subscribe_bytes_total"];
const [IN, BYTES_IN, FAILED] = ["kateway_publish_records_total", "kateway_publish_bytes_total", "kateway_publish_errors_total"];
// title, series, format, metrics that have the same; a format of its own gives a series the axis at the right
const CHARTS = {
  application: [
    ["Records in and out", ["in_records", "out_records"], perSecond, [IN, OUT]],
    ["Bytes in and out", ["in_bytes", "out_bytes"], perByte, [BYTES_IN, BYTES_OUT]],
    ["Errors and throttled", ["errors", "throttled"], perSecond, [FAILED, "kateway_quota_throttled_total"]],
  ],
  topic: [
    ["Records in and out", ["in_records", "out_records"], perSecond, [IN, OUT]],
    ["Bytes in", ["in_bytes"], perByte, [BYTES_IN]],
    ["Errors", ["errors"], perSecond, [FAILED]],
  ],
  group: [
    ["Lag and age of the oldest", ["lag", "oldest_seconds"], number, ["kateway_group_lag_records", "kateway_group_oldest_seconds"], { oldest_seconds: duration }],
    ["Delivered and acknowledged", ["out_records", "acknowledged"], perSecond, [OUT, "kateway_subscribe_acknowledged_records_total"]],
  ],
};

/** The labels of an object's series: what an application reads has it as its reader. */
function labelsOf(kind, object, metric) {
  const names = object.split("/");
  if (kind === "application") return metric.includes("subscribe") ? { reader_application: object } : { application: object };
  const [application, topic, version, group] = names.slice(kind === "group" ? -4 : 0);
  return { application, topic, version, group, reader_application: names.length > 4 ? names[0] : undefined };
}

export const promqlOf = (kind, object, metrics) => metrics.map((each) => (each.endsWith("_total") ? rate : selector)(each, labelsOf(kind, object, each)));

/** Charts of an object with a choice of their window. */
export async function usage(view, object, kind = "application") {
  const holder = h("div", { class: "charts" });
  const choice = windowChoice(view, () => load(true));
  const load = async (anyway) => {
    const window_ = choice.value;
    const [points, changes] = await Promise.all([series(CHARTS[kind].flatMap((each) => each[1]), window_, object, view.signal), marks(view)]);
    const flowed = (name) => points[name]?.some(([, value]) => value !== null);
    const found = points ? CHARTS[kind].filter(([, names]) => names.some(flowed)).map(([title, names, shown, metrics, own = {}]) =>
      chart(title, names.map((name) => ({ name: NAMES[name] ?? name, points: points[name] ?? [], shown: own[name] })), shown, {
        marks: changes,
        source: { view, query: { series: names.join(","), window: window_, object }, promql: promqlOf(kind, object, metrics) },
      })) : [];
    choice.hidden = !points;
    (anyway ? replace : repaint)(holder, found.length ? found : h("p", { class: "muted" },
      points ? "Nothing has flowed yet that the history knows of." : NONE));
  };
  await view.every(5, load);
  return h("div", null, choice, holder);
}

/** Charts of the gateway as a whole: title, names of series with what to call them, format, queries of PromQL. */
export async function gatewayCharts(view, holder, charts, window_, paint) {
  const [points, changes] = await Promise.all([series(charts.flatMap((each) => Object.keys(each[1])), window_, undefined, view.signal), marks(view)]);
  paint(holder, points ? charts.map(([title, names, shown, promql]) => chart(title,
    Object.entries(names).map(([name, told]) => ({ name: told, points: points[name] ?? [] })), shown,
    { marks: changes, source: { view, query: { series: Object.keys(names).join(","), window: window_ }, promql } }))
    : h("p", { class: "muted" }, NONE));
}
