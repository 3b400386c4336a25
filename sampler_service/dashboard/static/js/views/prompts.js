// Prompts: search, filter, sort, page; one prompt's state in a dialog with an address of its own.

import { fill, h, setText } from "../dom.js";
import { getJson, paths } from "../api.js";
import { compact, counted, dash, fixed, integer } from "../format.js";
import { showPrompt } from "./prompt.js";

const pageSize = 25;
// Name, and the column of the API that it is sorted by.
const columns = [
  ["prompt"],
  ["cluster"],
  ["pass rate", "pass_rate"],
  ["± sd", "pass_rate_stddev"],
  ["groups", "visits"],
  ["rollouts", "rollouts"],
  ["last version", "last_policy_version"],
  ["state"],
];
const orders = columns.flatMap(([, column]) => (column ? [column, `${column} desc`] : []));

export function promptsPanel(id, url) {
  const field = (name, attributes) => h("input", { name, autocomplete: "off", value: url.get(name), ...attributes });
  const search = field("contains", { type: "search", placeholder: "part of a prompt's id" });
  const low = field("min", { type: "number", min: "0", max: "1", step: "any", placeholder: "0" });
  const high = field("max", { type: "number", min: "0", max: "1", step: "any", placeholder: "1" });
  // The linked cluster is there before the summary names the others: the first page is loaded with it.
  const linkedCluster = url.get("cluster");
  const cluster = h("select", { name: "cluster" }, h("option", { value: "" }, "all"), linkedCluster ? h("option", { value: linkedCluster, selected: true }, linkedCluster) : null);
  const status = h("p", { class: "note", role: "status" });
  const host = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Prompts" });
  const previous = h("button", { type: "button", disabled: true, onclick: () => turn(-1) }, "Previous");
  const next = h("button", { type: "button", disabled: true, onclick: () => turn(1) }, "Next");
  const download = h("a", { class: "quiet", download: true }, "CSV of all that match");
  const parquet = h("a", { class: "quiet", download: true }, "Parquet of all that match");
  let order = orders.includes(url.get("sort")) ? url.get("sort") : "";
  const form = h(
    "form",
    { class: "filters", role: "search", onsubmit: onSubmit },
    h("label", {}, "Search", search),
    h("label", {}, "Pass rate from", low),
    h("label", {}, "to", high),
    h("label", {}, "Cluster", cluster),
    h("button", { type: "submit" }, "Apply"),
    h("button", { type: "button", class: "quiet", onclick: onClear }, "Clear"),
  );
  const root = h("section", { class: "card wide", id: "prompts", "aria-label": "Prompts" }, form, status, host, h("div", { class: "pager" }, previous, next, h("span", { class: "grow" }), download, parquet));
  let tokens = [""];
  let nextToken = "";
  let asked = 0;
  let knownClusters = "";

  function filters() {
    return { contains: search.value, min_pass_rate: low.value, max_pass_rate: high.value, cluster: cluster.value };
  }

  // Largest first, then smallest first, then as they were added.
  function sortBy(column) {
    order = order === `${column} desc` ? column : order === column ? "" : `${column} desc`;
    url.set("sort", order);
    tokens = [""];
    load(column);
  }

  function head([name, column], i) {
    const number = i > 1 && i < 7 ? "number" : null;
    if (!column) return h("th", { scope: "col", class: number }, name);
    const [by, down] = order.split(" ");
    const sorted = by !== column ? "none" : down ? "descending" : "ascending";
    const mark = { none: "", descending: " ▼", ascending: " ▲" }[sorted];
    return h(
      "th",
      { scope: "col", class: number, "aria-sort": sorted },
      h("button", { type: "button", class: "sort", "data-sort": column, onclick: () => sortBy(column) }, name, h("span", { "aria-hidden": "true" }, mark)),
    );
  }

  async function load(focusOn = "") {
    const mine = (asked += 1);
    host.setAttribute("aria-busy", "true");
    download.href = paths.promptsFile(id, "csv", { ...filters(), order_by: order });
    parquet.href = paths.promptsFile(id, "parquet", { ...filters(), order_by: order });
    try {
      const page = await getJson(paths.prompts(id, { ...filters(), order_by: order, page_size: pageSize, page_token: tokens.at(-1) }));
      if (mine !== asked) return;
      nextToken = page.next_page_token;
      draw(page);
      // The heads were drawn anew: the keyboard stays where it was.
      if (focusOn) host.querySelector(`[data-sort="${focusOn}"]`)?.focus();
    } catch (error) {
      if (mine === asked) setText(status, error.message);
    } finally {
      host.removeAttribute("aria-busy");
    }
  }

  function draw(page) {
    const count = page.prompt_ids.length;
    previous.disabled = tokens.length === 1;
    next.disabled = !nextToken;
    if (count === 0) {
      setText(status, Object.values(filters()).some((value) => value !== "") ? "No prompt passes this filter." : "This curriculum has no prompts yet.");
      fill(host);
      return;
    }
    setText(status, `Page ${tokens.length}, ${counted(count, "prompt")}, as of the moment it was loaded.`);
    fill(
      host,
      h(
        "table",
        {},
        h("caption", { class: "hidden" }, "Prompts and their state"),
        h("thead", {}, h("tr", {}, columns.map(head))),
        h("tbody", {}, page.prompt_ids.map((promptId, i) => row(page, promptId, i))),
      ),
    );
  }

  function row(page, promptId, i) {
    const seen = page.visits[i] > 0;
    const open = h("button", { type: "button", class: "link", onclick: () => choose(promptId) }, promptId || "(empty id)");
    return h(
      "tr",
      { "data-prompt": promptId },
      h("th", { scope: "row" }, open),
      h("td", {}, page.clusters[i] || dash),
      h("td", { class: "number" }, h("span", { class: "cell-bar", vars: { "--v": page.pass_rates[i] ?? 0 } }, fixed(page.pass_rates[i]))),
      h("td", { class: "number" }, fixed(page.pass_rate_stddevs[i])),
      h("td", { class: "number" }, compact(page.visits[i])),
      h("td", { class: "number" }, compact(page.rollouts[i])),
      h("td", { class: "number" }, seen ? integer(page.last_policy_versions[i]) : dash),
      h("td", {}, page.in_flight[i] ? "in flight" : seen ? "seen" : "unseen"),
    );
  }

  function choose(promptId) {
    url.set("prompt", promptId);
    showPrompt(id, promptId, () => url.set("prompt", null));
  }

  function turn(by) {
    if (by > 0) tokens.push(nextToken);
    else tokens.pop();
    load();
  }

  function onSubmit(event) {
    event.preventDefault();
    for (const input of [search, low, high, cluster]) url.set(input.name, input.value);
    tokens = [""];
    load();
  }

  function onClear() {
    for (const input of [search, low, high, cluster]) input.value = "";
    form.requestSubmit();
  }

  return {
    root,
    load() {
      load();
      const linked = url.get("prompt");
      if (linked !== null) choose(linked);
    },
    // Keeps the choice of clusters in step with the summary.
    update(summary) {
      const names = summary.clusters.map((c) => c.cluster).filter((name) => name).sort();
      const chosen = cluster.value;
      if (chosen && !names.includes(chosen)) names.push(chosen);
      if (names.join("\n") === knownClusters) return;
      knownClusters = names.join("\n");
      fill(cluster, h("option", { value: "" }, "all"), names.map((name) => h("option", { value: name, selected: name === chosen }, name)));
    },
  };
}
