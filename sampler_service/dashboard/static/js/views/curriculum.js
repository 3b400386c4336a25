// One curriculum: figures, charts, tables, live.

import { fill, h } from "../dom.js";
import { getJson, paths } from "../api.js";
import { watchSummary } from "../live.js";
import { clock } from "../format.js";
import { brierChart, reliabilityChart } from "../charts/calibration.js";
import { difficultyChart } from "../charts/difficulty.js";
import { groupsChart, ratioChart } from "../charts/groups.js";
import { quotaChart } from "../charts/quota.js";
import { explorationChart, rolloutsChart } from "../charts/rollouts.js";
import { shiftChart } from "../charts/shift.js";
import { uncertaintyChart } from "../charts/uncertainty.js";
import { figures } from "./figures.js";
import { accountingTable, clustersTable, estimatorsTable, leasesTable } from "./tables.js";
import { shadowsChart, shadowsTable } from "./shadows.js";
import { promptsPanel } from "./prompts.js";
import { strategyPanel } from "./strategy.js";
import { url } from "./url-state.js";

const binChoices = [10, 20, 24, 40, 60, 120];
const strategyMillis = 15000;

export function showCurriculum(main, shell, id, session) {
  document.title = id;
  shell.setTrail(id);
  const asked = Number(url.get("bins"));
  const bins = binChoices.includes(asked) ? asked : 20;
  const csv = (name) => paths.table(id, name, bins);

  const parts = [
    figures(),
    difficultyChart(csv("histogram")),
    quotaChart(csv("quota_profile")),
    shiftChart(csv("history"), url),
    uncertaintyChart(csv("uncertainty")),
    groupsChart(csv("history")),
    ratioChart(csv("history")),
    rolloutsChart(csv("history")),
    explorationChart(csv("history")),
    reliabilityChart(csv("calibration")),
    brierChart(csv("history")),
    estimatorsTable(csv("estimators")),
    clustersTable(csv("clusters")),
    leasesTable(),
    accountingTable(),
    shadowsTable(csv("shadows")),
    shadowsChart(csv("shadow_series")),
  ];
  const [head, difficulty, quota, shift, uncertainty, groups, ratio, rollouts, exploration, reliability, brier, estimators, clusters, leases, accounting, shadows, shadowSteps] = parts.map((part) => part.root);
  const strategy = strategyPanel(id, session);
  const prompts = promptsPanel(id, url);

  const binSelect = h(
    "select",
    { onchange: (event) => (url.set("bins", event.target.value), location.reload()) },
    binChoices.map((n) => h("option", { value: n, selected: n === bins }, String(n))),
  );
  const preset = h("span", { class: "chip", hidden: true });
  const updated = h("span", { class: "quiet-text", id: "updated" });
  const section = (name, title, ...children) => h("section", { class: "group", id: name, "aria-labelledby": `${name}-h` }, h("h2", { id: `${name}-h` }, title), h("div", { class: "grid" }, children));
  const sections = [
    ["s-difficulty", "Difficulty", [difficulty, quota, shift, uncertainty]],
    ["s-rollouts", "Rollouts", [ratio, groups, rollouts, exploration]],
    ["s-calibration", "Predictions", [reliability, brier, estimators]],
    ["s-clusters", "Clusters and trainers", [clusters, leases, accounting]],
    ["s-shadows", "Shadow strategies", [shadows, shadowSteps]],
    ["s-strategy", "Strategy", [strategy.root]],
    ["s-prompts", "Prompts", [prompts.root]],
  ];
  const page = h(
    "div",
    {},
    h("div", { class: "title" }, h("h1", {}, id), preset, h("span", { class: "grow" }), updated, h("a", { href: paths.compare(id) }, "Compare"), h("label", { class: "inline" }, "Bins", binSelect)),
    head,
    h("nav", { class: "sections", "aria-label": "Sections" }, sections.map(([name, title]) => h("a", { href: `#${name}` }, title))),
    sections.map(([name, title, children]) => section(name, title, ...children)),
  );

  let shown = null;
  let etagRead = 0;

  async function readStrategy() {
    if (performance.now() - etagRead < strategyMillis && strategy.isShown()) return;
    etagRead = performance.now();
    const curriculum = await getJson(paths.curriculum(id)).catch(() => null);
    if (curriculum) strategy.update(curriculum);
  }

  watchSummary(id, bins, {
    onSummary(summary) {
      if (shown === null) {
        fill(main, page);
        if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
        prompts.load();
      }
      shown = summary;
      for (const part of parts) part.update(summary);
      prompts.update(summary);
      preset.hidden = !summary.preset;
      preset.textContent = summary.preset;
      updated.textContent = summary.update_time ? `as of ${clock(summary.update_time)}` : "";
      page.dataset.revision = summary.revision;
      shell.setBanner(summary.stale ? "The service cannot reach its log. This is the last state it knows; nothing that was acknowledged is lost." : null);
      readStrategy();
    },
    onProblem(error) {
      if (shown === null) fill(main, problemState(id, error));
      else if (error.status === 404) shell.setBanner("This curriculum was deleted. What is shown is its last state.");
      else shell.setBanner(`${error.message} Showing the state of ${clock(shown.update_time)}; this page tries again by itself.`);
    },
    onState: shell.setConnection,
  });
}

function problemState(id, error) {
  const missing = error.status === 404;
  return h(
    "div",
    { class: "panel hero", "data-problem": error.reason },
    h("h1", {}, missing ? `There is no curriculum “${id}”` : "The service does not answer"),
    h("p", {}, error.message),
    h("p", {}, missing ? h("a", { href: "/" }, "See the curricula there are") : "This page tries again by itself."),
  );
}
