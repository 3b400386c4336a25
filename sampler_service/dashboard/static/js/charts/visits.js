// One prompt's visits: what was believed before each, what came back, what was granted.

import { table } from "../dom.js";
import { day, fixed, integer } from "../format.js";
import { Card } from "./card.js";
import { bars, fromZero, line, Plot } from "./plot.js";
import { stepScale, wholeTicks } from "./steps.js";

const outside = "VISIT_STATUS_OUTSIDE";
const visitName = (history, i) => (i < history.quotas.length ? `visit ${i + 1}, ${day(new Date(1000 * history.times_seconds[i]))}` : "now");

export function beliefChart(csv) {
  const card = new Card({
    id: "belief",
    title: "Belief and outcome, visit by visit",
    csv,
    wide: true,
    explain: [
      "The line is the posterior mean of the pass rate at the moment each batch was drawn, the band one standard deviation to either side; its last point is the belief of now. Dots are the share of right answers in what then came back. Belief should move towards the dots, and the band should narrow.",
      "Visits outside any batch have no prediction.",
    ],
  });
  card.setLegend([
    { color: "blue", text: "believed when drawn, ± sd", mark: "stroke" },
    { color: "orange", text: "right answers that came back", mark: "dot" },
  ]);
  let history = null;
  let data = [];
  const plot = new Plot(card, {
    label: "Belief",
    height: 240,
    read: (i) => `${visitName(history, i)}: believed ${fixed(data[2][i])} ± ${fixed(data[1][i] - data[2][i])}` + (data[4][i] === null ? "" : `, ${fixed(data[4][i])} of ${integer(history.outcomes[i])} right`),
    options: (colors) => ({
      scales: { x: stepScale, y: { range: [0, 1] } },
      axes: [{ label: "visit", values: wholeTicks }, { label: "pass rate" }],
      series: [
        {},
        line("above", "transparent", { width: 0 }),
        line("believed", colors.blue, { points: { show: true, size: 5, fill: colors.blue } }),
        line("below", "transparent", { width: 0 }),
        { label: "right", stroke: colors.orange, width: 0, paths: () => null, points: { show: true, size: 8, fill: colors.orange, width: 0 } },
      ],
      bands: [{ series: [1, 3], fill: `${colors.blue}2e` }],
    }),
  });

  function update(told, state) {
    history = told;
    const count = told.quotas.length;
    if (count === 0) {
      card.setEmpty("The log tells of no visit of this prompt.");
      return;
    }
    card.setEmpty(null);
    const rates = [...told.pass_rates, state.pass_rates[0]];
    const stddevs = [...told.pass_rate_stddevs, state.pass_rate_stddevs[0]];
    const edge = (sign) => rates.map((rate, i) => (rate === null ? null : Math.max(0, Math.min(1, rate + sign * stddevs[i]))));
    const observed = [...told.successes.map((n, i) => (told.outcomes[i] ? n / told.outcomes[i] : null)), null];
    data = [rates.map((_, i) => i + 1), edge(1), rates, edge(-1), observed];
    plot.update(data, `Line of the believed pass rate over ${integer(count)} visits, now ${fixed(state.pass_rates[0])}; dots for what came back.`);
    card.setTable(() =>
      table("Belief and outcome", ["visit", "believed", "deviation", "right"],
        told.pass_rates.map((rate, i) => [String(i + 1), fixed(rate), fixed(told.pass_rate_stddevs[i]), fixed(observed[i])])),
    );
  }
  return { root: card.root, update };
}

export function visitGroupsChart(csv) {
  const card = new Card({
    id: "visit-groups",
    title: "Groups and quotas",
    csv,
    wide: true,
    explain: [
      "The outline is the quota granted in the first round of the batch, the bars what came back: right answers, and wrong ones above them. A strategy may ask for more in further rounds, so bars can be higher than the outline. A group with both colours is mixed: only such a group has advantages other than zero.",
    ],
  });
  card.setLegend([
    { color: "blue", text: "right" },
    { color: "orange", text: "wrong" },
    { color: "ink", text: "quota", mark: "outline" },
  ]);
  let history = null;
  const plot = new Plot(card, {
    label: "Groups",
    height: 190,
    read: (i) => `${visitName(history, i)}: ${integer(history.successes[i])} of ${integer(history.outcomes[i])} right` + (history.statuses[i] === outside ? ", outside any batch" : `, quota ${integer(history.quotas[i])}`),
    options: (colors) => ({
      scales: { x: stepScale, y: fromZero },
      axes: [{ label: "visit", values: wholeTicks }, {}],
      series: [{}, bars("outcomes", colors.orange), bars("right", colors.blue), bars("quota", "transparent", { stroke: colors.ink, width: 1.5 })],
      cursor: { points: { show: false } },
    }),
  });

  function update(told) {
    history = told;
    const count = told.quotas.length;
    if (count === 0) {
      card.setEmpty("The log tells of no group of this prompt.");
      return;
    }
    card.setEmpty(null);
    const mixed = told.outcomes.filter((n, i) => told.successes[i] > 0 && told.successes[i] < n).length;
    card.setNote(`${integer(mixed)} of ${integer(told.outcomes.filter((n) => n > 0).length)} groups were mixed.`);
    plot.update([told.quotas.map((_, i) => i + 1), told.outcomes, told.successes, told.quotas], `Bars of right and wrong answers in ${integer(count)} visits, and the quotas.`);
    card.setTable(() =>
      table("Groups", ["visit", "quota", "outcomes", "right"],
        told.quotas.map((quota, i) => [String(i + 1), integer(quota), integer(told.outcomes[i]), integer(told.successes[i])])),
    );
  }
  return { root: card.root, update };
}
