// The strategy in force, every part and parameter spelt out, and the way to change it for those who may.

import { fill, h } from "../dom.js";
import { day, duration, percent } from "../format.js";
import { strategyEditor } from "./strategy-editor.js";

const parts = [
  ["estimator", "Estimator", "how a prompt's pass rate is estimated"],
  ["proposal", "Proposal", "which prompts"],
  ["quota", "Quota", "how many rollouts each"],
  ["stopping", "Stopping", "when a prompt has had enough"],
  ["clusters", "Clusters", "how groups of prompts share a batch"],
  ["iterations", "Iterations", "subsets of the pool, one after the other"],
];

export function strategyPanel(id, session) {
  const host = h("div", { class: "strategy" });
  const mayChange = session?.role === "admin";
  const editor = strategyEditor(id, { onSaved: (curriculum) => panel.update(curriculum) });
  const change = h("button", { type: "button", disabled: true, onclick: () => editor.open() }, "Change …");
  const why = mayChange ? "" : `Changing it needs the role admin; ${session?.name ? `${session.name} has ${session.role}` : "nobody is signed in"}.`;
  const root = h(
    "section",
    { class: "card wide", id: "strategy", "aria-label": "Strategy in force" },
    h("div", { class: "strategy-bar" }, h("span", { class: "note" }, why), h("span", { class: "grow" }), change),
    editor.root,
    host,
  );
  let etag = null;
  const panel = {
    root,
    isShown: () => etag !== null,
    update(curriculum) {
      const strategy = curriculum.strategy;
      if (!strategy || curriculum.etag === etag) return;
      etag = curriculum.etag;
      editor.follow(curriculum);
      change.disabled = !mayChange; // Not before there is something to change.
      const scalars = [
        ["Preset", strategy.preset || "custom"],
        ["Exploration floor", percent(strategy.exploration)],
        ["Rollouts per prompt", strategy.rollouts_per_prompt ?? "–"],
        ["Lease", duration(strategy.lease_seconds)],
        ["Stale after", strategy.max_staleness === null ? "–" : `${strategy.max_staleness} versions`],
        ["Created", day(curriculum.create_time)],
      ];
      fill(
        host,
        h("dl", { class: "scalars" }, scalars.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value))))),
        h("div", { class: "parts" }, parts.map(([field, name, meaning]) => h("div", { class: "part", "data-part": field }, h("h3", {}, name, h("small", {}, meaning)), strategy[field] && Object.keys(strategy[field]).length ? tree(strategy[field]) : h("p", { class: "quiet-text" }, "none")))),
      );
    },
  };
  return panel;
}

// Nested settings as nested definition lists.
function tree(value) {
  if (value === null || typeof value !== "object") return h("code", {}, String(value));
  if (Array.isArray(value)) return h("code", {}, JSON.stringify(value));
  const entries = Object.entries(value);
  if (entries.length === 0) return h("span", { class: "quiet-text" }, "no parameters");
  return h("dl", { class: "tree" }, entries.map(([name, inner]) => h("div", {}, h("dt", {}, name), h("dd", {}, tree(inner)))));
}
