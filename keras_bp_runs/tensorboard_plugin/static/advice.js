// The column beside the drawings: what is wrong, since when, what to do, and the selected values.
import { valueAt } from "./data.js";
import { count, exact, short, stepsText, timesText } from "./scales.js";

const TRY = {
  nan: "Lower the learning rate or clip the gradients (global_clipnorm), and look for a logarithm, a "
    + "root or a division that meets 0, and for NaN in the data.",
  grew: "Lower the learning rate, or clip the gradients (global_clipnorm). Look at this layer's "
    + "weights and update ratio, which is healthy near 1e-3.",
  shrank: "Look at this layer's dead and saturated units, here or in those that follow, and at its "
    + "weights. A rate that is too high kills units; a bad initialization or saturation starves them.",
  zero: "Nothing reaches this layer: is it frozen, does all that follows it output 0 (dead ReLUs), or is "
    + "its output not used?",
};

/** An element with a text or with children. */
export function element(tag, className = "", ...content) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...content);
  return made;
}

/** A text as nodes, what stands between backticks as code. */
const withCode = (text) => text.split(/`+([^`]+)`+/).map((part, i) => (
  i % 2 ? element("code", "", part) : part
));

const title = (check) => (check.charAt(0).toUpperCase() + check.slice(1)).replaceAll("_", " ");

/** TrainingHealth's findings, the first one open; hooks: open(finding). */
export function drawFindings(parent, findings, opened, hooks) {
  parent.replaceChildren(element("h2", "", "What TrainingHealth found"));
  if (!findings.length) {
    parent.append(element("p", "quiet", "No finding is written in this run. The callback "
      + "TrainingHealth(log_dir=...) names faults with their layer and cure."));
    return;
  }
  const list = parent.appendChild(element("div", "findings"));
  for (const finding of findings) {
    const place = finding.layer ?? "the model";
    const entry = element("details", "finding");
    entry.open = opened.some((other) => sameFinding(other, finding));
    const summary = element("summary", "", element("b", "", title(finding.check)), " in ",
      element("code", "", place), ` at step ${count(finding.step)}`);
    // The page opens it, with its place in the drawings.
    summary.addEventListener("click", (event) => { event.preventDefault(); hooks.open(finding); });
    entry.append(summary, element("p", "", ...withCode(finding.description)));
    if (finding.value !== undefined) {
      entry.append(facts([["Value", number(finding.value)], ["Threshold", number(finding.threshold)]]));
    }
    if (finding.advice) entry.append(element("p", "cure", ...withCode(finding.advice)));
    list.append(entry);
  }
  // Of many findings the open one may be far below; the list alone moves, not the page.
  const open = list.querySelector("[open]");
  if (open) list.scrollTop = open.offsetTop;
}

const sameFinding = (a, b) => a.check === b.check && a.layer === b.layer && a.step === b.step;

// The server sends NaN and infinity as words.
const number = (value) => (typeof value === "number" ? short(value) : String(value));

function facts(pairs) {
  const table = element("table");
  for (const [name, value] of pairs) {
    table.append(element("tr", "", element("th", "", name), element("td", "", value)));
  }
  return table;
}

/** Which layer stands out in what is shown, since when, and what to try. */
export function drawOutlier(parent, found, kind, hooks) {
  parent.replaceChildren(element("h2", "", "What stands out"));
  if (!found) {
    parent.append(element("p", "quiet", `No layer's ${kind} has moved ten times further than the `
      + "others' since the first step shown."));
    return;
  }
  const times = count(Number(found.times.toPrecision(2)));
  const what = {
    nan: `is NaN or infinite${found.others ? `, with ${found.others} others` : ""},`,
    zero: "is 0",
    grew: `has grown ${times} times more than the others'`,
    shrank: `has shrunk ${times} times more than the others'`,
  }[found.kind];
  const link = element("button", "link", found.layer);
  link.addEventListener("click", () => hooks.select({ layer: found.layer, step: found.first }));
  parent.append(
    element("p", "", link, `: its ${kind} ${what} since ${stepsText(found)}.`),
    element("p", "cure", element("b", "", "Try: "), TRY[found.kind]),
  );
}

/** The values of the selected layer at the selected step; `shown` holds [run name, columns] pairs. */
export function drawSelected(parent, selected, kind, shown, most) {
  parent.replaceChildren(element("h2", "", "Selected"));
  if (!selected) {
    parent.append(element("p", "quiet", "Click a cell. Drag over steps to zoom in: from "
      + `${count(most)} steps down each step has its own value. A double click shows all steps again.`));
    return;
  }
  parent.append(element("p", "", element("code", "", selected.layer ?? "the model")));
  const values = shown.map(([name, columns]) => [name, valueAt(columns, selected.layer, selected.step)]);
  for (const [name, { first, last, low, high }] of values) {
    if (low === undefined) continue;
    const rows = low === high || Number.isNaN(low)
      ? [[kind, exact(low)]]
      : [[`Smallest ${kind.toLowerCase()}`, exact(low)], ["Largest", exact(high)]];
    const run = shown.length > 1 ? [["Run", name]] : [];
    parent.append(facts([...run, ["At", stepsText({ first, last })], ...rows]));
  }
  const [a, b] = values.map(([, value]) => value.high);
  if (a > 0 && b > 0) parent.append(facts([["First over second run", timesText(Math.log10(a / b))]]));
}

/** Settings, those that differ first and marked where there are two runs. */
export function drawSettings(parent, runs) {
  const flat = runs.map((run) => new Map(flatten(run.settings ?? {})));
  const keys = [...new Set(flat.flatMap((settings) => [...settings.keys()]))];
  parent.hidden = !keys.length;
  if (!keys.length) return;
  const differs = (key) => flat.length > 1 && flat[0].get(key) !== flat[1].get(key);
  const table = element("table", "settings");
  const row = (style, ...cells) => table.append(element("tr", style, ...cells));
  if (runs.length > 1) row("", ...runs.map((run) => element("th", "", run.name)));
  for (const key of [...keys.filter(differs), ...keys.filter((k) => !differs(k))]) {
    const style = differs(key) ? "differs" : "";
    const name = element("th", "", ...key.split(/(?<=[._])/).flatMap((part) => [part, element("wbr")]));
    const cells = flat.map((settings) => element("td", "", settings.get(key) ?? "–"));
    if (runs.length === 1) {
      row(style, name, ...cells);
      continue;
    }
    // Beside the values of two runs a name has no room: it stands above them.
    name.colSpan = runs.length;
    row(style, name);
    row(style, ...cells);
  }
  parent.querySelector("div").replaceChildren(table);
}

function flatten(value, path = "") {
  // What was not set says nothing, and a summary of the model fills pages.
  if (value === null || (typeof value === "string" && value.includes("\n"))) return [];
  if (typeof value !== "object") return [[path, String(value)]];
  if (Array.isArray(value) && value.every((each) => typeof each !== "object")) {
    return [[path, value.join(", ")]];
  }
  if (Array.isArray(value)) return [[path, `${value.length} entries`]];
  return Object.entries(value).flatMap(([key, each]) => flatten(each, path ? `${path}.${key}` : key));
}
