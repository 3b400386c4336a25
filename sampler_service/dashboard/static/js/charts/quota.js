// Rollouts granted against pass rate: where the budget goes.

import { table } from "../dom.js";
import { fixed, integer } from "../format.js";
import { Card } from "./card.js";
import { binName, centres } from "./difficulty.js";
import { fromZero, line, Plot, unitScale } from "./plot.js";

export function quotaChart(csv) {
  const card = new Card({
    id: "quota",
    title: "Rollouts per prompt, by pass rate",
    csv,
    explain: [
      "The mean number of rollouts that recent batches granted to a prompt, by the pass rate predicted when the batch was drawn. A strategy that spends where it learns draws a bell: few rollouts for prompts that are surely right or surely wrong, many between. A flat line is uniform sampling.",
      "Ranges in which no prompt was drawn have no point.",
    ],
  });
  let profile = null;
  const plot = new Plot(card, {
    label: "Quota profile",
    read: (i) => `pass rate ${binName(profile.edges, i)}: ${fixed(profile.mean_quotas[i], 2)} rollouts for each of ${integer(profile.prompts[i])} prompts`,
    options: (colors) => ({
      scales: { x: unitScale, y: fromZero },
      axes: [{ label: "predicted pass rate" }, {}],
      series: [{}, line("mean rollouts", colors.blue, { fill: `${colors.blue}22`, points: { show: true, size: 6, fill: colors.blue } })],
    }),
  });

  function update(summary) {
    profile = summary.quota_profile;
    const granted = profile ? profile.prompts.reduce((a, b) => a + b, 0) : 0;
    if (granted === 0) {
      card.setEmpty("No batch has been granted yet. The curve starts with the first NextBatch.");
      return;
    }
    card.setEmpty(null);
    const means = profile.mean_quotas.map((mean, i) => (profile.prompts[i] > 0 ? mean : null));
    const best = means.indexOf(Math.max(...means.filter((mean) => mean !== null)));
    plot.update(
      [centres(profile.edges), means],
      `Curve of the mean rollouts granted by predicted pass rate; highest, ${fixed(means[best], 1)}, at ${binName(profile.edges, best)}.`,
    );
    card.setTable(() =>
      table("Mean rollouts granted by predicted pass rate", ["pass rate", "mean rollouts", "prompts"],
        means.map((mean, i) => [binName(profile.edges, i), fixed(mean, 2), integer(profile.prompts[i])])),
    );
  }
  return { root: card.root, update };
}
