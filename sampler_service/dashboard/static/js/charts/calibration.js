// Do the predictions hold? Predicted against observed pass rates, and the Brier score over time.

import { table } from "../dom.js";
import { fixed, integer } from "../format.js";
import { palette } from "../theme.js";
import { Card } from "./card.js";
import { fromZero, line, Plot, unitScale } from "./plot.js";
import { stepsOf, stepScale, wholeTicks } from "./steps.js";

const none = "No prediction has been scored yet. Every batch's predictions are, once its rewards are in.";

const ranks = ({ spearman, spearman_groups }) =>
  Number.isFinite(spearman) ? ` · rank correlation ${fixed(spearman)} over the last ${integer(spearman_groups)} groups (higher is better)` : "";

export function reliabilityChart(csv) {
  const card = new Card({
    id: "reliability",
    title: "Calibration",
    csv,
    explain: [
      "Every prediction is made when a batch is drawn and scored against the rewards that come back, never the other way round. A point on the dashed diagonal means: of prompts predicted at 30 %, 30 % of the rollouts were right. Points below it are over-confident in the policy, points above under-confident. Larger points stand for more predictions.",
    ],
  });
  card.setLegend([
    { color: "blue", text: "observed (area: predictions)", mark: "dot" },
    { color: "muted", text: "perfect", mark: "dashed" },
  ]);
  let kept = [];
  const plot = new Plot(card, {
    label: "Reliability diagram",
    read: (i) => `predicted ${fixed(kept[i].predicted)}, observed ${fixed(kept[i].observed)} over ${integer(kept[i].count)} predictions`,
    options: (colors) => ({
      scales: { x: unitScale, y: { range: [0, 1] } },
      axes: [{ label: "predicted pass rate" }, { label: "observed" }],
      series: [{}, line("observed", colors.blue, { width: 1 })],
      hooks: { drawAxes: [drawDiagonal], draw: [drawPoints] },
    }),
  });

  function drawDiagonal({ ctx, bbox }) {
    ctx.save();
    ctx.strokeStyle = palette().muted;
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, bbox.top + bbox.height);
    ctx.lineTo(bbox.left + bbox.width, bbox.top);
    ctx.stroke();
    ctx.restore();
  }

  function drawPoints(chart) {
    const most = Math.max(...kept.map((bin) => bin.count), 1);
    const { ctx } = chart;
    ctx.save();
    ctx.fillStyle = palette().blue;
    for (const { predicted, observed, count } of kept) {
      ctx.beginPath();
      const radius = (3 + 6 * Math.sqrt(count / most)) * devicePixelRatio;
      ctx.arc(chart.valToPos(predicted, "x", true), chart.valToPos(observed, "y", true), radius, 0, 2 * Math.PI);
      ctx.fill();
    }
    ctx.restore();
  }

  function update(summary) {
    const calibration = summary.calibration;
    if (!calibration || calibration.predictions === 0) {
      card.setEmpty(none);
      return;
    }
    card.setEmpty(null);
    kept = calibration.bin_counts
      .map((count, i) => ({ count, predicted: calibration.bin_predicted[i], observed: calibration.bin_observed[i] }))
      .filter((bin) => bin.count > 0);
    card.setNote(`${integer(calibration.predictions)} predictions · Brier score ${fixed(calibration.brier)} · log loss ${fixed(calibration.log_loss)} (lower is better)${ranks(calibration)}`);
    plot.update(
      [kept.map((bin) => bin.predicted), kept.map((bin) => bin.observed)],
      `Reliability diagram over ${integer(calibration.predictions)} predictions, Brier score ${fixed(calibration.brier)}.`,
    );
    card.setTable(() =>
      table("Predicted against observed pass rate", ["predicted", "observed", "predictions"],
        kept.map((bin) => [fixed(bin.predicted), fixed(bin.observed), integer(bin.count)])),
    );
  }
  return { root: card.root, update };
}

export function brierChart(csv) {
  const card = new Card({
    id: "brier",
    title: "Prediction error and reward",
    csv,
    explain: [
      "The Brier score is the mean squared difference between predicted pass rate and outcome at each point; it falls as the estimates settle, and rises when the policy moves faster than they forget. The mean reward is that of the rollouts chosen for training, not a held-out accuracy: a curriculum that keeps to the frontier holds it near the middle.",
    ],
  });
  card.setLegend([
    { color: "blue", text: "Brier score", mark: "stroke" },
    { color: "orange", text: "mean reward", mark: "dashed" },
  ]);
  let history = null;
  let steps = null;
  const plot = new Plot(card, {
    label: "Brier score",
    read: (i) => `${steps.at(i)}: Brier score ${fixed(history.briers[i])}, mean reward ${fixed(history.mean_rewards[i])}`,
    options: (colors) => ({
      scales: { x: stepScale, y: fromZero },
      axes: [{ label: "policy version", values: wholeTicks }, {}],
      series: [{}, line("Brier score", colors.blue), line("mean reward", colors.orange, { dash: [6, 4] })],
    }),
  });

  function update(summary) {
    history = summary.history;
    if (!history || history.briers.length === 0) {
      card.setEmpty(none);
      return;
    }
    card.setEmpty(null);
    steps = stepsOf(history);
    plot.update([steps.x, history.briers, history.mean_rewards], "Lines of the Brier score and of the mean reward over training.");
    card.setTable(() =>
      table("Brier score and mean reward over training", ["policy version", "Brier score", "mean reward"],
        history.briers.map((brier, i) => [String(history.policy_versions[i]), fixed(brier), fixed(history.mean_rewards[i])])),
    );
  }
  return { root: card.root, update };
}
