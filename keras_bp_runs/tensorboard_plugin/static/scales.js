// Scales, colours and numbers: what all drawings share.
import { BEYOND } from "./data.js";

// From dark to bright, as matplotlib's viridis, and from blue over white to red, as its RdBu.
const SEQUENTIAL = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const DIVERGING = [[33, 102, 172], [146, 197, 222], [247, 247, 247], [244, 165, 130], [178, 24, 43]];
// What has no place on a logarithmic scale: these colours are in neither palette.
export const ZERO = [140, 140, 140];
export const NOT_FINITE = [255, 0, 200];
export const LINES = [
  "#2f86c9", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd",
  "#a0694b", "#e377c2", "#7f7f7f", "#b5b61f", "#17becf",
];

/** A scale from `low` to `high`: `share` gives a value's place, 0 to 1 or beyond. */
export function makeScale(low, high, log) {
  if (!log) {
    const span = high - low || 1;
    return { low, high, log, share: (v) => (v - low) / span, ticks: () => linearTicks(low, high, 5) };
  }
  const [from, to] = [Math.log10(low), Math.log10(high)];
  const span = to - from || 1;
  return {
    low, high, log,
    share: (v) => (Math.log10(v) - from) / span,
    ticks: () => logTicks(from, to),
  };
}

/** A scale around no difference: of shares or degrees, or of whole decades for 999 of 1,000 ratios. */
export function differenceScale(columns, { high, log }) {
  if (!log) return makeScale(-high, high, false);
  const finite = columns.low.filter(Boolean).flatMap((row) => Array.from(row.filter(Number.isFinite)));
  const sizes = finite.map(Math.abs).filter((size) => size < BEYOND).sort((a, b) => a - b);
  const decades = Math.max(1, Math.ceil(sizes[Math.floor(sizes.length * 0.999)] ?? 1));
  const scale = makeScale(-decades, decades, false);
  const ticks = () => linearTicks(-decades, decades, 5).filter(Number.isInteger);
  return { ...scale, ticks, text: timesText };
}

function logTicks(from, to) {
  const every = Math.max(1, Math.ceil((to - from) / 8));
  const ticks = [];
  for (let d = Math.ceil(from - 1e-9); d <= to + 1e-9; d += every) ticks.push(10 ** d);
  // Less than a decade or two holds no power of ten that would say enough.
  if (ticks.length < 2) return linearTicks(10 ** from, 10 ** to, 4).filter((v) => v > 0);
  return ticks;
}

export function linearTicks(low, high, about) {
  const rough = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

/** Ticks at whole steps. */
export function stepTicks(first, last, about) {
  return linearTicks(first, last, about).filter(Number.isInteger);
}

/** 258 colours as the pixels of an ImageData hold them: a palette, then 0, then NaN and infinity. */
function table(anchors) {
  const pixels = new Uint32Array(258);
  const pack = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (anchors.length - 1);
    const left = Math.min(Math.floor(place), anchors.length - 2);
    const mix = (k) => Math.round(
      anchors[left][k] + (place - left) * (anchors[left + 1][k] - anchors[left][k]),
    );
    pixels[i] = pack([mix(0), mix(1), mix(2)]);
  }
  pixels[256] = pack(ZERO);
  pixels[257] = pack(NOT_FINITE);
  return pixels;
}

export const PALETTES = { sequential: table(SEQUENTIAL), diverging: table(DIVERGING) };

/** The place of a value's colour in a palette. */
export function colourIndex(value, scale) {
  if (!Number.isFinite(value)) return 257;
  if (value === 0 && scale.log) return 256;
  return Math.max(0, Math.min(255, Math.round(scale.share(value) * 255)));
}

/** A number in a few characters. */
export function short(value) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) {
    const [digits, exponent] = value.toExponential(2).split("e");
    return `${Number(digits)}e${Number(exponent)}`;
  }
  return String(Number(value.toPrecision(3)));
}

/** Ticks in as few digits as tell neighbours apart, 0.6931 and 0.6932 for instance. */
export function tickTexts(values) {
  const unlike = (texts) => new Set(texts).size === texts.length;
  const few = values.map(short);
  if (unlike(few)) return few;
  const more = [4, 5, 6, 7, 8, 9].map((d) => values.map((v) => String(Number(v.toPrecision(d)))));
  return more.find(unlike) ?? few;
}

/** A float32 in the fewest digits that tell it from all others. */
export function exact(value) {
  if (!Number.isFinite(value)) return short(value);
  for (let digits = 1; digits < 10; digits++) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return String(Number(text));
  }
  return String(value);
}

/** How many times as large: "×100", or "÷100" for 0.01 times. */
export function timesText(log10) {
  const times = 10 ** Math.abs(log10);
  const text = times >= 9999 ? times.toExponential(1).replace(".0", "").replace("+", "") : short(times);
  return log10 < 0 ? `÷${text}` : `×${text}`;
}

export const count = (step) => Math.round(step).toLocaleString("en-US");

export const stepsText = ({ first, last }) =>
  first === last ? `step ${count(first)}` : `steps ${count(first)} to ${count(last)}`;

/** A canvas's context, sharp on every screen, cleared; sizes in CSS pixels. */
export function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  return context;
}

/** A colour of the style sheet, which differs on a dark page. */
export const ink = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** A name that fits into a width: its end tells layers apart. */
export function fitting(context, name, width) {
  if (context.measureText(name).width <= width) return name;
  let start = 1;
  while (start < name.length && context.measureText(`…${name.slice(start)}`).width > width) start++;
  return `…${name.slice(start)}`;
}

/** A long name without its middle: the start and the end tell layers and runs apart. */
export function middleOut(name, most = 48) {
  if (name.length <= most) return name;
  const half = (most - 1) / 2;
  return `${name.slice(0, Math.floor(half))}…${name.slice(-Math.ceil(half))}`;
}

/** A step's place on an axis, 0 to 1; a step that is alone stands in the middle. */
export const shareOf = (step, first, last) => (last > first ? (step - first) / (last - first) : 0.5);

/** Draw the axis of steps below a plot. */
export function drawSteps(context, { left, top, width, height }, [first, last]) {
  context.fillStyle = ink("text");
  context.strokeStyle = ink("line");
  context.textAlign = "center";
  context.textBaseline = "top";
  const about = Math.max(2, Math.floor(width / 90));
  const ticks = stepTicks(first, last, about);
  // The first step is no round number, but says where the run, or the range, begins.
  if ((ticks[0] - first) * width > 45 * (last - first)) ticks.unshift(first);
  for (const step of ticks) {
    const x = left + shareOf(step, first, last) * width;
    line(context, x, top + height, x, top + height + 4);
    context.fillText(count(step), x, top + height + 6);
  }
  context.textBaseline = "middle";
}

export function line(context, x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}
