// Two curricula side by side, live: figures in a table, charts laid over one another.

import { fill, h, setText } from "../dom.js";
import { getJson, paths } from "../api.js";
import { watchSummary } from "../live.js";
import { dash, fixed, integer, percent } from "../format.js";
import { pairBrier, pairHistogram, pairRatio, pairReliability, pairWaste } from "../charts/pair.js";
import { rolloutsPerMinute } from "../charts/rate.js";
import { url } from "./url-state.js";

const bins = 20;
const pageSize = 200;
const mostListed = 2000;
const ratio = (part, all) => (all > 0 ? part / all : null);

// Name, value of a summary, how it is written, and which way is better (1: more, -1: less, 0: neither).
const figures = [
  ["Strategy", (s) => s.preset || "custom", String, 0],
  ["Prompts", (s) => s.prompts, integer, 0],
  ["Rolled out at least once", (s) => ratio(s.prompts_seen, s.prompts), percent, 0],
  ["Policy version", (s) => s.policy_version, integer, 0],
  ["Rollouts spent", (s) => s.rollouts_spent, integer, 0],
  ["Rollouts per minute", (s) => rolloutsPerMinute(s), integer, 0],
  ["Effective-prompt ratio, recent", (s) => (s.groups ? s.effective_prompt_ratio : null), percent, 1],
  ["Effective-prompt ratio, whole run", (s) => ratio(s.mixed_groups, s.groups), percent, 1],
  ["Wasted rollouts", (s) => ratio(s.rollouts_wasted, s.rollouts_spent), percent, -1],
  ["Saved vs uniform (estimate)", (s) => (s.groups ? s.rollouts_saved : null), integer, 0],
  ["Exploration", (s) => ratio(s.exploration_rollouts, s.rollouts_spent), percent, 0],
  ["Brier score", (s) => s.calibration?.brier, fixed, -1],
  ["Log loss", (s) => s.calibration?.log_loss, fixed, -1],
  ["Rank correlation", (s) => s.calibration?.spearman, fixed, 1],
  ["Mean deviation of the estimates", (s) => s.uncertainty?.mean_stddev, fixed, 0],
  ["Live leases", (s) => s.leases.length, integer, 0],
];

