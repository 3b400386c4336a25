// The figures on top: where the curriculum stands, in one row.

import { h, setText } from "../dom.js";
import { compact, day, fixed, integer, percent, share } from "../format.js";
import { idleSince, rolloutsPerMinute } from "../charts/rate.js";

const definitions = [
  ["prompts", "Prompts", (s) => compact(s.prompts), (s) => (s.prompts > 0 ? `${share(s.prompts_seen, s.prompts)} seen` : "none added yet")],
  ["ratio", "Effective-prompt ratio", (s) => (s.groups > 0 ? percent(s.effective_prompt_ratio) : "–"), (s) => (s.groups > 0 ? `${compact(s.mixed_groups)} of ${compact(s.groups)} groups mixed` : "no group finished")],
  ["rate", "Rollouts per minute", (s) => compact(rolloutsPerMinute(s)), (s) => rateDetail(s)],
  ["spent", "Rollouts spent", (s) => compact(s.rollouts_spent), (s) => (s.rollouts_spent > 0 ? `${share(s.exploration_rollouts, s.rollouts_spent)} exploration` : "none reported yet")],
  ["wasted", "Wasted", (s) => share(s.rollouts_wasted, s.rollouts_spent), (s) => (s.rollouts_spent > 0 ? `${compact(s.rollouts_wasted)} rollouts` : "in groups all alike")],
  ["saved", "Saved vs uniform", (s) => (s.groups > 0 ? `≈ ${compact(s.rollouts_saved)}` : "–"), () => "rollouts, an estimate"],
  ["leases", "Live leases", (s) => integer(s.leases.length), (s) => `${compact(s.prompts_in_flight)} prompts in flight`],
  ["policy", "Policy version", (s) => integer(s.policy_version), (s) => `iteration ${integer(s.iteration)}`],
];

function rateDetail(summary) {
  const last = rolloutsPerMinute(summary) === null ? null : idleSince(summary);
  if (last) return `until ${day(last)}`;
  return summary.lag_seconds === null ? "" : `this replica lags ${fixed(summary.lag_seconds, 1)} s`;
}

export function figures() {
  const tiles = definitions.map(([name, label, value, detail]) => {
    const big = h("dd", { class: "value" });
    const small = h("dd", { class: "detail" });
    return { root: h("div", { class: "figure", "data-figure": name }, h("dt", {}, label), big, small), big, small, value, detail };
  });
  return {
    root: h("dl", { class: "figures" }, tiles.map((tile) => tile.root)),
    update(summary) {
      for (const { big, small, value, detail } of tiles) {
        setText(big, value(summary));
        setText(small, detail(summary));
      }
    },
  };
}
