// The page: its controls, what is chosen there, and which drawing shows it.
import { drawFindings, drawOutlier, drawSelected, drawSettings, element } from "./advice.js";
import { Charts } from "./charts.js";
import { Controls } from "./controls.js";
import { difference, getColumns, getJson, valueAt } from "./data.js";
import { HeatMap } from "./heat_map.js";
import { Histograms } from "./histograms.js";
import { blocks, mostExtreme, outlier, search } from "./layers.js";
import { scaleOf, spansDecades } from "./lines.js";
import { LINES, differenceScale, makeScale, short, stepsText, timesText } from "./scales.js";

const REFRESH = 3000; // milliseconds between two looks at a run that may be growing
const UNTIL_EXACT = 300;
const NAMES_AND_BAR = 190 + 76;

// The quantities in which TrainingHealth's checks find what they find, where not in the gradients.
const SHOWN_BY = {
  dead_units: "dead_units", saturation: "saturated_units", update_ratio: "update_ratio",
  unchanged_weights: "update_ratio",
};

const EMPTY = "There is no run of keras_bp in this directory. Train with "
  + "callbacks=[GradientMonitor(log_dir=\"tb_logs/first\")] from keras_bp.callbacks, and start "
  + "TensorBoard with --logdir tb_logs. This page looks again by itself.";

export class Page {
  constructor(body) {
    this.body = body;
    // What is chosen: runs and kind by name; range null for all steps; selected {layer, step}.
    this.chosen = { run: "", other: "", kind: "", range: null, selected: null, opened: [] };
    this.runs = new Map(); // name -> what the server says of it
    this.columns = new Map(); // name of a run -> columns of the kind
    this.gone = []; // runs that are shown, and whose files were removed
    this.asked = 0;
    this.isScaleComplete = true;
  }

  async start() {
    await this.attempt(async () => {
      await this.list();
      if (this.names.length) await this.load();
    });
    setInterval(() => { if (!document.hidden) this.attempt(() => this.refresh()); }, REFRESH);
    window.addEventListener("resize", () => this.draw());
  }

  /** Do something with the server, and say so on the page if that fails. */
  async attempt(action) {
    try {
      await action();
      if (this.failure) this.failure.hidden = true;
    } catch (error) {
      if (this.gone.length && error.status === 404) return; // the page says so already
      if (!this.failure) this.failure = this.body.appendChild(element("p", "card warning"));
      this.failure.textContent = `This page is not up to date (${error.message}). It tries again.`;
      this.failure.hidden = false;
      console.warn(error);
    }
  }

  /** Ask which runs there are, and build the page as soon as there is one. */
  async list() {
    const { runs, newest, kinds } = await getJson("runs");
    const before = this.names?.join("\n");
    // What was read of a run stays on the page when its files are removed.
    const gone = this.shown.filter((run) => this.runs.has(run) && !runs.includes(run));
    this.names = [...runs, ...gone];
    this.kinds = kinds;
    if (!this.names.length) {
      this.body.replaceChildren(element("p", "empty", EMPTY));
      return;
    }
    if (!this.controls) this.build();
    if (this.names.join("\n") === before && gone.join("\n") === this.gone.join("\n")) return;
    this.gone = gone;
    if (!this.names.includes(this.chosen.run)) this.chosen.run = newest;
    if (!this.names.includes(this.chosen.other)) this.chosen.other = "";
    this.controls.showRuns(this.names, this.chosen);
    this.draw();
  }

