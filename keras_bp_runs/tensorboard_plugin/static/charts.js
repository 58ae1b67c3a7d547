// A grid of line charts.
import { element } from "./advice.js";
import { LineChart } from "./lines.js";

/** Charts in a grid, each drawn when it comes into view: of 400 layers there are 40. */
export class Charts {
  constructor(parent, hooks) {
    this.grid = parent.appendChild(element("div", "charts"));
    this.hooks = hooks;
    this.charts = [];
    this.seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const chart = this.charts.find((each) => each.element === target);
        if (!chart) continue;
        chart.visible = isIntersecting;
        if (isIntersecting && chart.due) this.drawChart(chart);
      }
    }, { rootMargin: "300px" });
  }

  draw(shown, range, selected) {
    while (this.charts.length < shown.length) {
      const chart = new LineChart(this.grid, this.hooks);
      this.charts.push(chart);
      this.seen.observe(chart.element);
    }
    for (const chart of this.charts.splice(shown.length)) {
      this.seen.unobserve(chart.element);
      chart.element.remove();
    }
    this.charts.forEach((chart, i) => {
      chart.due = { ...shown[i], range, selected };
      if (chart.visible) this.drawChart(chart);
    });
  }

  drawChart(chart) {
    chart.draw({ ...chart.due, width: chart.element.clientWidth });
    chart.due = null;
  }
}
