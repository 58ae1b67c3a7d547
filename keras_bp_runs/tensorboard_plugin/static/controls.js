// The row of controls above the drawings.
import { element } from "./advice.js";

/**
 * Hooks: choose({run}, {other} or {kind}), zoom(first, last) or zoom() for all steps, and draw() where
 * nothing else is to be loaded. What the other controls hold: `search`, `extreme` ("all", "largest",
 * "smallest", "changed"), `few`, and `part` ("high", "low").
 */
export class Controls {
  constructor(hooks) {
    this.element = element("div", "controls");
    this.run = this.add("run", "Run", "select");
    this.other = this.add("other", "Compare with", "select");
    this.kind = this.add("kind", "Quantity", "select");
    for (const name of ["run", "other", "kind"]) {
      this[name].onchange = () => hooks.choose({ [name]: this[name].value });
    }
    const find = { type: "search", placeholder: "parts of a name" };
    this.searched = this.add("search", "Find layers", "input", find);
    this.searched.title = "Words that a name holds; a comma parts alternatives";
    this.extremes = this.add("extreme", "Show", "select");
    fill(this.extremes, ["all", "largest", "smallest", "changed"], "all",
      ["all layers", "the largest", "the smallest", "the most changed"]);
    const ten = { type: "number", min: 1, value: 10, className: "few" };
    this.number = this.add("few", "How many", "input", ten);
    this.parts = this.add("part", "Of a column's steps", "select");
    this.parts.title = "Where a column of the heat map stands for several steps, which value it shows";
    fill(this.parts, ["high", "low"], "high", ["the largest", "the smallest"]);
    this.searched.oninput = this.number.oninput = hooks.draw;
    this.extremes.onchange = this.parts.onchange = hooks.draw;
    const steps = { type: "number", className: "number" };
    this.first = this.add("first", "From step", "input", steps);
    this.last = this.add("last", "To step", "input", steps);
    this.first.onchange = this.last.onchange = () => {
      const [first, last] = [Number(this.first.value), Number(this.last.value)];
      if (first <= last) hooks.zoom(first, last);
    };
    this.whole = element("button", "", "All steps");
    this.whole.id = "whole";
    this.whole.onclick = () => hooks.zoom();
    this.element.append(this.whole);
  }

  add(id, text, tag, options = {}) {
    const made = Object.assign(document.createElement(tag), options, { id });
    this.element.append(element("label", "", text, made));
    return made;
  }

  get search() { return this.searched.value; }

  get extreme() { return this.extremes.value; }

  get few() { return Math.max(1, Number(this.number.value)); }

  get part() { return this.parts.value; }

  showRuns(names, { run, other }) {
    fill(this.run, names, run);
    fill(this.other, ["", ...names], other, ["no other run", ...names]);
  }

  showKinds(kinds, chosen, titles) {
    fill(this.kind, kinds, chosen, titles);
  }

  showRange([first, last], isWhole) {
    // Not what is being typed.
    if (document.activeElement !== this.first) this.first.value = first;
    if (document.activeElement !== this.last) this.last.value = last;
    this.whole.disabled = isWhole;
    this.number.parentElement.hidden = this.extreme === "all";
  }
}

function fill(select, values, chosen, texts = values) {
  const options = values.map((value, i) => new Option(texts[i], value, false, value === chosen));
  select.replaceChildren(...options);
}