  build() {
    this.controls = new Controls({
      choose: (change) => this.choose(change),
      draw: () => this.draw(),
      zoom: (first, last) => this.zoom(first, last),
    });
    this.parts = {};
    const add = (name, parent, ...content) => {
      const made = parent.appendChild(element("section", "card", ...content));
      made.id = name;
      this.parts[name] = made;
      return made;
    };
    const main = element("div", "main");
    const left = main.appendChild(element("div"));
    const aside = main.appendChild(element("aside"));
    this.faults = add("faults", left);
    const map = add("map", left);
    this.mapTitle = element("h2");
    this.status = element("span", "quiet");
    this.status.id = "status";
    map.append(element("div", "heading", this.mapTitle, this.status));
    this.readout = map.appendChild(element("div", "readout"));
    const maps = map.appendChild(element("div", "maps"));
    const hooks = {
      hover: (cell) => this.hover(cell),
      select: (cell) => { if (cell) this.select(cell); },
      zoom: (first, last) => this.zoom(first, last),
      finding: (findings) => this.open(findings),
    };
    this.maps = ["first", "second", "difference"].map((name) => {
      const place = maps.appendChild(element("div"));
      place.id = `map-${name}`;
      const title = place.appendChild(element("h3"));
      return { place, title, map: new HeatMap(place, hooks) };
    });
    const lines = add("lines", left, element("h2", "", "Lines, block by block"));
    this.lines = new Charts(lines, { select: (cell) => this.select(cell) });
    const whole = add("scalars", left, element("h2", "", "The whole model"));
    this.scalars = new Charts(whole, {
      select: ({ step }) => this.select({ ...this.chosen.selected, step }),
    });
    const histograms = add("histograms", left,
      element("h2", "", "Weights, gradients and optimizer states at a step"));
    this.histograms = new Histograms(histograms);
    for (const name of ["outlier", "findings", "selected"]) add(name, aside);
    add("settings", aside, element("h2", "", "Settings"), element("div"));
    this.body.replaceChildren(this.controls.element, main);
  }

  /** Take over what was chosen, and load what that needs. */
  choose(change) {
    Object.assign(this.chosen, change);
    // Another run, or two, have another range, and another run has other layers.
    if ("run" in change || "other" in change) this.chosen.range = null;
    if ("run" in change) Object.assign(this.chosen, { selected: null, opened: [] });
    return this.attempt(() => this.load());
  }

  /** The runs to show: one, or two to compare. */
  get shown() {
    const { run, other } = this.chosen;
    return other && other !== run ? [run, other] : [run];
  }

  async load() {
    const asked = ++this.asked;
    const described = await Promise.all(this.shown.map((run) => getJson("run", { run })));
    if (asked !== this.asked) return;
    described.forEach((run) => this.runs.set(run.name, run));
    const [first] = described;
    const kinds = Object.keys(this.kinds).filter((kind) => first.layers[kind]);
    if (!kinds.includes(this.chosen.kind)) this.chosen.kind = kinds[0] ?? "";
    this.controls.showKinds(kinds, this.chosen.kind, kinds.map((kind) => this.kinds[kind].title));
    await this.loadColumns(asked);
    this.drawHistograms();
    await this.loadScalars(asked);
  }

