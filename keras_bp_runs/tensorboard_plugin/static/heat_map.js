// Layers against steps, a value as colour.
import { columnAt, isMissing, typicalGap, valueAt } from "./data.js";
import {
  NOT_FINITE, PALETTES, ZERO, colourIndex, drawSteps, fitting, ink, line, prepare, short,
} from "./scales.js";

const TOP = 22; // holds the findings' marks
const BOTTOM = 36;
const NAMES = 190;
const BAR = 76;
const PLAIN = 10; // the margin where there are no names, or no bar
const NAMED = 11; // a row of so many pixels has room for its name
const TALLEST = 18;
const LABEL = 12; // what a number beside the bar needs

export function heightOf(rows) {
  return Math.round(Math.max(40, Math.min(rows * TALLEST, Math.max(700, 2 * rows))));
}

/**
 * A heat map on a canvas. The hooks: hover(cell or null), select(cell), zoom(first, last) with the ends
 * of the dragged range, or nothing for all steps, and finding(list of findings).
 */
export class HeatMap {
  constructor(parent, hooks) {
    this.canvas = parent.appendChild(document.createElement("canvas"));
    this.canvas.tabIndex = 0;
    this.hooks = hooks;
    this.dragged = null;
    const on = (event, action) => this.canvas.addEventListener(event, action);
    on("mousemove", (e) => this.move(e));
    on("mouseleave", () => hooks.hover(null));
    on("mousedown", (e) => this.press(e));
    on("dblclick", () => hooks.zoom());
    on("keydown", (e) => this.key(e));
    // A drag may end outside of the canvas.
    window.addEventListener("mouseup", (e) => this.release(e));
  }

  /**
   * `shown`: {columns, part, rows, scale, palette, range, findings, selected, names, bar, width, label}.
   * `rows` are the names to draw, in order; `columns` what getColumns gives, `part` "low" or "high".
   */
  draw(shown) {
    this.shown = shown;
    const { rows, width } = shown;
    const left = shown.names ? NAMES : PLAIN;
    const right = shown.bar ? BAR : PLAIN;
    this.plot = { left, top: TOP, width: width - left - right, height: heightOf(rows.length) };
    this.canvas.dataset.plot = JSON.stringify(this.plot); // where the cells lie, for tests
    this.rowOf = new Map(shown.columns.names.map((name, i) => [name, i]));
    const context = prepare(this.canvas, width, TOP + this.plot.height + BOTTOM);
    this.canvas.setAttribute("aria-label", shown.label);
    this.canvas.setAttribute("role", "img");
    this.drawCells(context);
    drawSteps(context, this.plot, shown.range);
    context.fillText("update step", left + this.plot.width / 2, TOP + this.plot.height + 27);
    if (shown.names) this.drawNames(context);
    if (shown.bar) this.drawBar(context);
    this.drawSelected(context);
    this.drawFindings(context);
    this.drawDragged(context);
  }

  x(step) {
    const [first, last] = this.shown.range;
    // The last step has its own width.
    return this.plot.left + ((step - first) / (last - first + 1)) * this.plot.width;
  }

  drawCells(context) {
    const { columns, part, rows, scale, range, palette } = this.shown;
    const { left, top, width, height } = this.plot;
    const pixels = Math.max(1, Math.round(width));
    const across = new Int32Array(pixels);
    const reach = 2 * typicalGap(columns); // beyond it a value says nothing of a step
    for (let x = 0; x < pixels; x++) {
      const step = range[0] + ((x + 0.5) / pixels) * (range[1] - range[0] + 1);
      const column = columnAt(columns.starts, step);
      across[x] = column >= 0 && step - columns.starts[column] <= reach ? column : -1;
    }
    const image = new ImageData(pixels, Math.max(1, rows.length));
    const out = new Uint32Array(image.data.buffer);
    const colours = PALETTES[palette];
    rows.forEach((name, r) => {
      const row = this.rowOf.get(name);
      const values = columns[part][row];
      if (!values) return;
      // What is missing stays transparent.
      const cells = Uint32Array.from(values, (value, c) => (
        isMissing(columns, row, c) ? 0 : colours[colourIndex(value, scale)]
      ));
      for (let x = 0; x < pixels; x++) {
        if (across[x] >= 0) out[r * pixels + x] = cells[across[x]];
      }
    });
    const cells = new OffscreenCanvas(pixels, Math.max(1, rows.length));
    cells.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(cells, left, top, width, height);
    context.strokeStyle = ink("line");
    context.strokeRect(left - 0.5, top - 0.5, width + 1, height + 1);
  }

