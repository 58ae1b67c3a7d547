// Which layers to show, in which charts, and which of them stands out.
import { isMissing, lastOf } from "./data.js";

const A_CHART = 10;

/** The names that hold all words of a search; a comma parts alternatives. */
export function search(names, text) {
  const wanted = text.toLowerCase().split(",").map((part) => part.split(/\s+/).filter(Boolean));
  const alternatives = wanted.filter((words) => words.length);
  if (!alternatives.length) return names;
  return names.filter((name) => {
    const lower = name.toLowerCase();
    return alternatives.some((words) => words.every((word) => lower.includes(word)));
  });
}

/** Layers in charts of neighbours: blocks of one name or number together if they fit. */
export function blocks(names) {
  const charts = [];
  for (let start = 0; start < names.length;) {
    const block = blockOf(names[start]);
    let end = start;
    while (end < names.length && blockOf(names[end]) === block) end++;
    for (; start < end; start += A_CHART) {
      const part = names.slice(start, Math.min(start + A_CHART, end));
      const last = charts[charts.length - 1];
      if (last && last.length + part.length <= A_CHART) last.push(...part);
      else charts.push(part);
    }
    start = end;
  }
  return charts;
}

const blockOf = (name) => name.match(/^[^/\d]*\d*/)[0];

const finite = (columns, row, c) => Number.isFinite(columns.low[row][c] + columns.high[row][c]);

/** The first column in which a row is NaN or infinite, -1 for none. */
const notFinite = (columns, row) => columns.low[row].findIndex(
  (_, c) => !isMissing(columns, row, c) && !finite(columns, row, c),
);

/** log10; 0 lies far below all else. */
const logarithm = (value) => Math.log10(Math.max(value, 1e-50));

/** log10 of the middle of each column; what is not finite is NaN. */
function logarithms(columns, row) {
  const [low, high] = [columns.low[row], columns.high[row]];
  return Float64Array.from(low, (least, c) => {
    if (!finite(columns, row, c)) return NaN;
    return (logarithm(least) + logarithm(high[c])) / 2;
  });
}

export function median(values) {
  const sorted = Float64Array.from(values).filter((v) => !Number.isNaN(v)).sort();
  return sorted.length ? sorted[sorted.length >> 1] : NaN;
}

/** The `k` names of the "largest" or "smallest" values, or that "changed" most; NaN counts as most. */
export function mostExtreme(columns, names, which, k) {
  const scores = new Map(names.map((name) => {
    const row = columns.names.indexOf(name);
    if (notFinite(columns, row) >= 0) return [name, Infinity];
    const values = logarithms(columns, row).filter((value) => !Number.isNaN(value));
    const tenth = Math.ceil(values.length / 10);
    const end = median(values.slice(-tenth));
    const change = Math.abs(end - median(values.slice(0, tenth)));
    return [name, { largest: end, smallest: -end, changed: change }[which]];
  }));
  const best = [...names].sort((a, b) => scores.get(b) - scores.get(a)).slice(0, k);
  return names.filter((name) => best.includes(name));
}

/**
 * The layer that has moved furthest from the others since the start: {layer, first, last, kind,
 * times}, or null; it began in the steps from `first` to `last`, those of a column. `kind` is "nan", "zero", "grew" or "shrank"; `others` lists those that did so at once.
 */
export function outlier(columns) {
  if (!found.has(columns)) found.set(columns, findOutlier(columns));
  return found.get(columns);
}

const found = new WeakMap(); // of columns that were drawn before

function findOutlier(columns) {
  const { names, starts } = columns;
  const count = starts.length;
  const steps = (c) => ({ first: starts[c], last: lastOf(columns, c) });
  if (count < 4) return null;
  const begun = names.map((_, row) => notFinite(columns, row)).map((c) => (c < 0 ? Infinity : c));
  const first = Math.min(...begun);
  if (first < Infinity) {
    const layers = names.filter((_, row) => begun[row] === first);
    return { layer: layers[0], others: layers.length - 1, ...steps(first), kind: "nan", times: 1 };
  }
  const logs = names.map((_, row) => logarithms(columns, row));
  const middle = Array.from(starts, (_, c) => median(logs.map((values) => values[c])));
  const tenth = Math.max(3, Math.ceil(count / 10));
  let best = null;
  logs.forEach((values, row) => {
    const apart = values.map((value, c) => value - middle[c]);
    const usual = median(apart.slice(0, tenth));
    const moved = apart.map((value) => value - usual);
    const now = median(moved.slice(-Math.max(3, Math.ceil(count / 20))));
    if (Math.abs(now) < 1 || Math.abs(now) <= Math.abs(best?.now ?? 0)) return;
    // Since when: the columns from there to the end all lie on that side, at least half as far.
    let since = count - 1;
    const far = (c) => Math.sign(now) * moved[c] >= Math.abs(now) / 2;
    while (since > 0 && !far(since)) since--;
    while (since > 0 && far(since - 1)) since--;
    // Of the steps of the column before, the last ones may lie there already.
    const end = since && logarithm((now > 0 ? columns.high : columns.low)[row][since - 1]);
    if (since && Math.sign(now) * (end - middle[since - 1] - usual) >= Math.abs(now) / 2) since--;
    best = { layer: names[row], since, now, ends: columns.high[row][count - 1] };
  });
  if (!best) return null;
  const kind = best.ends === 0 ? "zero" : best.now > 0 ? "grew" : "shrank";
  return { layer: best.layer, others: 0, ...steps(best.since), kind, times: 10 ** Math.abs(best.now) };
}