  async loadColumns(asked) {
    const { kind } = this.chosen;
    const [first, last] = this.range;
    let all = true;
    if (kind) {
      const most = this.most();
      const [scale, ...loaded] = await Promise.all([
        getJson("scale", { kind }),
        ...this.shown.map((run) => (this.runs.get(run).layers[kind]
          ? getColumns(run, kind, first, last, most) : null)),
      ]);
      if (asked !== this.asked) return;
      this.scale = makeScale(scale.low, scale.high, this.kinds[kind].log);
      this.isScaleComplete = scale.complete;
      this.columns = new Map(this.shown.map((run, i) => [run, loaded[i]]).filter(([, c]) => c));
      this.columns.forEach((columns, run) => { columns.end = this.runs.get(run).last; });
      all = loaded.every((columns) => !columns || columns.exact);
    } else {
      this.columns = new Map();
    }
    this.chosen.selected ??= this.worst();
    this.draw();
    // The frame after the next one begins when what was drawn is on the screen.
    requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("keras_bp: drawn")));
    this.status.textContent = all ? "" : "Thinned: all steps are being read …";
    if (all) return;
    const again = () => { if (asked === this.asked) this.attempt(() => this.loadColumns(asked)); };
    setTimeout(again, UNTIL_EXACT);
  }

  /** What to select, and which finding to open, at first: of the layer that stands out, if one does. */
  worst() {
    const run = this.runs.get(this.shown[0]);
    const columns = this.columns.get(run.name);
    const found = this.outlier;
    const of = (wanted) => run.findings.find(wanted);
    const finding = of(({ layer }) => layer && layer === found?.layer) ?? of(({ layer }) => layer);
    this.chosen.opened = run.findings.length ? [finding ?? run.findings[0]] : [];
    if (found) return { layer: found.layer, step: found.first };
    if (finding) return { layer: finding.layer, step: finding.step };
    return columns ? { layer: columns.names[0], step: run.last } : null;
  }

  /** The layer that stands out in what is shown; of shares and angles none does. */
  get outlier() {
    const columns = this.columns.get(this.shown[0]);
    return columns && this.kinds[this.chosen.kind].log ? outlier(columns) : null;
  }

  async loadScalars(asked) {
    const [first, last] = this.range;
    const tags = [...new Set(this.shown.flatMap((run) => this.runs.get(run).scalars))];
    const charts = await Promise.all(tags.map(async (tag) => {
      const series = await Promise.all(this.shown.map(async (run, i) => {
        if (!this.runs.get(run).scalars.includes(tag)) return null;
        const columns = await getColumns(run, tag, first, last, 512);
        return { name: run, colour: LINES[i], columns, row: 0 };
      }));
      return { title: tag, series: series.filter(Boolean) };
    }));
    if (asked !== this.asked) return;
    this.scalarCharts = charts;
    this.drawScalars();
  }

  /** Look for new runs and new steps. */
  async refresh() {
    await this.list();
    if (!this.names.length || this.gone.length) return;
    const before = this.shown.map((run) => this.runs.get(run));
    const now = await Promise.all(this.shown.map((run) => getJson("run", { run })));
    const grown = now.some((run, i) => JSON.stringify(run) !== JSON.stringify(before[i]));
    if (grown || !this.isScaleComplete) await this.load();
  }

  /** The steps that are shown: those chosen, or all of the runs. */
  get range() {
    if (this.chosen.range) return this.chosen.range;
    const runs = this.shown.map((run) => this.runs.get(run));
    return [Math.min(...runs.map((r) => r.first)), Math.max(...runs.map((r) => r.last))];
  }

  zoom(first, last) {
    return this.choose({ range: first === undefined ? null : [first, last] });
  }

  select({ layer, step }) {
    this.chosen.selected = { layer, step };
    this.draw();
    this.drawHistograms();
  }

  /** Show findings: their text, and the first one's layer and step, in what it was found by. */
  async open(findings) {
    const [{ check, layer, step }] = findings;
    this.chosen.opened = findings;
    this.chosen.selected = { layer, step };
    const kind = SHOWN_BY[check] ?? "gradient_norm";
    const known = this.runs.get(this.chosen.run).layers[kind];
    await this.choose(known ? { kind } : {});
    this.parts.findings.querySelector("details[open]")?.scrollIntoView({ block: "nearest" });
  }

  hover(cell) {
    if (!cell || cell.low === undefined) {
      this.readout.textContent = "";
      return;
    }
    const values = this.shown.map((run) => {
      const columns = this.columns.get(run);
      return columns && valueAt(columns, cell.layer, cell.step);
    });
    const texts = values.map((value, i) => {
      if (value?.low === undefined) return null;
      const ends = value.low === value.high ? [value.low] : [value.low, value.high];
      const range = ends.map(short).join(" to ");
      return this.shown.length > 1 ? `${this.shown[i]}: ${range}` : range;
    });
    const [a, b] = values.map((value) => value?.[this.controls.part]);
    if (a > 0 && b > 0) texts.push(timesText(Math.log10(a / b)));
    this.readout.textContent = [cell.layer, stepsText(cell), ...texts.filter(Boolean)].join(" · ");
  }

  /** The width of a heat map's cells. */
  plotWidth() {
    const width = this.parts.map.clientWidth - 26 - NAMES_AND_BAR;
    return this.shown.length > 1 ? (width - 86 - 20) / 3 : width - 20 + 10;
  }

  /** The number of columns that the map has room for. */
  most() {
    return Math.max(64, Math.min(1024, Math.floor(this.plotWidth())));
  }

  draw() {
    if (!this.controls || !this.runs.has(this.shown[0])) return;
    const { kind, selected } = this.chosen;
    const runs = this.shown.map((run) => this.runs.get(run));
    const faults = runs.flatMap((run) => run.faults);
    this.faults.hidden = !faults.length && !this.gone.length;
    const [title, text] = this.gone.length
      ? [`The run ${this.gone.join(" and ")} is gone: `,
        "its event files were removed. What is shown was read before."]
      : ["Not all of the files can be read. ", faults.join(" ")];
    this.faults.replaceChildren(element("b", "", title), text);
    this.faults.classList.toggle("warning", this.gone.length > 0);
    this.controls.showRange(this.range, !this.chosen.range);
    this.drawMaps();
    this.drawLines();
    this.drawScalars();
    const quantity = this.kinds[kind]?.title ?? "";
    const findings = runs.flatMap((run) => run.findings);
    const hooks = { select: (cell) => this.select(cell), open: (finding) => this.open([finding]) };
    drawFindings(this.parts.findings, findings, this.chosen.opened, hooks);
    const columns = this.columns.get(this.shown[0]);
    this.parts.outlier.hidden = !columns || !this.kinds[kind].log;
    if (columns) drawOutlier(this.parts.outlier, this.outlier, quantity.toLowerCase(), hooks);
    drawSelected(this.parts.selected, selected, quantity, [...this.columns], this.most());
    drawSettings(this.parts.settings, runs);
  }

  /** The names of the layers to show: all that a run has, those found, the most extreme of them. */
  rows() {
    const all = [...new Set([...this.columns.values()].flatMap(({ names }) => names))];
    const found = search(all, this.controls.search);
    const which = this.controls.extreme;
    if (which === "all") return found;
    const columns = this.columns.get(this.shown[0]);
    const here = found.filter((name) => columns.names.includes(name));
    return mostExtreme(columns, here, which, this.controls.few);
  }

  drawMaps() {
    const { kind } = this.chosen;
    this.parts.map.hidden = !this.columns.size;
    if (!this.columns.size) return;
    const rows = this.rows();
    const part = this.controls.part;
    const title = this.kinds[kind].title;
    const log = this.kinds[kind].log;
    this.mapTitle.textContent = rows.length
      ? `${title} of each layer at each update step${log ? ", logarithm as colour" : ""}`
      : "No layer has such a name.";
    const pair = this.shown.map((run) => this.columns.get(run));
    const width = this.plotWidth();
    const { selected } = this.chosen;
    const common = { part, rows, scale: this.scale, palette: "sequential", range: this.range, selected };
    this.maps.forEach(({ place, title: heading, map }, i) => {
      const columns = i < 2 ? pair[i] : pair[0] && pair[1] && difference(...pair, part, log);
      place.hidden = !columns || !rows.length;
      if (place.hidden) return;
      const names = i === 0 || !pair[0];
      const bar = i === 2 || i === this.shown.length - 1;
      const run = this.runs.get(this.shown[i]);
      heading.style.padding = `0 ${bar ? 76 : 10}px 0 ${names ? 190 : 10}px`;
      const apart = log ? "First over second run" : "First minus second run";
      heading.textContent = i === 2 ? apart : this.shown.length > 1 ? this.shown[i] : "";
      const label = `${title} of ${rows.length} layers, ${heading.textContent || this.shown[0]}`;
      const shown = { ...common, columns, names, bar, label, findings: run?.findings ?? [] };
      shown.width = width + (names ? 190 : 10) + (bar ? 76 : 10);
      if (i === 2) {
        Object.assign(shown, { palette: "diverging", scale: differenceScale(columns, this.scale) });
      }
      map.draw(shown);
    });
  }

  drawLines() {
    const rows = this.columns.size ? this.rows() : [];
    this.parts.lines.hidden = !rows.length;
    const charts = blocks(rows).map((names) => {
      const series = names.flatMap((name, i) => this.shown.flatMap((run, r) => {
        const columns = this.columns.get(run);
        const row = columns ? columns.names.indexOf(name) : -1;
        if (row < 0) return [];
        const label = this.shown.length > 1 ? `${name} (${run})` : name;
        return [{ name, label, colour: LINES[i], dashed: r > 0, columns, row }];
      }));
      const ends = [names[0], names[names.length - 1]];
      return { title: [...new Set(ends)].join(" to "), series };
    });
    if (!charts.length) return;
    const kind = this.kinds[this.chosen.kind];
    // One axis for all charts, so that blocks can be compared.
    const scale = kind.log ? scaleOf(charts.flatMap(({ series }) => series), true) : this.scale;
    this.lines.draw(charts.map((chart) => ({ ...chart, scale })), this.range, this.chosen.selected);
  }

  drawScalars() {
    const charts = this.scalarCharts ?? [];
    this.parts.scalars.hidden = !charts.length;
    const scaled = charts.map((chart) => {
      return { ...chart, scale: scaleOf(chart.series, spansDecades(chart.series)) };
    });
    const { selected } = this.chosen;
    this.scalars.draw(scaled, this.range, selected && { step: selected.step });
  }

  drawHistograms() {
    const { selected } = this.chosen;
    this.parts.histograms.hidden = !selected?.layer;
    if (!selected?.layer) return;
    this.attempt(() => this.histograms.show(selected.step, selected.layer, this.shown));
  }
}
