// All curricula at a glance, refreshed every few seconds.

import { add, fill, h, svg } from "../dom.js";
import { getJson, paths } from "../api.js";
import { clock, compact, dash, day, fixed, percent } from "../format.js";
import { trailingRatio } from "../charts/groups.js";
import { idleSince, rolloutsPerMinute } from "../charts/rate.js";

const pageSize = 25;
const refreshMillis = 5000;
const parallelReads = 4;

export function showOverview(main, shell) {
  document.title = "Curricula";
  shell.setTrail("Curricula");
  const tokens = [new URLSearchParams(location.search).get("page_token") ?? ""];
  const compareLink = h("a", { href: paths.compare(), hidden: true }, "Compare two");
  const list = h("div", {});
  const pager = h("nav", { class: "pager", "aria-label": "Pages of curricula", hidden: true });
  fill(main, h("div", { class: "title" }, h("h1", {}, "Curricula"), h("span", { class: "grow" }), compareLink), list, pager);
  let shownAt = null;
  let nextToken = "";

  async function refresh() {
    try {
      const page = await getJson(paths.curricula(tokens.at(-1), pageSize));
      nextToken = page.next_page_token;
      const summaries = await readSummaries(page.curricula.map((curriculum) => curriculum.curriculum_id));
      draw(page.curricula, summaries);
      shownAt = new Date();
      shell.setConnection("polling");
      shell.setBanner(null);
    } catch (error) {
      shell.setConnection("away");
      shell.setBanner(`${error.message} ${shownAt ? `Showing what was known at ${clock(shownAt)}.` : "Trying again every few seconds."}`);
      if (!shownAt) fill(list, h("p", { class: "loading" }, "No answer from the service yet."));
    }
  }

  function draw(curricula, summaries) {
    if (curricula.length === 0 && tokens.length === 1) {
      fill(list, tokens[0] === "" ? emptyState() : h("p", { class: "panel empty" }, "No more curricula. ", h("a", { href: "/" }, "See the first ones")));
      pager.hidden = true;
      return;
    }
    fill(list, overviewTable(curricula, summaries));
    compareLink.hidden = curricula.length < 2 && tokens.length === 1;
    pager.hidden = tokens.length === 1 && !nextToken;
    fill(
      pager,
      h("button", { type: "button", disabled: tokens.length === 1, onclick: () => turn(() => tokens.pop()) }, "Previous"),
      h("button", { type: "button", disabled: !nextToken, onclick: () => turn(() => tokens.push(nextToken)) }, "Next"),
    );
  }

  function turn(move) {
    move();
    refresh();
  }

  async function loop() {
    if (!document.hidden) await refresh();
    setTimeout(loop, refreshMillis);
  }
  loop();
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
}

// One summary per curriculum, a few at a time; null for those that could not be read.
async function readSummaries(ids) {
  const summaries = new Map();
  const waiting = [...ids];
  async function work() {
    for (let id = waiting.shift(); id !== undefined; id = waiting.shift()) {
      summaries.set(id, await getJson(paths.summary(id, 1)).catch(() => null));
    }
  }
  await Promise.all(Array.from({ length: parallelReads }, work));
  return summaries;
}

function overviewTable(curricula, summaries) {
  const heads = ["Curriculum", "Strategy", "Prompts", "Rollouts", "Rollouts per minute", "Effective-prompt ratio", "Live leases", "Policy version", "Lag", "Created"];
  const row = (curriculum) => {
    const summary = summaries.get(curriculum.curriculum_id);
    const cells = [
      curriculum.strategy?.preset || "custom",
      compact(curriculum.prompt_count),
      compact(curriculum.rollout_count),
      summary ? rate(summary) : dash,
      summary && summary.groups > 0 ? h("span", { class: "with-spark" }, spark(summary.history), percent(summary.effective_prompt_ratio)) : "–",
      compact(curriculum.live_lease_count),
      compact(curriculum.policy_version),
      summary ? `${fixed(summary.lag_seconds, 1)} s` : dash,
      day(curriculum.create_time),
    ];
    return h(
      "tr",
      { "data-curriculum": curriculum.curriculum_id },
      h("th", { scope: "row" }, h("a", { href: paths.page(curriculum.curriculum_id) }, curriculum.curriculum_id)),
      cells.map((cell, i) => h("td", { "data-label": heads[i + 1], class: i > 0 && i < 8 ? "number" : null }, cell)),
    );
  };
  return h(
    "div",
    { class: "panel" },
    h(
      "table",
      { class: "overview stack" },
      h("caption", { class: "hidden" }, "Curricula with their counters"),
      h("thead", {}, h("tr", {}, heads.map((head, i) => h("th", { scope: "col", class: i > 1 && i < 9 ? "number" : null }, head)))),
      h("tbody", {}, curricula.map(row)),
    ),
  );
}

// A curriculum that nothing has happened to for long keeps its last rate, and says so.
function rate(summary) {
  const perMinute = rolloutsPerMinute(summary);
  if (perMinute === null) return dash;
  const last = idleSince(summary);
  return [compact(perMinute), last && h("small", { class: "under" }, `until ${day(last)}`)];
}

function spark(history) {
  const ratios = history ? trailingRatio(history).slice(-60) : [];
  const points = ratios.map((ratio, i) => `${(i * 64) / Math.max(1, ratios.length - 1)},${16 - 14 * (ratio ?? 0)}`).join(" ");
  return svg("svg", { viewBox: "0 0 64 18", width: 64, height: 18, class: "spark", "aria-hidden": "true" }, svg("polyline", { points, fill: "none" }));
}

function emptyState() {
  const example = [
    "sampler-service curricula create my-first --preset frontier",
    "",
    "# or, in any language, by the API itself:",
    `grpcurl -plaintext -d '{"request_id": "1", "curriculum_id": "my-first"}' \\`,
    "  localhost:GRPC_PORT curriculum.v1.CurriculumService/CreateCurriculum",
  ].join("\n");
  return add(h("div", { class: "panel hero" }), [
    h("h2", {}, "No curricula yet"),
    h("p", {}, "A curriculum is a pool of prompts, what is known about how hard each is for the policy of today, and a strategy that draws from it. Make one, add prompts to it, and point a trainer at this service:"),
    h("pre", { tabindex: "0" }, h("code", {}, example)),
    h("p", { class: "quiet-text" }, "This page shows it within a few seconds."),
  ]);
}
