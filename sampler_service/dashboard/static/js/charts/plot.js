// One uPlot in a card: sized by its box, redrawn when the theme changes, read by mouse or arrow keys.

import uPlot from "../../vendor/uplot/uPlot.esm.js";
import { h, setText } from "../dom.js";
import { compact, percent } from "../format.js";
import { palette } from "../theme.js";

export { uPlot };

const font = "11px system-ui, -apple-system, 'Segoe UI', sans-serif";

export class Plot {
  // options(colors) gives uPlot's options; read(index) the words for one position; label names the picture.
  constructor(card, { label, height = 210, options, read }) {
    this.card = card;
    this.height = height;
    this.options = options;
    this.read = read;
    this.data = null;
    this.chart = null;
    this.host = h("div", { class: "plot", tabindex: "0", role: "img", "aria-label": label });
    this.host.addEventListener("keydown", (event) => this.onKey(event));
    this.host.addEventListener("blur", () => this.chart?.setCursor({ left: -10, top: -10 }));
    card.body.append(this.host);
    card.plots.push(this);
    new ResizeObserver(() => this.fit()).observe(this.host);
    document.addEventListener("themechange", () => this.rebuild());
  }

  // `data` as uPlot wants it; `describe` is what a screen reader says of the whole.
  update(data, describe) {
    this.data = data;
    this.host.setAttribute("aria-label", describe);
    if (this.chart) this.chart.setData(data);
    else this.rebuild();
  }

  canvas() {
    return this.chart?.ctx.canvas ?? null;
  }

  redraw() {
    this.chart?.redraw(false);
  }

  fit() {
    const width = Math.floor(this.host.clientWidth);
    if (width === 0) return;
    if (!this.chart) this.rebuild();
    else if (this.chart.width !== width) this.chart.setSize({ width, height: this.height });
  }

  rebuild() {
    const width = Math.floor(this.host.clientWidth);
    if (this.data === null || width === 0) return;
    this.chart?.destroy();
    const colors = palette();
    const made = this.options(colors);
    const axis = (own, size) => ({
      stroke: colors.muted,
      font,
      labelFont: font,
      labelSize: 16,
      labelGap: 2,
      gap: 4,
      size,
      grid: { stroke: colors.grid, width: 1 },
      ticks: { show: false },
      ...own,
    });
    const [xAxis, yAxis] = made.axes;
    this.chart = new uPlot(
      {
        width,
        height: this.height,
        padding: [10, 12, 0, 0],
        legend: { show: false },
        ...made,
        axes: [axis({ ...xAxis, grid: { show: false } }, 28), axis(yAxis, 46)],
        cursor: { y: false, drag: { x: false, y: false, setScale: false }, points: { size: 7 }, ...made.cursor },
        hooks: { ...made.hooks, setCursor: [(chart) => this.onCursor(chart)] },
      },
      this.data,
      this.host,
    );
  }

  onCursor(chart) {
    const index = chart.cursor.left >= 0 ? chart.cursor.idx : null;
    setText(this.card.readout, index === null || index === undefined ? "" : this.read(index));
  }

  onKey(event) {
    const last = this.data?.[0].length - 1;
    if (!this.chart || !(last >= 0)) return;
    const now = this.chart.cursor.left >= 0 ? this.chart.cursor.idx : null;
    const next = { ArrowLeft: (now ?? last + 1) - 1, ArrowRight: (now ?? -1) + 1, Home: 0, End: last }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const x = this.data[0][Math.max(0, Math.min(last, next))];
    this.chart.setCursor({ left: this.chart.valToPos(x, "x"), top: this.chart.over.clientHeight / 2 });
  }
}

// Bars of fixed share of their slot; `color` a fill.
export function bars(label, color, extra) {
  return {
    label,
    fill: color,
    stroke: color,
    width: 0,
    points: { show: false },
    paths: uPlot.paths.bars({ size: [0.86, 64] }),
    ...extra,
  };
}

export function line(label, color, extra) {
  return { label, stroke: color, width: 2, points: { show: false }, ...extra };
}

// A y axis that counts: no ticks between whole numbers.
export const countAxis = {
  incrs: [1, 2, 5].flatMap((step) => Array.from({ length: 12 }, (_, power) => step * 10 ** power)).sort((a, b) => a - b),
  values: (_chart, ticks) => ticks.map(compact),
};

// A y axis of shares, with as many decimals as its ticks have.
export const percentAxis = {
  values: (_chart, ticks) => {
    const digits = ticks.every((tick) => Math.abs(100 * tick - Math.round(100 * tick)) < 1e-6) ? 0 : 1;
    return ticks.map((tick) => percent(tick, digits));
  },
};

export const unitScale = { time: false, range: [0, 1] };

// From zero to a little above the largest value.
export const fromZero = { range: (_chart, _low, high) => [0, high > 0 ? high * 1.08 : 1] };
