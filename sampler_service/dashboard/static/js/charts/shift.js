// The difficulty histogram over training: a heat map, and any moment of it against now.

import { h, setText, table } from "../dom.js";
import { counted, integer, percent } from "../format.js";
import { palette } from "../theme.js";
import { Card } from "./card.js";
import { binName, centres } from "./difficulty.js";
import { mix } from "./heat.js";
import { bars, fromZero, percentAxis, Plot, unitScale } from "./plot.js";
import { stepsOf, stepScale, wholeTicks } from "./steps.js";

const evenEdges = (bins) => Array.from({ length: bins + 1 }, (_, i) => i / bins);

// Rows of a flat, row-major matrix.
const rowsOf = (flat, width) => Array.from({ length: Math.floor(flat.length / width) }, (_, i) => flat.slice(i * width, (i + 1) * width));

export function shiftChart(csv, url) {
  const card = new Card({
    id: "shift",
    title: "Difficulty over training",
    csv,
    wide: true,
    explain: [
      "Every column is the difficulty histogram at one moment: the darker a cell (in dark colours: the brighter), the larger the share of the prompts seen by then that lie in this pass-rate range. Learning shows as mass that drifts upwards.",
      "Move the slider to hold a moment against now. A long run is thinned: one column then stands for several policy versions.",
    ],
  });
  let rows = [];
  let bins = 0;
  let steps = null;
  let pinned = url.get("at"); // a policy version, or null: follow the newest
  let history = null;

  const slider = h("input", { type: "range", min: "0", max: "0", value: "0", id: "shift-time", oninput: onSlide });
  const moment = h("output", { for: "shift-time", class: "moment" });
  const follow = h("button", { type: "button", class: "quiet", onclick: onFollow }, "Follow newest");

  const map = new Plot(card, {
    label: "Heat map",
    height: 230,
    read: (i) => {
      const total = rows[i].reduce((a, b) => a + b, 0);
      const top = rows[i].indexOf(Math.max(...rows[i]));
      return `${steps.at(i)}: ${integer(total)} prompts seen, most at ${binName(evenEdges(bins), top)}`;
    },
    options: () => ({
      scales: { x: stepScale, y: { range: [0, 1] } },
      axes: [{ label: "policy version", values: wholeTicks }, { label: "pass rate", grid: { show: false } }],
      series: [{}, { paths: () => null, points: { show: false } }],
      cursor: { points: { show: false } },
      hooks: { drawClear: [drawCells], draw: [drawMarker] },
    }),
  });
  const compare = new Plot(card, {
    label: "Histogram at the chosen moment",
    height: 230,
    read: (i) => `pass rate ${binName(evenEdges(bins), i)}: ${percent(compare.data[1][i])} then, ${percent(compare.data[2][i])} now`,
    options: (colors) => ({
      scales: { x: unitScale, y: fromZero },
      axes: [{ label: "estimated pass rate" }, percentAxis],
      series: [
        {},
        bars("then", colors.sky),
bars("now", "transparent", { stroke: colors.ink, width: 1.5 }),
      ],
      cursor: { points: { show: false } },
    }),
  });
  card.body.classList.add("pair");
  card.setLegend([
    { color: "heat-low", text: "few prompts to many (blank: none)", mark: "ramp" },
    { color: "sky", text: "chosen moment" },
    { color: "ink", text: "now", mark: "outline" },
  ]);
  const controls = h("div", { class: "slider" }, h("label", { for: "shift-time" }, "Moment"), slider, moment, follow);
  card.body.after(controls);

  function drawCells(chart) {
    const colors = palette();
    const { ctx } = chart;
    const x = chart.data[0];
    const edge = (i) => {
      if (i === 0) return chart.scales.x.min;
      return i === x.length ? chart.scales.x.max : (x[i - 1] + x[i]) / 2;
    };
    const ups = evenEdges(bins).map((rate) => Math.round(chart.valToPos(rate, "y", true)));
    ctx.save();
    for (let i = 0; i < rows.length; i += 1) {
      const left = Math.round(chart.valToPos(edge(i), "x", true));
      const right = Math.round(chart.valToPos(edge(i + 1), "x", true));
      const total = rows[i].reduce((a, b) => a + b, 0);
      const largest = Math.max(...rows[i], 1);
      for (let b = 0; b < bins; b += 1) {
        if (total === 0 || rows[i][b] === 0) continue;
        // Square root: a small share must still be seen next to a large one.
        ctx.fillStyle = mix(colors, Math.sqrt(rows[i][b] / largest));
        ctx.fillRect(left, ups[b + 1], Math.max(1, right - left), ups[b] - ups[b + 1]);
      }
    }
    ctx.restore();
  }

  function drawMarker(chart) {
    const i = chosen();
    const x = Math.round(chart.valToPos(chart.data[0][i], "x", true));
    const { ctx, bbox } = chart;
    ctx.save();
    ctx.strokeStyle = palette().orange;
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.restore();
  }

  function chosen() {
    if (pinned === null) return rows.length - 1;
    const at = history.policy_versions.findIndex((version) => version >= Number(pinned));
    return at < 0 ? rows.length - 1 : at;
  }

  function onSlide() {
    const i = Number(slider.value);
    pinned = i === rows.length - 1 ? null : String(history.policy_versions[i]);
    url.set("at", pinned);
    drawChosen();
    map.redraw();
  }

  function onFollow() {
    pinned = null;
    url.set("at", null);
    drawChosen();
    map.redraw();
  }

  function drawChosen() {
    const i = chosen();
    const shares = (row) => {
      const total = row.reduce((a, b) => a + b, 0);
      return row.map((count) => (total ? count / total : 0));
    };
    slider.value = String(i);
    slider.setAttribute("aria-valuetext", steps.at(i));
    follow.disabled = pinned === null;
    setText(moment, pinned === null ? `${steps.at(i)} (newest)` : steps.at(i));
    compare.update(
      [centres(evenEdges(bins)), shares(rows[i]), shares(rows[rows.length - 1])],
      `Share of prompts by pass rate at ${steps.at(i)}, against now.`,
    );
    card.setTable(() =>
      table(
        "Prompts by pass rate at each moment",
        ["policy version", ...Array.from({ length: bins }, (_, b) => binName(evenEdges(bins), b))],
        rows.map((row, r) => [String(history.policy_versions[r]), ...row.map(integer)]),
      ),
    );
  }

  function update(summary) {
    history = summary.history;
    bins = history?.histogram_bins ?? 0;
    rows = bins ? rowsOf(history.histogram_counts, bins) : [];
    controls.hidden = rows.length === 0;
    if (rows.length === 0) {
      card.setEmpty("The map starts when the first groups of rollouts are reported.");
      return;
    }
    card.setEmpty(null);
    steps = stepsOf(history);
    // The point that is still open has sums but no histogram yet.
    const times = steps.x.slice(0, rows.length);
    slider.max = String(rows.length - 1);
    map.update(
      [times, times.map(() => null)],
      `Heat map of the difficulty histogram over ${counted(rows.length, "moment")}, from ${steps.at(0)} to ${steps.at(rows.length - 1)}.`,
    );
    drawChosen();
  }
  return { root: card.root, update };
}
