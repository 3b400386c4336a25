// How many prompts sit at which pass rate; the unseen stand apart.

import { add, h, setText, table } from "../dom.js";
import { dash, fixed, integer, percent, share } from "../format.js";
import { Card } from "./card.js";
import { bars, countAxis, fromZero, Plot, unitScale } from "./plot.js";

export const centres = (edges) => edges.slice(1).map((edge, i) => (edge + edges[i]) / 2);
export const binName = (edges, i) => `${fixed(edges[i], 2)}–${fixed(edges[i + 1], 2)}`;

export function difficultyChart(csv) {
  const card = new Card({
    id: "difficulty",
    title: "Difficulty now",
    csv,
    explain: [
      "Each bar counts the prompts whose estimated pass rate falls into that range. The estimate is the mean of the Beta posterior: what the rollouts so far, older ones forgotten by and by, say about the policy of today.",
      "Prompts that were never rolled out have no evidence of their own; they are counted in the strip below and not in the bars. Prompts in the middle teach most: at 0 and at 1 every rollout of a group gets the same reward, and the advantages vanish.",
    ],
  });
  const seenBar = h("div", { class: "split", role: "img" }, h("i", { class: "seen" }), h("i", { class: "unseen" }));
  const seenText = h("p", { class: "split-text" });
  add(card.body, [h("div", { class: "split-box" }, seenBar, seenText)]);
  let histogram = null;
  const plot = new Plot(card, {
    label: "Difficulty histogram",
    read: (i) => `pass rate ${binName(histogram.edges, i)}: ${integer(histogram.counts[i])} prompts`,
    options: (colors) => ({
      scales: { x: unitScale, y: fromZero },
      axes: [{ label: "estimated pass rate" }, countAxis],
      series: [{}, bars("prompts", colors.blue)],
      cursor: { points: { show: false } },
    }),
  });
  card.body.prepend(plot.host);

  function update(summary) {
    histogram = summary.difficulty_histogram;
    const seen = histogram ? histogram.counts.reduce((a, b) => a + b, 0) : 0;
    if (summary.prompts === 0) {
      card.setEmpty("This curriculum has no prompts yet. Add some with AddPrompts, or with the trainer's SDK.");
      return;
    }
    card.setEmpty(null);
    plot.host.hidden = seen === 0;
    if (seen > 0) {
      const top = histogram.counts.indexOf(Math.max(...histogram.counts));
      plot.update(
        [centres(histogram.edges), histogram.counts],
        `Bar chart of ${integer(seen)} prompts by estimated pass rate. Most, ${integer(histogram.counts[top])}, lie in ${binName(histogram.edges, top)}.`,
      );
    }
    seenBar.style.setProperty("--v", String(seen / summary.prompts));
    seenBar.setAttribute("aria-label", `${integer(seen)} prompts rolled out, ${integer(histogram.unseen)} never`);
    setText(seenText, `${integer(seen)} rolled out at least once · ${integer(histogram.unseen)} never (${share(histogram.unseen, summary.prompts)})`);
    card.setTable(() =>
      table("Prompts by estimated pass rate", ["pass rate", "prompts", "share of seen"], [
        ...histogram.counts.map((count, i) => [binName(histogram.edges, i), integer(count), percent(seen ? count / seen : 0)]),
        ["never rolled out", integer(histogram.unseen), dash],
      ]),
    );
  }
  return { root: card.root, update };
}

