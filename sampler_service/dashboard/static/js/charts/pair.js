// Two curricula in one picture. A is filled or a solid line, B an outline or a dashed line: told apart without colour too.

import { table } from "../dom.js";
import { compact, fixed, integer, percent } from "../format.js";
import { palette } from "../theme.js";
import { Card } from "./card.js";
import { binName, centres } from "./difficulty.js";
import { trailingRatio } from "./groups.js";
import { bars, fromZero, line, percentAxis, Plot, unitScale } from "./plot.js";

const dashes = [6, 4];

const running = (values) => {
  let sum = 0;
  return values.map((value) => (sum += value));
};

// The x of every point of a history: the policy version where that only rises, else the number of the point; or the
// rollouts spent by then.
function along(history, over) {
  if (over === "rollouts") return running(history.rollouts);
  const versions = history.policy_versions;
  return versions.every((version, i) => i === 0 || version > versions[i - 1]) ? versions : versions.map((_, i) => i);
}

// One x for both, and each series on it, null where it has no point.
function joined(xA, xB, ...columns) {
  const x = [...new Set([...xA, ...xB])].sort((a, b) => a - b);
  const place = new Map(x.map((value, i) => [value, i]));
  return [
    x,
    ...columns.map(([own, values]) => {
      const out = new Array(x.length).fill(null);
      own.forEach((value, i) => (out[place.get(value)] = values[i]));
      return out;
    }),
  ];
}

const rangeOf = {
  time: false,
  range: (_chart, low, high) => (low === null ? [0, 1] : low === high ? [low - 1, high + 1] : [low, high]),
};

export function pairHistogram(names) {
  const card = new Card({
    id: "pair-difficulty",
    title: "Difficulty now",
    explain: ["Shares of the prompts that were rolled out, by estimated pass rate: pools of different size are comparable. Further to the right is easier for the policy of its own run."],
  });
  card.setLegend([
    { color: "blue", text: names[0] },
    { color: "orange", text: names[1], mark: "outline" },
  ]);
  let edges = [];
  const plot = new Plot(card, {
    label: "Difficulty of both",
    height: 230,
    read: (i) => `pass rate ${binName(edges, i)}: ${percent(plot.data[1][i])} of ${names[0]}, ${percent(plot.data[2][i])} of ${names[1]}`,
    options: (colors) => ({
      scales: { x: unitScale, y: fromZero },
      axes: [{ label: "estimated pass rate" }, percentAxis],
      series: [{}, bars(names[0], colors.blue), bars(names[1], "transparent", { stroke: colors.orange, width: 2 })],
      cursor: { points: { show: false } },
    }),
  });

  function update(pair) {
    const shares = pair.map(({ difficulty_histogram: histogram }) => {
      const seen = histogram.counts.reduce((a, b) => a + b, 0);
      return histogram.counts.map((count) => (seen ? count / seen : 0));
    });
    if (shares.every((share) => share.every((value) => value === 0))) {
      card.setEmpty("In neither curriculum a prompt has been rolled out yet.");
      return;
    }
    card.setEmpty(null);
    ({ edges } = pair[0].difficulty_histogram);
    plot.update([centres(edges), ...shares], `Shares of prompts by estimated pass rate in ${names[0]} and ${names[1]}.`);
    card.setTable(() => table("Share of prompts by pass rate", ["pass rate", ...names], shares[0].map((share, i) => [binName(edges, i), percent(share), percent(shares[1][i])])));
  }
  return { root: card.root, update };
}

// A line for each over training; `values(history)` gives its points.
function pairLines({ id, title, explain, names, values, words, options, label }) {
  const card = new Card({ id, title, explain });
  card.setLegend([
    { color: "blue", text: names[0], mark: "stroke" },
    { color: "orange", text: names[1], mark: "dashed" },
  ]);
  let over = "version";
  const plot = new Plot(card, {
    label,
    height: 230,
    read: (i) => `${over === "rollouts" ? `${compact(plot.data[0][i])} rollouts` : `policy version ${plot.data[0][i]}`}: ${names[0]} ${words(plot.data[1][i])}, ${names[1]} ${words(plot.data[2][i])}`,
    options: (colors) => ({
      scales: { x: rangeOf, y: options.y },
      axes: [{ label: over === "rollouts" ? "rollouts spent" : "policy version", values: (_, ticks) => ticks.map((t) => (Number.isInteger(t) ? compact(t) : "")) }, { values: (_, ticks) => ticks.map(options.tick) }],
      series: [{}, line(names[0], colors.blue, { spanGaps: true }), line(names[1], colors.orange, { dash: dashes, spanGaps: true })],
    }),
  });

  function update(pair, chosen) {
    const histories = pair.map((summary) => summary.history);
    if (histories.every((history) => !history || history.groups.length === 0)) {
      card.setEmpty("In neither curriculum a group has been finished yet.");
      return;
    }
    card.setEmpty(null);
    const turned = over !== chosen;
    over = chosen;
    const xs = histories.map((history) => (history ? along(history, over) : []));
    const data = joined(...xs, ...histories.map((history, i) => [xs[i], history ? values(history) : []]));
    plot.data = data;
    if (turned) plot.rebuild(); // The axis has another name.
    plot.update(data, `${title}: ${names[0]} and ${names[1]} over training.`);
    card.setTable(() => table(title, [over === "rollouts" ? "rollouts spent" : "policy version", ...names], data[0].map((x, i) => [integer(x), words(data[1][i]), words(data[2][i])])));
  }
  return { root: card.root, update };
}