export async function showCompare(main, shell) {
  document.title = "Compare";
  shell.setTrail(["Curricula", "/"], "Compare");
  let ids;
  try {
    ids = await allIds();
  } catch (error) {
    shell.setConnection("away");
    fill(main, hero("The service does not answer", error.message, h("button", { type: "button", onclick: () => location.reload() }, "Try again")));
    return;
  }
  const names = chosen(ids);
  if (names === null) {
    shell.setConnection("polling");
    fill(main, hero("Nothing to compare yet", "It takes two curricula. There are fewer that you may see.", h("a", { href: "/" }, "See the curricula there are")));
    return;
  }
  const parts = [pairHistogram(names), pairReliability(names), pairRatio(names), pairWaste(names), pairBrier(names)];
  const numbers = h("div", { class: "scroll whole", tabindex: "0", role: "region", "aria-label": "Figures of both" });
  const pick = (name, which) => {
    const known = ids.includes(names[which]) ? ids : [names[which], ...ids];
    return h("label", { class: "inline" }, h("span", { class: which ? "mark-b" : "mark-a", "aria-hidden": "true" }), name.toUpperCase(), h("select", { name, "aria-label": which ? "Second curriculum" : "First curriculum", onchange: (event) => go(name, event.target.value) }, known.map((id) => h("option", { value: id, selected: id === names[which] }, id))));
  };
  const over = h(
    "select",
    { name: "over", onchange: () => (url.set("over", over.value === "rollouts" ? "rollouts" : null), draw()) },
    h("option", { value: "version" }, "policy version"),
    h("option", { value: "rollouts", selected: url.get("over") === "rollouts" }, "rollouts spent"),
  );
  const swap = h("a", { class: "quiet", href: paths.compare(names[1], names[0]) }, "Swap");
  const problems = ["", ""];
  const states = ["connecting", "connecting"];
  const pair = [null, null];
  const waiting = h("p", { class: "loading", role: "status" }, "Loading …");
  const charts = h("div", { class: "grid" }, h("section", { class: "card wide", id: "pair-figures", "aria-label": "Figures" }, numbers), parts.map((part) => part.root));
  parts.at(-1).root.classList.add("wide");
  fill(
    main,
    h("div", { class: "title" }, h("h1", {}, "Compare"), pick("a", 0), pick("b", 1), swap, h("span", { class: "grow" }), h("label", { class: "inline" }, "Over", over)),
    waiting,
    charts,
  );
  charts.hidden = true;

  function go(name, id) {
    url.set(name, id);
    location.reload();
  }

  function draw() {
    if (pair.some((summary) => summary === null)) return;
    waiting.hidden = true;
    charts.hidden = false;
    fill(numbers, figuresTable(names, pair));
    for (const part of parts) part.update(pair, over.value);
  }

  function say() {
    // What is worst for one holds for both.
    const order = ["gone", "away", "connecting", "polling", "live"];
    shell.setConnection(order.find((state) => states.includes(state)));
    shell.setBanner(problems.filter(Boolean).join(" ") || null);
    if (pair.some((summary) => summary === null) && problems.some(Boolean)) setText(waiting, "Both are needed for a comparison. Choose another one above, or wait.");
  }

  names.forEach((id, i) =>
    watchSummary(id, bins, {
      onSummary(summary) {
        pair[i] = summary;
        problems[i] = summary.stale ? `${id}: the last known state; the service cannot reach its log.` : "";
        draw();
        say();
      },
      onProblem(error) {
        problems[i] = `${id}: ${error.message}`;
        say();
      },
      onState(state) {
        states[i] = state;
        say();
      },
    }),
  );
}

async function allIds() {
  const ids = [];
  let token = "";
  do {
    const page = await getJson(paths.curricula(token, pageSize));
    ids.push(...page.curricula.map((curriculum) => curriculum.curriculum_id));
    token = page.next_page_token;
  } while (token && ids.length < mostListed);
  return ids;
}

// The two that the address names; where it does not, the first that are there. Null: there are not two.
function chosen(ids) {
  const a = url.get("a") ?? ids.find((id) => id !== url.get("b"));
  const b = url.get("b") ?? ids.find((id) => id !== a);
  return a !== undefined && b !== undefined ? [a, b] : null;
}

const hero = (title, text, way) => h("div", { class: "panel hero" }, h("h1", {}, title), h("p", {}, text), h("p", {}, way));

function figuresTable(names, pair) {
  const known = (value) => value !== null && value !== undefined && value !== "";
  const row = ([name, read, write, better]) => {
    const [a, b] = pair.map(read);
    const gap = typeof a === "number" && typeof b === "number" && Number.isFinite(a) && Number.isFinite(b) ? b - a : null;
    const sign = gap > 0 ? "+" : gap < 0 ? "−" : "±";
    const verdict = gap === null || gap === 0 || better === 0 ? "" : Math.sign(gap) === better ? "better" : "worse";
    return h(
      "tr",
      { "data-figure": name },
      h("th", { scope: "row" }, name),
      [a, b].map((value) => h("td", { class: "number" }, known(value) ? write(value) : dash)),
      h("td", { class: "number" }, gap === null ? dash : sign + (write === percent ? `${fixed(100 * Math.abs(gap), 1)} points` : write(Math.abs(gap)))),
      h("td", { class: "verdict" }, verdict && `${names[1]} is ${verdict}`),
    );
  };
  return h(
    "table",
    {},
    h("caption", { class: "hidden" }, `Figures of ${names[0]} and ${names[1]}`),
    h("thead", {}, h("tr", {}, ["", ...names, "difference", ""].map((head, i) => h("th", { scope: "col", class: i > 0 && i < 4 ? "number" : null }, head)))),
    h("tbody", {}, figures.map(row)),
  );
}
