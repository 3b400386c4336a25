// Clusters, leases and the account of rollouts: tables that follow the summary.

import { fill, h } from "../dom.js";
import { fileLinks } from "../charts/card.js";
import { compact, dash, fixed, integer, percent, share, until } from "../format.js";

const mostRows = 200;

export function panel(id, title, wide, csv) {
  const host = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title });
  const note = h("p", { class: "note" });
  const root = h(
    "section",
    { class: wide ? "card wide" : "card", id, "aria-labelledby": `${id}-title` },
    h("header", {}, h("h3", { id: `${id}-title` }, title), h("span", { class: "grow" }), csv ? fileLinks(csv, title) : null),
    note,
    host,
  );
  return { root, host, note };
}

const bar = (value, text) => h("span", { class: "cell-bar", vars: { "--v": Math.max(0, Math.min(1, value || 0)) } }, text);

export function rows(caption, heads, body) {
  return h(
    "table",
    {},
    h("caption", { class: "hidden" }, caption),
    h("thead", {}, h("tr", {}, heads.map((head, i) => h("th", { scope: "col", class: i > 0 ? "number" : null }, head)))),
    h("tbody", {}, body.map((cells) => h("tr", {}, cells.map((cell, i) => (i === 0 ? h("th", { scope: "row" }, cell) : h("td", { class: "number" }, cell)))))),
  );
}

export function clustersTable(csv) {
  const { root, host, note } = panel("clusters", "Clusters", true, csv);
  return {
    root,
    update({ clusters }) {
      if (clusters.length === 0) {
        note.textContent = "The prompts carry no cluster labels.";
        fill(host);
        return;
      }
      const shown = [...clusters].sort((a, b) => b.rollouts - a.rollouts || (a.cluster < b.cluster ? -1 : 1)).slice(0, mostRows);
      const rest = clusters.length - shown.length;
      const pool = clusters.reduce((sum, c) => sum + c.prompts, 0);
      note.textContent = `${integer(clusters.length)} clusters, those with the most rollouts first. Weight: share of the rollouts that the last batches granted, beside the share of the pool.` + (rest > 0 ? ` ${integer(rest)} more are in the CSV.` : "");
      fill(
        host,
        rows("Clusters", ["cluster", "prompts", "share of pool", "weight", "pass rate", "mixed groups", "groups", "rollouts"], shown.map((c) => [
          c.cluster || "(none)",
          compact(c.prompts),
          share(c.prompts, pool),
          Number.isFinite(c.recent_share) ? bar(c.recent_share, percent(c.recent_share)) : dash,
          c.groups > 0 ? bar(c.pass_rate, fixed(c.pass_rate, 2)) : dash,
          c.groups > 0 ? bar(c.mixed_groups / c.groups, share(c.mixed_groups, c.groups, 0)) : dash,
          compact(c.groups),
          compact(c.rollouts),
        ])),
      );
    },
  };
}

export function estimatorsTable(csv) {
  const { root, host, note } = panel("estimators", "Estimators", true, csv);
  return {
    root,
    update({ estimators }) {
      if (!estimators || estimators.length === 0) {
        note.textContent = "No prediction has been scored yet.";
        fill(host);
        return;
      }
      note.textContent = "How the predictions of each estimator came out, the last one used first. Brier score and log loss: lower is better; rank correlation: higher.";
      fill(
        host,
        rows("Estimators", ["estimator", "in force", "predictions", "Brier score", "log loss", "rank correlation"], [...estimators].reverse().map((one) => [
          one.estimator,
          one.in_force ? "yes" : "",
          compact(one.calibration.predictions),
          fixed(one.calibration.brier),
          fixed(one.calibration.log_loss),
          Number.isFinite(one.calibration.spearman) ? fixed(one.calibration.spearman) : dash,
        ])),
      );
    },
  };
}

export function leasesTable() {
  const { root, host, note } = panel("leases", "Leases and trainers", true);
  return {
    root,
    update({ leases, policy_version: now }) {
      const trainers = new Set(leases.map((lease) => lease.trainer_id)).size;
      if (leases.length === 0) {
        note.textContent = "No batch is out. A trainer that asks for one appears here until it has reported.";
        fill(host);
        return;
      }
      note.textContent = `${integer(leases.length)} batches out, at ${integer(trainers)} trainers.`;
      fill(
        host,
        rows("Leases", ["trainer", "lease", "rollouts reported", "open prompts", "versions behind", "expires"], leases.slice(0, mostRows).map((lease) => [
          lease.trainer_id || "(unnamed)",
          h("code", {}, lease.lease_id),
          bar(lease.rollouts_granted ? lease.rollouts_reported / lease.rollouts_granted : 0, `${compact(lease.rollouts_reported)} of ${compact(lease.rollouts_granted)}`),
          `${integer(lease.open_prompts)} of ${integer(lease.prompts)}`,
          integer(Math.max(0, now - lease.policy_version)),
          until(lease.expire_time),
        ])),
      );
    },
  };
}

export function accountingTable() {
  const { root, host, note } = panel("accounting", "Not counted as outcomes", true);
  const lines = [
    ["Error", "rollouts_error", "The rollout or its verifier failed."],
    ["Stale", "rollouts_stale", "Sampled from a policy too old."],
    ["Filtered", "rollouts_filtered", "Thrown away by the trainer."],
    ["Truncated", "rollouts_truncated", "Cut at the token limit; these do count."],
    ["Expired leases", "leases_expired", "Batches whose trainer never reported all."],
    ["Repeated requests", "duplicates", "Answered with their first outcome, changed nothing."],
  ];
  note.textContent = "Rollouts set aside, and requests that had no effect.";
  return {
    root,
    update(summary) {
      fill(host, h("dl", { class: "counts" }, lines.map(([name, field, meaning]) => h("div", { "data-count": field }, h("dt", {}, name), h("dd", { class: "value" }, integer(summary[field])), h("dd", { class: "detail" }, meaning)))));
    },
  };
}
