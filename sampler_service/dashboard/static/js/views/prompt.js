// One prompt: its counters, and what is believed about its pass rate as a curve.

import { fill, h } from "../dom.js";
import { getJson, paths } from "../api.js";
import { fixed, integer } from "../format.js";
import { Card } from "../charts/card.js";
import { fromZero, line, Plot, unitScale } from "../charts/plot.js";

// Density of Beta(a, b) on a grid, scaled to a largest value of 1: the shape is what matters.
export function betaShape(a, b, points = 101) {
  const xs = Array.from({ length: points }, (_, i) => (i + 0.5) / points);
  const logs = xs.map((x) => (a - 1) * Math.log(x) + (b - 1) * Math.log1p(-x));
  const top = Math.max(...logs);
  return [xs, logs.map((value) => Math.exp(value - top))];
}

export async function showPrompt(curriculumId, promptId, onClose) {
  const body = h("div", {}, h("p", { class: "loading" }, "Loading …"));
  const dialog = h(
    "dialog",
    { class: "prompt", "aria-label": `Prompt ${promptId}`, onclose: () => (dialog.remove(), onClose()) },
    h("header", {}, h("h2", {}, promptId || "(empty id)"), h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close")),
    body,
  );
  document.body.append(dialog);
  dialog.showModal();
  try {
    // By filter and not by path: a browser would take the id ".." for the folder above.
    const page = await getJson(paths.prompts(curriculumId, { prompt_id: promptId, page_size: 1 }));
    draw(body, curriculumId, page);
  } catch (error) {
    fill(body, h("p", { class: "empty" }, error.message));
  }
}

function draw(body, curriculumId, page) {
  if (page.prompt_ids.length === 0) {
    fill(body, h("p", { class: "empty" }, "The service knows no prompt of this id."));
    return;
  }
  const posterior = posteriorCard();
  fill(body, promptFacts(page), posterior.root, h("p", {}, h("a", { href: paths.promptPage(curriculumId, page.prompt_ids[0]) }, "Its visits: predictions, quotas, rewards")));
  posterior.update(page);
}

// What is known of the one prompt of a page of prompts.
export function promptFacts(page) {
  const seen = page.visits[0] > 0;
  const [alpha, beta] = [page.alphas[0], page.betas[0]];
  const facts = [
    ["Pass rate", `${fixed(page.pass_rates[0])} ± ${fixed(page.pass_rate_stddevs[0])}`],
    ["Posterior", `Beta(${fixed(alpha, 2)}, ${fixed(beta, 2)})`],
    ["Cluster", page.clusters[0] || "–"],
    ["Groups", integer(page.visits[0])],
    ["Rollouts", integer(page.rollouts[0])],
    ["Last policy version", seen ? integer(page.last_policy_versions[0]) : "never rolled out"],
    ["Reward, moving mean", seen ? fixed(page.ema_means[0]) : "–"],
    ["Reward, moving variance", seen ? fixed(page.ema_variances[0]) : "–"],
    ["State", page.in_flight[0] ? "in flight" : "in the pool"],
  ];
  return h("dl", { class: "counts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", { class: "value small" }, value))));
}

export function posteriorCard() {
  const card = new Card({
    id: "posterior",
    title: "What is believed about its pass rate",
    explain: ["The Beta posterior: a narrow peak is well known, a broad one is not. Evidence from similar prompts and the fading of old rollouts are in it. The height is relative."],
  });
  let xs = [];
  let ys = [];
  const plot = new Plot(card, {
    label: "Posterior",
    height: 180,
    read: (i) => `pass rate ${fixed(xs[i], 2)}: relative density ${fixed(ys[i], 2)}`,
    options: (colors) => ({
      scales: { x: unitScale, y: fromZero },
      axes: [{ label: "pass rate" }, {}],
      series: [{}, line("density", colors.blue, { fill: `${colors.blue}22` })],
    }),
  });
  card.details.hidden = true;
  return {
    root: card.root,
    update(page) {
      const [alpha, beta] = [page.alphas[0], page.betas[0]];
      [xs, ys] = betaShape(alpha, beta);
      card.setNote(`Beta(${fixed(alpha, 2)}, ${fixed(beta, 2)})`);
      plot.update([xs, ys], `Curve of Beta(${fixed(alpha, 2)}, ${fixed(beta, 2)}).`);
    },
  };
}
