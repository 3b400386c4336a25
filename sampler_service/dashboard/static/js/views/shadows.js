// Shadow strategies: how they do beside the one in force, as a table and over training.

import { fill, h, table } from "../dom.js";
import { compact, dash, fixed, integer, percent } from "../format.js";
import { Card } from "../charts/card.js";
import { fromZero, line, percentAxis, Plot } from "../charts/plot.js";
import { stepsOf, stepScale, wholeTicks } from "../charts/steps.js";
import { panel, rows } from "./tables.js";

const none = "No shadow strategies are followed. Give the strategy some: sampler-service curricula shadows NAME --add PRESET.";
const colors = ["blue", "orange", "green", "sky", "grey"];
// Told apart without colour, too. The strategy in force is the solid line.
const dashes = [undefined, [6, 4], [2, 3], [15, 4], [8, 3, 2, 3]];
const known = (value, text) => (Number.isFinite(value) ? text(value) : dash);

const weighted = (one) =>
  h(
    "span",
    { title: `${fixed(one.weighted_groups, 0)} groups of equal weight, ${known(one.weighted_support, percent)} of its choices are in the served batches` },
    known(one.weighted_mixed_share, percent),
  );

export function shadowsTable(csv) {
  const { root, host, note } = panel("shadows", "Shadow strategies", true, csv);
  return {
    root,
    update({ shadows }) {
      if (!shadows) {
        note.textContent = none;
        fill(host);
        return;
      }
      note.textContent = `Never served: they see the same rewards, predict the same batches, and draw their own. ${integer(shadows.batches)} batches since the strategy last changed, ${integer(shadows.compared_batches)} of them compared.`;
      fill(
        host,
        rows("Shadow strategies", ["strategy", "Brier score", "log loss", "rank correlation", "predicted mixed", "drawn mixed", "same quotas", "same prompts", "mixed where both chose", "mixed, weighted"], shadows.strategies.map((one) => [
          h("span", { "data-shadow": one.strategy, title: one.estimator }, one.strategy),
          fixed(one.calibration.brier, 4),
          fixed(one.calibration.log_loss, 4),
          known(one.calibration.spearman, fixed),
          percent(one.predicted_mixed_share),
          percent(one.expected_mixed_share),
          percent(one.quota_overlap),
          percent(one.batch_overlap),
          one.shared_groups > 0 ? `${percent(one.shared_mixed_share)} of ${compact(one.shared_groups)}` : dash,
          weighted(one),
        ])),
      );
    },
  };
}

export function shadowsChart(csv) {
  const card = new Card({
    id: "shadow-steps",
    title: "Shadow strategies over training",
    csv,
    wide: true,
    explain: [
      "Above, the Brier score of each strategy's predictions for the served batches: lower is better. Below, the share of groups expected to come out mixed in the batches that each would have drawn, as the estimator in force expects it, so that no strategy grades itself.",
      "It compares predictions and choices, not learning: had a shadow been in force, the policy would have become another one.",
    ],
  });
  let shadows = null;
  let steps = null;
  const words = (name, format) => (i) =>
    `${steps.at(i)}: ${shadows.series.map((one) => `${one.strategy} ${known(one[name][i], format)}`).join(", ")}`;
  const lines = (palette) => [{}, ...shadows.series.map((one, i) => line(one.strategy, palette[colors[i]], { dash: dashes[i] }))];
  const errors = new Plot(card, {
    label: "Brier score of each strategy",
    height: 180,
    read: words("briers", fixed),
    options: (palette) => ({
      scales: { x: stepScale, y: fromZero },
      axes: [{ label: "policy version", values: wholeTicks }, { label: "Brier score" }],
      series: lines(palette),
    }),
  });
  const drawn = new Plot(card, {
    label: "Drawn mixed share of each strategy",
    height: 180,
    read: words("expected_mixed_shares", percent),
    options: (palette) => ({
      scales: { x: stepScale, y: { range: [0, 1] } },
      axes: [{ label: "policy version", values: wholeTicks }, { label: "drawn mixed", ...percentAxis }],
      series: lines(palette),
    }),
  });

  let names = "";
  function show(plot, name, describe) {
    plot.update([steps.x, ...shadows.series.map((one) => one[name])], describe);
  }

  function update(summary) {
    shadows = summary.shadows;
    card.root.hidden = !shadows; // The table beside it says that there are none.
    if (!shadows || shadows.series[0].policy_versions.length === 0) {
      card.setEmpty("No batch has come back since the strategy last changed.");
      return;
    }
    card.setEmpty(null);
    steps = stepsOf(shadows.series[0]);
    const now = shadows.series.map((one) => one.strategy).join("\n");
    if (now !== names) {
      // Other lines than before: the pictures are made anew.
      names = now;
      for (const plot of [errors, drawn]) {
        plot.chart?.destroy();
        plot.chart = null;
      }
      card.setLegend(shadows.series.map((one, i) => ({ color: colors[i], text: one.strategy, mark: "stroke", dash: dashes[i] })));
    }
    show(errors, "briers", "Lines of the Brier score of each strategy over training.");
    show(drawn, "expected_mixed_shares", "Lines of the expected share of mixed groups in each strategy's own batches.");
    card.setTable(() =>
      table("Shadow strategies over training", ["policy version", ...shadows.series.flatMap((one) => [`${one.strategy}: Brier score`, `${one.strategy}: drawn mixed`])],
        shadows.series[0].policy_versions.map((version, i) => [String(version), ...shadows.series.flatMap((one) => [fixed(one.briers[i], 4), percent(one.expected_mixed_shares[i])])])),
    );
  }
  return { root: card.root, update };
}
