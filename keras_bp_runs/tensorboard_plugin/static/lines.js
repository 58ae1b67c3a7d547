// Values against steps, a line for each layer.
import { columnAt, isMissing } from "./data.js";
import {
  count, drawSteps, ink, line, makeScale, middleOut, prepare, shareOf, short, tickTexts,
} from "./scales.js";

const LEFT = 56;
const TOP = 8;
const RIGHT = 22;
const BOTTOM = 24;
const HEIGHT = 190;

/** A scale that holds the values of some lines; logarithmic where wanted and possible. */
export function scaleOf(series, log) {
  let [low, high] = [Infinity, -Infinity];
  const shows = (value) => Number.isFinite(value) && (!log || value > 0);
  for (const { columns, row } of series) {
    for (const value of columns.low[row]) if (shows(value) && value < low) low = value;
    for (const value of columns.high[row]) if (shows(value) && value > high) high = value;
  }
  if (!(low <= high)) return makeScale(log ? 0.1 : 0, 1, log);
  if (log) return makeScale(low / 1.2, high * 1.2, true);
  const margin = (high - low) * 0.05 || Math.abs(high) * 0.1 || 1;
  return makeScale(low - margin, high + margin, false);
}

/** Whether all values are positive, and differ so much that their logarithms show more. */
export function spansDecades(series) {
  const values = series.flatMap(({ columns, row }) => Array.from(columns.low[row]));
  const finite = values.filter(Number.isFinite);
  return Math.min(...finite) > 0 && Math.max(...finite) > 30 * Math.min(...finite);
}

/** A chart of lines with a legend; hooks: select({layer, step}). */
export class LineChart {
  constructor(parent, hooks) {
    this.element = parent.appendChild(document.createElement("figure"));
    this.title = this.element.appendChild(document.createElement("figcaption"));
    this.readout = this.element.appendChild(document.createElement("div"));
    this.readout.className = "readout";
    this.canvas = this.element.appendChild(document.createElement("canvas"));
    this.legend = this.element.appendChild(document.createElement("div"));
    this.legend.className = "legend";
    this.hooks = hooks;
    this.canvas.addEventListener("mousemove", (e) => this.move(e));
    this.canvas.addEventListener("mouseleave", () => { this.readout.textContent = ""; });
    this.canvas.addEventListener("click", (e) => {
      const near = this.nearest(e);
      if (near) hooks.select({ layer: near.name, step: near.step });
    });
  }

  /**
   * `shown`: {title, series, scale, range, selected, width}, of each line {name, colour, dashed,
   * columns, row}.
   */
  draw(shown) {
    this.shown = shown;
    const { series, scale, range, selected, width } = shown;
    this.title.textContent = shown.title;
    this.plot = { left: LEFT, top: TOP, width: width - LEFT - RIGHT, height: HEIGHT };
    const context = prepare(this.canvas, width, TOP + HEIGHT + BOTTOM);
    this.drawAxes(context);
    context.save();
    context.beginPath();
    context.rect(LEFT, TOP, this.plot.width, HEIGHT);
    context.clip();
    const alone = []; // drawn later, so that the axes hide no half of them
    const some = series.some((each) => each.name === selected?.layer);
    for (const each of series) {
      context.globalAlpha = some && each.name !== selected.layer ? 0.35 : 1;
      alone.push(...this.drawLine(context, each));
    }
    context.globalAlpha = 1;
    if (selected && selected.step >= range[0] && selected.step <= range[1]) {
      context.strokeStyle = ink("text");
      context.setLineDash([4, 3]);
      line(context, this.x(selected.step), TOP, this.x(selected.step), TOP + HEIGHT);
    }
    context.restore();
    for (const [x, y, colour] of alone) {
      context.fillStyle = colour;
      context.fillRect(x - 2.5, y - 2.5, 5, 5);
    }
    this.drawLegend();
  }

  x(step) {
    const [first, last] = this.shown.range;
    return LEFT + shareOf(step, first, last) * this.plot.width;
  }

  /** A value's height; zero, on a logarithmic axis, is its lower end. */
  y(value) {
    const { scale } = this.shown;
    const share = value > 0 || !scale.log ? scale.share(value) : 0;
    return TOP + (1 - share) * HEIGHT;
  }

