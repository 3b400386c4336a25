// The frame around a chart: title, readout, explanation, the numbers as a table, and downloads.

import { h, fill, setText } from "../dom.js";
import { downloadPng } from "./png.js";

// The same numbers as files; what Parquet says better than CSV is types.
export function fileLinks(csv, title) {
  const parquet = csv.replace(/\.csv(?=\?|$)/, ".parquet");
  return [
    [csv, "CSV"],
    [parquet, "Parquet"],
  ].map(([href, kind]) => h("a", { class: "quiet", href, download: true, "aria-label": `Download ${title} as ${kind}` }, kind));
}

// A line's pattern as a background: strokes and gaps in turn, again and again.
function stripes(dash) {
  let from = 0;
  const stops = dash.map((length, i) => {
    const stop = `${i % 2 ? "transparent" : "var(--c)"} ${from}px ${from + length}px`;
    from += length;
    return stop;
  });
  return `repeating-linear-gradient(to right, ${stops.join(", ")})`;
}

export class Card {
  // options: {id, title, explain, csv, wide, height}
  constructor(options) {
    const { id, title } = options;
    this.title = title;
    this.plots = [];
    this.readTable = null;
    const headingId = `${id}-title`;
    this.note = h("p", { class: "note" });
    this.readout = h("output", { class: "readout", "aria-live": "polite" });
    this.empty = h("p", { class: "empty", hidden: true });
    this.body = h("div", { class: "plots" });
    this.legend = h("ul", { class: "legend" });
    this.tableHost = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}: numbers` });
    this.details = h(
      "details",
      { class: "numbers", ontoggle: () => this.refreshTable() },
      h("summary", {}, "Numbers"),
      this.tableHost,
    );
    this.files = options.csv ? fileLinks(options.csv, title) : [];
    this.png = h("button", { class: "quiet", type: "button", onclick: () => downloadPng(this), "aria-label": `Download ${title} as PNG` }, "PNG");
    this.root = h(
      "section",
      { class: options.wide ? "card wide" : "card", id, "data-chart": id, "aria-labelledby": headingId },
      h(
        "header",
        {},
        h("h3", { id: headingId }, title),
        h("span", { class: "grow" }),
        this.files,
        this.png,
      ),
      this.note,
      this.empty,
      this.body,
      h("div", { class: "below" }, this.legend, this.readout),
      h(
        "div",
        { class: "foot" },
        options.explain ? h("details", { class: "explain" }, h("summary", {}, "How to read this"), options.explain.map((text) => h("p", {}, text))) : null,
        this.details,
      ),
    );
    // What is on the canvas, for the console and for tests: one array of columns per plot.
    this.root.plotData = () => this.plots.map((plot) => plot.data);
    this.root.plotDashes = () => this.plots.map((plot) => plot.chart?.series.slice(1).map((one) => one.dash ?? []));
  }

  setNote(text) {
    setText(this.note, text);
  }

  // Entries {color, text, mark}, or {color, text, dash} for a line with a pattern of its own.
  setLegend(entries) {
    fill(
      this.legend,
      entries.map(({ color, text, mark, dash }) => {
        const vars = { "--c": `var(--${color})` };
        if (dash) vars["--dashes"] = stripes(dash);
        return h("li", {}, h("i", { class: dash ? "pattern" : (mark ?? "square"), vars }), text);
      }),
    );
  }

  // Shows why there is nothing to draw; null: there is something.
  setEmpty(text) {
    this.empty.hidden = text === null;
    for (const part of [this.body, this.legend, this.readout, this.details, this.png, ...this.files]) part.hidden = text !== null;
    setText(this.empty, text ?? "");
    this.root.dataset.empty = String(text !== null);
  }

  // `read` builds the table; it is called only while the table is open.
  setTable(read) {
    this.readTable = read;
    if (this.details.open) this.refreshTable();
  }

  refreshTable() {
    if (this.details.open && this.readTable) fill(this.tableHost, this.readTable());
  }
}
