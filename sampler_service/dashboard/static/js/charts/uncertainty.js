// How sure the estimates are: prompts by the deviation of their posterior, and where on the scale the doubt lies.

import { table } from "../dom.js";
import { counted, fixed, integer } from "../format.js";
import { Card } from "./card.js";
import { binName, centres } from "./difficulty.js";
import { bars, countAxis, fromZero, line, Plot, unitScale } from "./plot.js";

export function uncertaintyChart(csv) {
  const card = new Card({
    id: "uncertainty",
    title: "How sure the estimates are",
    csv,
    wide: true,
    explain: [
      "Left: prompts that were rolled out, by the standard deviation of their own posterior pass rate. A prompt far to the left is well known; a posterior spread evenly over 0 to 1 has 0.289. As in the difficulty histogram, shared evidence and the fading between visits are not in it.",
      "Right: the mean deviation of the prompts in each range of pass rate. Prompts near 0 and 1 are known after few rollouts, those in the middle need more.",
    ],
  });
  let uncertainty = null;
  let edges = [];
  const spread = new Plot(card, {
    label: "Prompts by standard deviation",
    read: (i) => `deviation ${binName(uncertainty.edges, i)}: ${integer(uncertainty.counts[i])} prompts`,
    options: (colors) => ({
      scales: { x: { time: false, range: [0, 0.3] }, y: fromZero },
      axes: [{ label: "standard deviation of the pass rate" }, countAxis],
      series: [{}, bars("prompts", colors.blue)],
      cursor: { points: { show: false } },
    }),
  });
  const where = new Plot(card, {
    label: "Mean deviation by pass rate",
    read: (i) => `pass rate ${binName(edges, i)}: mean deviation ${fixed(uncertainty.mean_stddevs[i])}`,
    options: (colors) => ({
      scales: { x: unitScale, y: fromZero },
      axes: [{ label: "estimated pass rate" }, {}],
      series: [{}, line("mean deviation", colors.blue, { points: { show: true, size: 6, fill: colors.blue } })],
    }),
  });
  card.body.classList.add("pair");

  function update(summary) {
    uncertainty = summary.uncertainty;
    const seen = uncertainty ? uncertainty.counts.reduce((a, b) => a + b, 0) : 0;
    if (seen === 0) {
      card.setEmpty("No prompt has been rolled out yet: of all of them only the prior is known.");
      return;
    }
    card.setEmpty(null);
    edges = summary.difficulty_histogram.edges;
    card.setNote(`Mean ${fixed(uncertainty.mean_stddev)} over ${counted(seen, "prompt")}; ${fixed(uncertainty.unseen_stddev)} for one that was never rolled out.`);
    spread.update([centres(uncertainty.edges), uncertainty.counts], `Bar chart of ${integer(seen)} prompts by the standard deviation of their posterior, ${fixed(uncertainty.mean_stddev)} on average.`);
    where.update([centres(edges), uncertainty.mean_stddevs], "Line of the mean standard deviation by estimated pass rate.");
    card.setTable(() =>
      table("Prompts by standard deviation of their posterior", ["standard deviation", "prompts"],
        uncertainty.counts.map((count, i) => [binName(uncertainty.edges, i), integer(count)])),
    );
  }
  return { root: card.root, update };
}