  drawAxes(context) {
    const { scale, range } = this.shown;
    context.textAlign = "right";
    const ticks = scale.ticks();
    const texts = tickTexts(ticks);
    for (const [i, value] of ticks.entries()) {
      const y = this.y(value);
      context.strokeStyle = ink("grid");
      line(context, LEFT, y, LEFT + this.plot.width, y);
      context.fillStyle = ink("text");
      context.fillText(texts[i], LEFT - 6, y);
    }
    context.strokeStyle = ink("line");
    context.strokeRect(LEFT - 0.5, TOP - 0.5, this.plot.width + 1, HEIGHT + 1);
    drawSteps(context, this.plot, range);
  }

  /** Draw a line; return its points without neighbours as [x, y, colour]. */
  drawLine(context, { columns, row, colour, dashed }) {
    const { starts, width, low, high } = columns;
    const { log } = this.shown.scale;
    context.strokeStyle = context.fillStyle = colour;
    const alpha = context.globalAlpha;
    const path = new Path2D();
    let open = false;
    const shows = (c) => Number.isFinite(low[row][c] + high[row][c]);
    const alone = [];
    starts.forEach((start, c) => {
      const [least, most] = [low[row][c], high[row][c]];
      const x = this.x(start + (width - 1) / 2);
      if (isMissing(columns, row, c)) return;
      if (!shows(c)) {
        open = false; // a gap, with a mark at the upper end
        context.fillRect(x - 1, TOP, 3, 6);
        return;
      }
      if (least < most) {
        // The band of all steps of the column: no spike is lost.
        context.globalAlpha = alpha * 0.3;
        context.fillRect(x - 0.75, this.y(most), 1.5, Math.max(1, this.y(least) - this.y(most)));
        context.globalAlpha = alpha;
      }
      const middle = log && least > 0 ? Math.sqrt(least) * Math.sqrt(most) : (least + most) / 2;
      if (open) path.lineTo(x, this.y(middle));
      else path.moveTo(x, this.y(middle));
      open = true;
      const inside = x >= LEFT && x <= LEFT + this.plot.width;
      if (inside && !shows(c - 1) && !shows(c + 1)) alone.push([x, this.y(middle), colour]);
    });
    context.lineWidth = 1.4;
    context.setLineDash(dashed ? [5, 3] : []);
    context.stroke(path);
    context.setLineDash([]);
    context.lineWidth = 1;
    return alone;
  }

  drawLegend() {
    const { series, selected } = this.shown;
    // The title names a line that is alone.
    const items = series.length === 1 ? [] : series.map(({ name, label, colour, dashed }) => {
      const item = document.createElement("button");
      const stroke = item.appendChild(document.createElement("i"));
      stroke.style.borderTop = `2.5px ${dashed ? "dashed" : "solid"} ${colour}`;
      item.append(middleOut(label ?? name));
      item.title = label ?? name;
      item.classList.toggle("chosen", name === selected?.layer);
      item.addEventListener("click", () => this.hooks.select({ layer: name, step: selected?.step }));
      return item;
    });
    this.legend.replaceChildren(...items);
  }

  /** The line that is nearest to the pointer: {name, step, value}. */
  nearest(event) {
    const { series, range } = this.shown;
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const share = (x - LEFT) / this.plot.width;
    if (share < 0 || share > 1) return null;
    const step = range[0] + share * (range[1] - range[0]);
    let best = null;
    for (const { name, label, columns, row } of series) {
      const k = columnAt(columns.starts, step + columns.width / 2);
      if (k < 0) continue;
      const [low, high] = [columns.low[row][k], columns.high[row][k]];
      const [upper, lower] = [this.y(high), this.y(low)];
      const distance = y < upper ? upper - y : Math.max(0, y - lower);
      if (Number.isFinite(low + high) && !(distance >= best?.distance)) {
        best = { name, label: label ?? name, step: columns.starts[k], low, high, distance };
      }
    }
    return best;
  }

  move(event) {
    const near = this.shown && this.nearest(event);
    if (!near) return;
    const value = near.low === near.high ? short(near.low) : `${short(near.low)} to ${short(near.high)}`;
    this.readout.textContent = `${near.label} · step ${count(near.step)} · ${value}`;
  }
}
