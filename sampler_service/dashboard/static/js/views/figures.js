// The figures on top: where the curriculum stands, in one row.

import { h, setText } from "../dom.js";
import { compact, fixed, integer, percent, share } from "../format.js";
import { rolloutsPerMinute } from "../charts/rate.js";

const definitions = [
  ["prompts", "Prompts", (s) => compact(s.prompts), (s) => `${share(s.prompts_seen, s.prompts)} seen`],
  ["ratio", "Effective-prompt ratio", (s) => (s.groups > 0 ? percent(s.effective_prompt_ratio) : "–"), (s) => `${compact(s.mixed_groups)} of ${compact(s.groups)} groups mixed`],
  ["rate", "Rollouts per minute", (s) => compact(rolloutsPerMinute(s)), (s) => (s.lag_seconds === null ? "" : `this replica lags ${fixed(s.lag_seconds, 1)} s`)],
  ["spent", "Rollouts spent", (s) => compact(s.rollouts_spent), (s) => `${share(s.exploration_rollouts, s.rollouts_spent)} exploration`],
  ["wasted", "Wasted", (s) => share(s.rollouts_wasted, s.rollouts_spent), (s) => `${compact(s.rollouts_wasted)} rollouts`],
  ["saved", "Saved vs uniform", (s) => (s.groups > 0 ? `≈ ${compact(s.rollouts_saved)}` : "–"), () => "rollouts, an estimate"],
  ["leases", "Live leases", (s) => integer(s.leases.length), (s) => `${compact(s.prompts_in_flight)} prompts in flight`],
  ["policy", "Policy version", (s) => integer(s.policy_version), (s) => `iteration ${integer(s.iteration)}`],
];

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