  drawNames(context) {
    const { rows, selected } = this.shown;
    const { left, top, height } = this.plot;
    const each = height / rows.length;
    const every = Math.ceil(NAMED / each);
    context.textAlign = "right";
    context.fillStyle = ink("text");
    if (every === 1) context.font = `${Math.min(11, each)}px system-ui, sans-serif`;
    const chosen = rows.indexOf(selected?.layer);
    rows.forEach((name, r) => {
      // Of many rows some are named, and the selected one in the place of its neighbours.
      const near = chosen >= 0 && r !== chosen && Math.abs(r - chosen) < every;
      if ((r % every && r !== chosen) || near) return;
      context.font = context.font.replace(/^bold /, "");
      if (r === chosen) context.font = `bold ${context.font}`;
      context.fillText(fitting(context, name, NAMES - 14), left - 6, top + (r + 0.5) * each);
    });
    context.font = "11px system-ui, sans-serif";
  }

  drawBar(context) {
    const { scale, palette } = this.shown;
    const { left, top, width, height } = this.plot;
    const x = left + width + 8;
    const special = scale.log || palette === "diverging" ? 2 : 1;
    const bar = Math.max(30, Math.min(height, 320) - 18 * special);
    const colours = PALETTES[palette];
    const image = new ImageData(1, 256);
    const out = new Uint32Array(image.data.buffer);
    for (let i = 0; i < 256; i++) out[i] = colours[255 - i];
    const strip = new OffscreenCanvas(1, 256);
    strip.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(strip, x, top, 12, bar);
    context.strokeStyle = ink("line");
    context.strokeRect(x - 0.5, top - 0.5, 13, bar + 1);
    context.fillStyle = ink("text");
    context.textAlign = "left";
    const ticks = scale.ticks();
    // A low map has room for some of the ticks only, the two ends among them.
    const every = Math.ceil(((ticks.length - 1) * LABEL) / bar);
    for (const [i, value] of ticks.entries()) {
      const toEnd = ticks.length - 1 - i;
      if (toEnd && (i % every || toEnd < every)) continue;
      const y = top + (1 - scale.share(value)) * bar;
      line(context, x + 12, y, x + 16, y);
      const text = scale.text?.(value) ?? short(value);
      // What lies beyond has the colour of the end.
      const beyond = { 0: "≤ ", 1: "≥ " }[scale.share(value).toFixed(3) * (scale.log ? 1 : NaN)];
      context.fillText((beyond ?? "") + text, x + 19, y);
    }
    const swatch = (k, colour, text) => {
      const y = top + bar + 8 + 18 * k;
      context.fillStyle = `rgb(${colour})`;
      context.fillRect(x, y, 12, 12);
      context.fillStyle = ink("text");
      context.fillText(text, x + 19, y + 6);
    };
    swatch(0, NOT_FINITE, "NaN, ∞");
    if (scale.log) swatch(1, ZERO, "0");
  }

  drawSelected(context) {
    const { selected, rows, range } = this.shown;
    if (!selected) return;
    const { left, top, width, height } = this.plot;
    const each = height / rows.length;
    context.strokeStyle = ink("mark");
    context.lineWidth = 1.5;
    const row = rows.indexOf(selected.layer);
    if (row >= 0) {
      context.strokeRect(left - 1, top + row * each - 1, width + 2, Math.max(each, 2) + 2);
    }
    if (selected.step >= range[0] && selected.step <= range[1]) {
      const x = this.x(selected.step + 0.5);
      context.setLineDash([4, 3]);
      line(context, x, top, x, top + height);
      context.setLineDash([]);
    }
    context.lineWidth = 1;
  }

