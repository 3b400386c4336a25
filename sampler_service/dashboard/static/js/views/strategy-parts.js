// A strategy as one reads it: numbers on top, each part below with its parameters; and where two differ.

import { h } from "../dom.js";
import { duration, percent } from "../format.js";

const parts = [
  ["estimator", "Estimator", "how a prompt's pass rate is estimated"],
  ["proposal", "Proposal", "which prompts"],
  ["quota", "Quota", "how many rollouts each"],
  ["stopping", "Stopping", "when a prompt has had enough"],
  ["clusters", "Clusters", "how groups of prompts share a batch"],
  ["cluster_source", "Cluster source", "where labels come from"],
  ["iterations", "Iterations", "subsets of the pool, one after the other"],
];

// `more`: further [name, value] beside the numbers.
export function spellOut(strategy, more = []) {
  const scalars = [
    ["Preset", strategy.preset || "custom"],
    ["Exploration floor", percent(strategy.exploration)],
    ["Rollouts per prompt", strategy.rollouts_per_prompt ?? "–"],
    ["Lease", duration(strategy.lease_seconds)],
    ["Group size", strategy.equal_quotas ? "the same for all" : "may vary"],
    ["Stale after", strategy.max_staleness === null ? "–" : `${strategy.max_staleness} versions`],
    ...more,
  ];
  return [
    h("dl", { class: "scalars" }, scalars.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value))))),
    h("div", { class: "parts" }, parts.map(([field, name, meaning]) => h("div", { class: "part", "data-part": field }, h("h3", {}, name, h("small", {}, meaning)), strategy[field] && Object.keys(strategy[field]).length ? tree(strategy[field]) : h("p", { class: "quiet-text" }, "none")))),
  ];
}

const isBranch = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

// [path, in force, would be] of every parameter that is not the same, and of every method that only one of them
// has, with all its parameters; undefined where there is none.
export function differences(inForce, wouldBe, path = "") {
  if (!isBranch(inForce) || !isBranch(wouldBe)) return JSON.stringify(inForce) === JSON.stringify(wouldBe) ? [] : [[path, inForce, wouldBe]];
  const names = new Set([...Object.keys(inForce), ...Object.keys(wouldBe)]);
  return [...names].flatMap((name) => differences(inForce[name] ?? undefined, wouldBe[name] ?? undefined, path ? `${path}.${name}` : name));
}

// A parameter, or a method's parameters, in one line.
export function inWords(value) {
  if (value === undefined) return "–";
  if (!isBranch(value)) return typeof value === "string" ? value : JSON.stringify(value);
  const words = Object.entries(value).map(([name, inner]) => (isBranch(inner) ? `${name} (${inWords(inner)})` : `${name} ${inWords(inner ?? undefined)}`));
  return words.join(", ") || "no parameters";
}

// Nested settings as nested definition lists.
function tree(value) {
  if (value === null || typeof value !== "object") return h("code", {}, String(value));
  if (Array.isArray(value)) return h("code", {}, JSON.stringify(value));
  const entries = Object.entries(value);
  if (entries.length === 0) return h("span", { class: "quiet-text" }, "no parameters");
  return h("dl", { class: "tree" }, entries.map(([name, inner]) => h("div", {}, h("dt", {}, name), h("dd", {}, tree(inner)))));
}
