// One prompt: what is believed of it, and how that came about, visit by visit.

import { fill, h } from "../dom.js";
import { getJson, paths } from "../api.js";
import { clock, dash, day, fixed, integer } from "../format.js";
import { beliefChart, visitGroupsChart } from "../charts/visits.js";
import { fileLinks } from "../charts/card.js";
import { posteriorCard, promptFacts } from "./prompt.js";
import { url } from "./url-state.js";

const refreshMillis = 10_000;
const words = { OPEN: "out now", REPORTED: "reported", EXPIRED: "expired", RELEASED: "given back", OUTSIDE: "outside any batch" };
const sources = { PROPOSAL: "proposal", EXPLORATION: "exploration", REPLAY: "replay", CONTINUATION: "continuation", COLD_START: "cold start", REFERENCE: "reference" };
const heads = ["visit", "when", "policy version", "trainer", "lease", "chosen by", "believed", "quota", "reported", "right", "mean reward", "status"];

export function showPromptPage(main, shell, curriculumId) {
  const promptId = url.get("id") ?? "";
  document.title = promptId || curriculumId;
  shell.setTrail([curriculumId, paths.page(curriculumId)], promptId);
  const facts = h("div", {});
  const posterior = posteriorCard();
  posterior.root.classList.add("wide");
  const csv = paths.historyCsv(curriculumId, promptId);
  const belief = beliefChart(csv);
  const groups = visitGroupsChart(csv);
  const reach = h("p", { class: "reach", role: "status" });
  const visits = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Visits" });
  const visitsCard = h("section", { class: "card wide", "aria-labelledby": "visits-title" }, h("header", {}, h("h3", { id: "visits-title" }, "Visits"), h("span", { class: "grow" }), fileLinks(csv, "Visits")), visits);
  const page = h(
    "div",
    {},
    h("div", { class: "title" }, h("h1", {}, promptId || "(empty id)"), h("span", { class: "grow" }), h("a", { href: `${paths.page(curriculumId)}#s-prompts` }, "All prompts")),
    h("div", { class: "grid" }, h("div", { class: "card wide" }, facts, reach), belief.root, groups.root, posterior.root, visitsCard),
  );
  let shownAt = null;

  async function refresh() {
    try {
      const [state, history] = await Promise.all([
        // By filter and not by path: a browser would take the id ".." for the folder above.
        getJson(paths.prompts(curriculumId, { prompt_id: promptId, page_size: 1 })),
        getJson(paths.history(curriculumId, promptId)),
      ]);
      if (shownAt === null) fill(main, page);
      shownAt = new Date();
      draw(state, history);
      shell.setConnection("polling");
      shell.setBanner(null);
      return true;
    } catch (error) {
      const gone = error.status === 404 || error.status === 400;
      shell.setConnection(gone ? "gone" : "away");
      if (shownAt !== null) shell.setBanner(`${error.message} Showing what was known at ${clock(shownAt)}.`);
      else fill(main, problem(error, gone));
      return !gone;
    }
  }

  function problem(error, gone) {
    return h(
      "div",
      { class: "panel hero", "data-problem": error.reason },
      h("h1", {}, gone ? `There is no prompt “${promptId}”` : "The service does not answer"),
      h("p", {}, error.message),
      h("p", {}, gone ? h("a", { href: paths.page(curriculumId) }, `See ${curriculumId}`) : "This page tries again by itself."),
    );
  }

  function draw(state, history) {
    fill(facts, promptFacts(state));
    posterior.update(state);
    belief.update(history, state);
    groups.update(history);
    fill(reach, reachOf(history));
    visitsCard.hidden = history.quotas.length === 0;
    fill(visits, visitsTable(history));
  }

  async function loop() {
    const goOn = document.hidden || (await refresh());
    if (goOn) setTimeout(loop, refreshMillis);
  }
  loop();
}

// How far back the log goes, in plain words: what is older is not known any more.
function reachOf(history) {
  const told = history.outcomes.reduce((sum, n) => sum + n, 0);
  const missing = history.rollouts_counted - told;
  const since = day(new Date(1000 * history.from_time_seconds));
  const parts = [
    history.from_revision ? `The log goes back to ${since}; what was before is in the posterior, but not in this list.` : `The log is whole, from ${since} on.`,
  ];
  if (missing > 0) parts.push(`${integer(told)} of the ${integer(history.rollouts_counted)} rollouts that count for this prompt are told of; the others are older than the log, undone by a restored checkpoint, or beyond the newest visits shown.`);
  else if (told > 0) parts.push(`All ${integer(told)} rollouts that count for this prompt are told of.`);
  else parts.push("No rollout of this prompt has counted yet.");
  if (history.visits_found > history.quotas.length) parts.push(`The newest ${integer(history.quotas.length)} of ${integer(history.visits_found)} visits are shown.`);
  if (history.unattributed_reports > 0) parts.push(`${integer(history.unattributed_reports)} reports are for batches from before the log begins; whether they held this prompt is not known.`);
  return parts.join(" ");
}

function visitsTable(history) {
  const rows = history.quotas.map((quota, i) => {
    const outside = history.lease_ids[i] === "";
    return [
      String(i + 1),
      day(new Date(1000 * history.times_seconds[i])),
      integer(history.policy_versions[i]),
      history.trainer_ids[i] || dash,
      outside ? dash : h("code", {}, history.lease_ids[i]),
      sources[history.sources[i].replace("SOURCE_", "")] ?? dash,
      outside ? dash : `${fixed(history.pass_rates[i])} ± ${fixed(history.pass_rate_stddevs[i])}`,
      outside ? dash : integer(quota),
      integer(history.rollouts[i]),
      integer(history.successes[i]),
      fixed(history.mean_rewards[i]),
      words[history.statuses[i].replace("VISIT_STATUS_", "")] ?? dash,
    ];
  });
  rows.reverse();
  const number = (i) => (i === 2 || (i > 5 && i < 11) ? "number" : null);
  return h(
    "table",
    { class: "visits" },
    h("caption", { class: "hidden" }, "Visits, the newest first"),
    h("thead", {}, h("tr", {}, heads.map((head, i) => h("th", { scope: "col", class: number(i) }, head)))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, i) => (i === 0 ? h("th", { scope: "row" }, cell) : h("td", { class: number(i) }, cell)))))),
  );
}
