// A layer's weights, gradients and optimizer states at a step.
import { element } from "./advice.js";
import { getJson } from "./data.js";
import { LINES, count, ink, line, linearTicks, prepare, short } from "./scales.js";

const HEIGHT = 110;
const BOTTOM = 20;
const SIDE = 12;

/** The histograms of the selected layer in one run or two, with a slider over their steps. */
export class Histograms {
  constructor(parent) {
    this.parent = parent;
    this.about = parent.appendChild(element("p", "quiet"));
    const label = parent.appendChild(element("label", "slider", "Step "));
    this.slider = label.appendChild(element("input"));
    this.slider.type = "range";
    this.slider.min = 0;
    this.step = label.appendChild(element("output"));
    this.charts = parent.appendChild(element("div", "charts"));
    this.slider.addEventListener("input", () => this.show(this.steps[this.slider.value]));
  }

  /** Show what the runs (names) hold of a layer at the step or before. */
  async show(step = this.wanted?.step, layer = this.wanted?.layer, runs = this.wanted?.runs) {
    const wanted = { step, layer, runs };
    this.wanted = wanted;
    if (!layer) return;
    const query = step === undefined ? { layer } : { layer, step };
    const answers = await Promise.all(runs.map((run) => getJson("histograms", { run, ...query })));
    if (this.wanted !== wanted) return; // another one was asked for in the meantime
    this.steps = answers[0].steps;
    this.slider.max = Math.max(0, this.steps.length - 1);
    this.slider.value = Math.max(0, this.steps.indexOf(answers[0].step));
    this.slider.parentElement.hidden = !this.steps.length;
    this.step.textContent = count(answers[0].step);
    this.about.textContent = this.steps.length
      ? `Layer ${layer}. The height is the number of entries by width of the bucket.`
      : `Layer ${layer} has no histograms. GradientMonitor writes those of the weights at each epoch's `
        + "end, and with histograms_every those of gradients and optimizer states too.";
    const tags = [...new Set(answers.flatMap(({ charts }) => charts.map(({ tag }) => tag)))];
    this.charts.replaceChildren(...tags.map((tag) => {
      const found = answers.map(({ charts }) => charts.find((chart) => chart.tag === tag));
      return drawHistogram(tag.replace(`/${layer}`, ""), found, runs);
    }));
  }
}

function drawHistogram(tag, found, runs) {
  const figure = element("figure", "histogram", element("figcaption", "", tag.replaceAll("/", " · ")));
  const canvas = figure.appendChild(element("canvas"));
  const width = 280;
  const context = prepare(canvas, width, HEIGHT + BOTTOM);
  const there = found.filter(Boolean);
  let low = Math.min(...there.map((chart) => chart.range[0]));
  let high = Math.max(...there.map((chart) => chart.range[1]));
  if (low === high) [low, high] = [low - 1, high + 1];
  const x = (v) => SIDE + ((v - low) / (high - low)) * (width - 2 * SIDE);
  // A bucket of no width holds equal values: it is drawn a pixel wide.
  const least = (high - low) / (width - 2 * SIDE);
  const density = ([left, right, number]) => number / Math.max(right - left, least);
  found.forEach((chart, i) => {
    if (!chart) return;
    const top = Math.max(...chart.buckets.map(density)) || 1;
    context.fillStyle = LINES[i];
    context.globalAlpha = runs.length > 1 ? 0.55 : 0.85;
    for (const bucket of chart.buckets) {
      const [left, right] = bucket.map(x);
      const height = (density(bucket) / top) * (HEIGHT - 8);
      context.fillRect(left, HEIGHT - height, Math.max(1, right - left), height);
    }
    context.globalAlpha = 1;
  });
  context.strokeStyle = ink("line");
  line(context, SIDE, HEIGHT + 0.5, width - SIDE, HEIGHT + 0.5);
  context.fillStyle = ink("text");
  context.textAlign = "center";
  for (const value of linearTicks(low, high, 3)) {
    line(context, x(value), HEIGHT, x(value), HEIGHT + 4);
    context.fillText(short(value), Math.max(18, Math.min(width - 18, x(value))), HEIGHT + 12);
  }
  return figure;
}