  drawFindings(context) {
    const { findings, rows, range } = this.shown;
    const { top, height } = this.plot;
    const each = height / rows.length;
    this.marks = [];
    for (const finding of findings) {
      if (finding.step < range[0] || finding.step > range[1]) continue;
      const x = this.x(finding.step + 0.5);
      const mark = this.marks.find((m) => Math.abs(m.x - x) < 16); // so wide it is drawn
      if (mark) mark.findings.push(finding);
      else this.marks.push({ x, findings: [finding] });
      const row = rows.indexOf(finding.layer);
      if (row >= 0) {
        context.strokeStyle = ink("finding");
        context.lineWidth = 2;
        context.beginPath();
        context.arc(x, top + (row + 0.5) * each, 6, 0, 7);
        context.stroke();
        context.lineWidth = 1;
      }
    }
    for (const { x, findings: here } of this.marks) {
      context.fillStyle = ink("finding");
      context.beginPath();
      context.moveTo(x - 8, 1);
      context.lineTo(x + 8, 1);
      context.lineTo(x, top - 2);
      context.fill();
      if (here.length === 1) continue;
      context.textAlign = "center";
      context.fillStyle = ink("page");
      context.font = "bold 9px system-ui, sans-serif";
      context.fillText(here.length, x, 7);
    }
  }

  drawDragged(context) {
    if (!this.dragged) return;
    const [from, to] = this.dragged;
    const { top, height } = this.plot;
    context.fillStyle = ink("drag");
    context.fillRect(Math.min(from, to), top, Math.abs(to - from), height);
  }

  /** The cell at a place: {layer, row, first, last, low, high}, of the steps that it stands for. */
  cell(x, y) {
    const { rows, columns, range } = this.shown;
    const { left, top, width, height } = this.plot;
    const across = (x - left) / width;
    const row = Math.floor(((y - top) / height) * rows.length);
    if (across < 0 || across >= 1 || row < 0 || row >= rows.length) return null;
    const step = Math.floor(range[0] + across * (range[1] - range[0] + 1));
    return { ...valueAt(columns, rows[row], step), step };
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  markAt(x, y) {
    return y < TOP ? this.marks.find((m) => Math.abs(m.x - x) < 9) : undefined;
  }

  move(event) {
    if (!this.shown) return;
    const [x, y] = this.place(event);
    this.canvas.style.cursor = this.markAt(x, y) ? "pointer" : "crosshair";
    if (this.dragged) {
      this.dragged[1] = x;
      this.draw(this.shown);
    } else {
      this.hooks.hover(this.cell(x, y));
    }
  }

  press(event) {
    if (!this.shown) return;
    const [x, y] = this.place(event);
    const mark = this.markAt(x, y);
    if (mark) this.hooks.finding(mark.findings);
    else if (this.cell(x, y)) this.dragged = [x, x, y];
  }

  release(event) {
    if (!this.dragged) return;
    const [from, , y] = this.dragged;
    const { left, width } = this.plot;
    const to = Math.max(left, Math.min(left + width - 1, this.place(event)[0]));
    this.dragged = null;
    if (Math.abs(to - from) < 5) {
      this.hooks.select(this.cell(from, y));
      return;
    }
    const steps = [Math.min(from, to), Math.max(from, to)].map((x) => this.cell(x, y).step);
    this.hooks.zoom(...steps);
  }

  /** Move the selected cell with the arrow keys. */
  key(event) {
    const { selected, rows, columns, range } = this.shown ?? {};
    const [right, down] = {
      ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
    }[event.key] ?? [0, 0];
    if (!(right || down) || !rows?.length) return;
    event.preventDefault();
    const row = Math.max(0, Math.min(rows.length - 1, rows.indexOf(selected?.layer) + down));
    const column = columnAt(columns.starts, selected?.step ?? range[1]) + right;
    const step = columns.starts[Math.max(0, Math.min(columns.starts.length - 1, column))];
    this.hooks.select({ ...valueAt(columns, rows[row], step), step });
  }
}
