// How groups of rollouts came out, step by step, and the share that can teach.

import { table } from "../dom.js";
import { integer, percent, share } from "../format.js";
import { Card } from "./card.js";
import { bars, countAxis, fromZero, line, percentAxis, Plot } from "./plot.js";
import { stepsOf, stepScale, wholeTicks } from "./steps.js";

const noGroups = "No group has been finished yet. The chart starts with the first report.";

export function groupsChart(csv) {
  const card = new Card({
    id: "groups",
    title: "Groups by outcome",
    csv,
    explain: [
      "A group is all rollouts of one prompt in one batch. Only a mixed group, with right and wrong answers in it, has advantages other than zero. Groups that are all right or all wrong cost rollouts and teach nothing.",
    ],
  });
  card.setLegend([
    { color: "blue", text: "mixed" },
    { color: "sky", text: "all correct" },
    { color: "orange", text: "all wrong" },
  ]);
  let history = null;
  let steps = null;
  const plot = new Plot(card, {
    label: "Groups by outcome",
    read: (i) =>
      `${steps.at(i)}: ${integer(history.mixed_groups[i])} mixed, ${integer(history.all_correct_groups[i])} all correct, ${integer(history.all_wrong_groups[i])} all wrong`,
    // Tallest first: the shorter bars are painted over it, which stacks them.
    options: (colors) => ({
      scales: { x: stepScale, y: fromZero },
      axes: [{ label: "policy version", values: wholeTicks }, countAxis],
      series: [{}, bars("all wrong", colors.orange), bars("all correct", colors.sky), bars("mixed", colors.blue)],
      cursor: { points: { show: false } },
    }),
  });

  function update(summary) {
    history = summary.history;
    if (!history || history.groups.length === 0) {
      card.setEmpty(noGroups);
      return;
    }
    card.setEmpty(null);
    steps = stepsOf(history);
    const upToCorrect = history.mixed_groups.map((mixed, i) => mixed + history.all_correct_groups[i]);
    const all = upToCorrect.map((count, i) => count + history.all_wrong_groups[i]);
    plot.update(
      [steps.x, all, upToCorrect, history.mixed_groups],
      `Stacked bars of groups per step: in all ${integer(summary.mixed_groups)} of ${integer(summary.groups)} groups were mixed.`,
    );
    card.setTable(() =>
      table("Groups by outcome", ["policy version", "groups", "mixed", "all correct", "all wrong"],
        history.groups.map((groups, i) => [String(history.policy_versions[i]), integer(groups), integer(history.mixed_groups[i]), integer(history.all_correct_groups[i]), integer(history.all_wrong_groups[i])])),
    );
  }
  return { root: card.root, update };
}

const window = 10;

// Mixed groups over groups in the last `window` points, at each point.
export function trailingRatio(history) {
  let mixed = 0;
  let groups = 0;
  return history.groups.map((count, i) => {
    mixed += history.mixed_groups[i] - (i >= window ? history.mixed_groups[i - window] : 0);
    groups += count - (i >= window ? history.groups[i - window] : 0);
    return groups > 0 ? mixed / groups : null;
  });
}

export function ratioChart(csv) {
  const card = new Card({
    id: "ratio",
    title: "Effective-prompt ratio",
    csv,
    explain: [
      `Mixed groups as a share of all finished groups: the part of the rollouts that a gradient can use. Dots are single points in time, the line is the mean over the last ${window} of them.`,
    ],
  });
  card.setLegend([
    { color: "blue", text: `last ${window} points`, mark: "stroke" },
    { color: "grey", text: "each point", mark: "dot" },
  ]);
  let history = null;
  let steps = null;
  let each = [];
  let trail = [];
  const plot = new Plot(card, {
    label: "Effective-prompt ratio",
    read: (i) => `${steps.at(i)}: ${percent(each[i])} of ${integer(history.groups[i])} groups mixed, ${percent(trail[i])} over the last ${window}`,
    options: (colors) => ({
      scales: { x: stepScale, y: { range: [0, 1] } },
      axes: [{ label: "policy version", values: wholeTicks }, percentAxis],
      series: [
        {},
        { label: "each point", stroke: colors.grey, width: 0, paths: () => null, points: { show: true, size: 4, fill: colors.grey, width: 0 } },
        line("trailing", colors.blue),
      ],
    }),
  });

  function update(summary) {
    history = summary.history;
    if (!history || history.groups.length === 0) {
      card.setEmpty(noGroups);
      return;
    }
    card.setEmpty(null);
    steps = stepsOf(history);
    each = history.groups.map((groups, i) => (groups > 0 ? history.mixed_groups[i] / groups : null));
    trail = trailingRatio(history);
    card.setNote(`Now ${percent(summary.effective_prompt_ratio)}; over the whole run ${share(summary.mixed_groups, summary.groups)}.`);
    plot.update([steps.x, each, trail], `Line of the share of mixed groups per step, now ${percent(summary.effective_prompt_ratio)}.`);
    card.setTable(() =>
      table("Effective-prompt ratio", ["policy version", "ratio", `last ${window} points`],
        each.map((ratio, i) => [String(history.policy_versions[i]), percent(ratio), percent(trail[i])])),
    );
  }
  return { root: card.root, update };
}
