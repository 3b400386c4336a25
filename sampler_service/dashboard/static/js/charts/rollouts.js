// Where the rollouts went: useful, wasted, and what uniform sampling would have needed.

import { add, h, setText, table } from "../dom.js";
import { compact, integer, percent, share } from "../format.js";
import { Card } from "./card.js";
import { bars, countAxis, fromZero, line, Plot } from "./plot.js";
import { stepsOf, stepScale, wholeTicks } from "./steps.js";

const noRollouts = "No rollouts have been reported yet.";

const running = (values) => {
  let sum = 0;
  return values.map((value) => (sum += value));
};

function lengthBar(name) {
  const fill = h("div", { class: "length", role: "img" });
  const value = h("span", { class: "value" });
  return { row: h("div", { class: "length-row" }, h("span", {}, name), fill, value), fill, value };
}

export function rolloutsChart(csv) {
  const card = new Card({
    id: "rollouts",
    title: "Rollouts spent, wasted and saved",
    csv,
    explain: [
      "Wasted rollouts are those in groups that came out all right or all wrong. The total is counted exactly. The curve over time is an estimate: at each point, the rollouts times the share of groups that were not mixed.",
      "Saved is an estimate too: how many more rollouts uniform sampling would have needed for the same number of mixed groups. What uniform sampling would have got is measured on the exploration floor, whose groups are chosen whatever their difficulty (averaged over recent points, and steadied by two groups' worth of \"no difference\"). Without an exploration floor nothing is claimed. The figure says nothing about accuracy, and can be negative: then uniform sampling would have been cheaper.",
    ],
  });
  const spent = lengthBar("This curriculum");
  const uniform = lengthBar("Uniform (estimate)");
  const lengths = h("div", { class: "lengths" }, spent.row, uniform.row);
  card.setLegend([
    { color: "blue", text: "spent", mark: "stroke" },
    { color: "orange", text: "wasted", mark: "dashed" },
  ]);
  let history = null;
  let steps = null;
  let total = [];
  let wasted = [];
  const plot = new Plot(card, {
    label: "Rollouts spent",
    height: 170,
    read: (i) => `${steps.at(i)}: ${integer(total[i])} spent, ${integer(wasted[i])} wasted`,
    options: (colors) => ({
      scales: { x: stepScale, y: fromZero },
      axes: [{ label: "policy version", values: wholeTicks }, countAxis],
      series: [{}, line("spent", colors.blue), line("wasted", colors.orange, { dash: [6, 4] })],
    }),
  });
  add(card.body, [lengths]);

  function update(summary) {
    history = summary.history;
    if (summary.rollouts_spent === 0 || !history) {
      card.setEmpty(noRollouts);
      return;
    }
    card.setEmpty(null);
    steps = stepsOf(history);
    total = running(history.rollouts);
    wasted = running(history.wasted_rollouts);
    const saved = summary.rollouts_saved ?? 0;
    const alternative = Math.max(0, summary.rollouts_spent + saved);
    const longest = Math.max(summary.rollouts_spent, alternative, 1);
    card.setNote(
      `${integer(summary.rollouts_spent)} spent, ${integer(summary.rollouts_wasted)} of them wasted (${share(summary.rollouts_wasted, summary.rollouts_spent)}); ` +
        `about ${integer(Math.abs(saved))} ${saved < 0 ? "more than" : "fewer than"} uniform sampling would have needed.`,
    );
    spent.fill.style.setProperty("--v", String(summary.rollouts_spent / longest));
    spent.fill.style.setProperty("--w", String(summary.rollouts_wasted / longest));
    spent.fill.setAttribute("aria-label", `${integer(summary.rollouts_spent)} rollouts, ${integer(summary.rollouts_wasted)} wasted`);
    setText(spent.value, compact(summary.rollouts_spent));
    uniform.fill.style.setProperty("--v", String(alternative / longest));
    uniform.fill.setAttribute("aria-label", `about ${integer(alternative)} rollouts`);
    setText(uniform.value, `≈ ${compact(alternative)}`);
    plot.update([steps.x, total, wasted], `Lines of rollouts spent and wasted over training, now ${integer(summary.rollouts_spent)} and ${integer(summary.rollouts_wasted)}.`);
    card.setTable(() =>
      table("Rollouts over training", ["policy version", "rollouts", "sum", "wasted, sum"],
        history.rollouts.map((n, i) => [String(history.policy_versions[i]), integer(n), integer(total[i]), integer(wasted[i])])),
    );
  }
  return { root: card.root, update };
}

export function explorationChart(csv) {
  const card = new Card({
    id: "exploration",
    title: "Exploration and exploitation",
    csv,
    explain: [
      "Part of every batch is kept for prompts that were never seen or not seen for long, so that no prompt is written off on old evidence. The rest goes where the strategy's proposal wants it.",
    ],
  });
  card.setLegend([
    { color: "blue", text: "chosen by the proposal" },
    { color: "orange", text: "exploration" },
  ]);
  let history = null;
  let steps = null;
  const plot = new Plot(card, {
    label: "Exploration",
    read: (i) => `${steps.at(i)}: ${integer(history.exploration_rollouts[i])} of ${integer(history.rollouts[i])} rollouts explored (${share(history.exploration_rollouts[i], history.rollouts[i])})`,
    options: (colors) => ({
      scales: { x: stepScale, y: fromZero },
      axes: [{ label: "policy version", values: wholeTicks }, countAxis],
      series: [{}, bars("all", colors.blue), bars("exploration", colors.orange)],
      cursor: { points: { show: false } },
    }),
  });

  function update(summary) {
    history = summary.history;
    if (!history || history.rollouts.length === 0) {
      card.setEmpty(noRollouts);
      return;
    }
    card.setEmpty(null);
    steps = stepsOf(history);
    const part = summary.rollouts_spent ? summary.exploration_rollouts / summary.rollouts_spent : null;
    card.setNote(`${integer(summary.exploration_rollouts)} rollouts explored, ${percent(part)} of all.`);
    plot.update([steps.x, history.rollouts, history.exploration_rollouts], `Bars of rollouts per step, exploration apart: ${percent(part)} of all.`);
    card.setTable(() =>
      table("Exploration over training", ["policy version", "rollouts", "exploration"],
        history.rollouts.map((n, i) => [String(history.policy_versions[i]), integer(n), integer(history.exploration_rollouts[i])])),
    );
  }
  return { root: card.root, update };
}
