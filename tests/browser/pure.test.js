// The parts of the manager that are pure: run by node over a copy of its modules.

import assert from "node:assert/strict";
import test from "node:test";

// where the calls are is asked of the page
globalThis.document = { baseURI: "http://localhost/ui/", getElementById: () => null };
const { ceiling, pathOf, thinned } = await import("./charts.js");
const { ago, bytes, duration, number, plural } = await import("./format.js");
const { parsed } = await import("./live.js");
const { rate, selector } = await import("./source.js");

test("a figure that is not known is a dash, never a nought", () => {
  for (const shown of [number, bytes, duration]) {
    assert.equal(shown(null), "–");
    assert.equal(shown(undefined), "–");
  }
  assert.equal(number(0), "0");
  assert.equal(ago(null), "never");
});

test("figures are rounded to what a person reads", () => {
  assert.equal(number(1234567), "1,234,567");
  assert.equal(number(0.12345), "0.12");
  assert.equal(bytes(1536), "1.5 kB");
  assert.equal(duration(0.0025), "2.5 ms");
  assert.equal(duration(90061), "25 h 1 min");
  assert.equal(plural(1, "record"), "1 record");
  assert.equal(plural(2, "record"), "2 records");
});

test("thinned points keep every peak and every hole that is wider than a step", () => {
  const points = Array.from({ length: 1000 }, (_, at) => [at, at === 777 ? 99 : 1]);
  const kept = thinned(points);
  assert.ok(kept.length <= 300);
  assert.ok(kept.some(([, value]) => value === 99));
  const holed = thinned(points.map(([at, value]) => [at, at >= 500 && at < 600 ? null : value]));
  assert.ok(holed.some(([, value]) => value === null));
});

test("an axis ends at a round figure that is not below the largest", () => {
  for (const largest of [0.003, 1, 9.9, 10, 260, 12345]) {
    assert.ok(ceiling(largest) >= largest);
    assert.ok(ceiling(largest) <= largest * 2.51);
  }
  assert.equal(ceiling(0), 1);
});

test("a hole lifts the pen, and a point between two holes is drawn", () => {
  const same = (value) => value;
  assert.equal(pathOf([[0, 1], [1, null], [2, 3], [3, 4]], same, same), "M0.0 1.0h1M2.0 3.0L3.0 4.0");
});

test("events are taken whole out of a text that comes in pieces", () => {
  const text = 'event: state\nid: 1\ndata: {"rows":[{"name":"a: b"}]}\n\n:\n\nevent: change\nid: 2\nda';
  const first = parsed(text);
  assert.deepEqual(first.events, [{ kind: "state", data: { rows: [{ name: "a: b" }] } }]);
  const second = parsed(`${first.rest}ta: {"rows":[]}\n\n`);
  assert.deepEqual(second, { events: [{ kind: "change", data: { rows: [] } }], rest: "" });
});

test("a selector has no label without a value", () => {
  assert.equal(selector("m", { application: "a\"b", group: undefined }), 'm{application="a\\"b"}');
  assert.equal(rate("m_total", { topic: "t" }), 'sum(rate(m_total{topic="t"}[1m]))');
});
