// The strategy in force, every part and parameter spelt out, and the way to change it for those who may.

import { fill, h } from "../dom.js";
import { day } from "../format.js";
import { strategyEditor } from "./strategy-editor.js";
import { spellOut } from "./strategy-parts.js";

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
      fill(host, spellOut(strategy, [["Created", day(curriculum.create_time)]]));
    },
  };
  return panel;
}