export const pairRatio = (names) =>
  pairLines({
    id: "pair-ratio",
    title: "Mixed-group share",
    label: "Mixed-group share of both",
    names,
    explain: ["Mixed groups as a share of all finished groups, over the last 10 points: the part of the rollouts that a gradient can use. Higher is better."],
    values: trailingRatio,
    words: (value) => percent(value),
    options: { y: { range: [0, 1] }, tick: (t) => percent(t, 0) },
  });

export const pairWaste = (names) =>
  pairLines({
    id: "pair-waste",
    title: "Wasted rollouts, summed",
    label: "Wasted rollouts of both",
    names,
    explain: ["Rollouts in groups that came out all right or all wrong. Over rollouts spent, the flatter line wastes less."],
    values: (history) => running(history.wasted_rollouts),
    words: (value) => integer(value),
    options: { y: fromZero, tick: compact },
  });

export const pairBrier = (names) =>
  pairLines({
    id: "pair-brier",
    title: "Prediction error",
    label: "Brier score of both",
    names,
    explain: ["Mean squared difference between predicted pass rate and outcome at each point; lower is better. Pools of middling difficulty are harder to predict, so compare curricula over the same prompts."],
    values: (history) => history.briers,
    words: (value) => fixed(value),
    options: { y: fromZero, tick: (t) => fixed(t, 2) },
  });

export function pairReliability(names) {
  const card = new Card({
    id: "pair-reliability",
    title: "Calibration",
    explain: ["Predicted against observed pass rates; on the dashed diagonal predictions hold. Dots are the first curriculum, squares the second."],
  });
  card.setLegend([
    { color: "blue", text: names[0], mark: "dot" },
    { color: "orange", text: names[1], mark: "outline" },
    { color: "muted", text: "perfect", mark: "dashed" },
  ]);
  let kept = [[], []];
  const plot = new Plot(card, {
    label: "Calibration of both",
    height: 230,
    read: (i) => `predicted ${fixed(plot.data[0][i])}: observed ${fixed(plot.data[1][i])} in ${names[0]}, ${fixed(plot.data[2][i])} in ${names[1]}`,
    options: () => ({
      scales: { x: unitScale, y: { range: [0, 1] } },
      axes: [{ label: "predicted pass rate" }, { label: "observed" }],
      series: [{}, { paths: () => null, points: { show: false } }, { paths: () => null, points: { show: false } }],
      hooks: { draw: [drawMarks] },
    }),
  });

  function drawMarks(chart) {
    const { ctx, bbox } = chart;
    const colors = palette();
    const size = 5 * devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = colors.muted;
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, bbox.top + bbox.height);
    ctx.lineTo(bbox.left + bbox.width, bbox.top);
    ctx.stroke();
    ctx.setLineDash([]);
    kept.forEach((bins, which) => {
      for (const { predicted, observed } of bins) {
        const [x, y] = [chart.valToPos(predicted, "x", true), chart.valToPos(observed, "y", true)];
        ctx.beginPath();
        if (which === 0) {
          ctx.fillStyle = colors.blue;
          ctx.arc(x, y, size, 0, 2 * Math.PI);
          ctx.fill();
        } else {
          ctx.strokeStyle = colors.orange;
          ctx.lineWidth = 2 * devicePixelRatio;
          ctx.strokeRect(x - size, y - size, 2 * size, 2 * size);
        }
      }
    });
    ctx.restore();
  }

  function update(pair) {
    kept = pair.map(({ calibration }) =>
      (calibration?.bin_counts ?? []).map((count, i) => ({ count, predicted: calibration.bin_predicted[i], observed: calibration.bin_observed[i] })).filter((bin) => bin.count > 0),
    );
    if (kept.every((bins) => bins.length === 0)) {
      card.setEmpty("In neither curriculum a prediction has been scored yet.");
      return;
    }
    card.setEmpty(null);
    const xs = kept.map((bins) => bins.map((bin) => bin.predicted));
    plot.update(joined(...xs, ...kept.map((bins, i) => [xs[i], bins.map((bin) => bin.observed)])), `Reliability diagram of ${names[0]} and ${names[1]}.`);
    card.setTable(() =>
      table("Predicted against observed", ["curriculum", "predicted", "observed", "predictions"],
        kept.flatMap((bins, i) => bins.map((bin) => [names[i], fixed(bin.predicted), fixed(bin.observed), integer(bin.count)]))),
    );
  }
  return { root: card.root, update };
}
