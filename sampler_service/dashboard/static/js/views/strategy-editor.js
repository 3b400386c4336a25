// Another strategy: from a preset or by hand, checked by the service, which says at which field it is wrong.

import { ApiError, getJson, getPresets, paths, putStrategy } from "../api.js";
import { fill, h, setText, table } from "../dom.js";
import { placeOf } from "./json-place.js";
import { differences, inWords, spellOut } from "./strategy-parts.js";

// The strategy as one would write it: what is not set is left out.
export function asText(strategy) {
  const kept = Object.entries(strategy).filter(([, value]) => value !== null && value !== "");
  return JSON.stringify(Object.fromEntries(kept), null, 2);
}

export function strategyEditor(id, { onSaved }) {
  const preset = h("select", { id: "strategy-preset", onchange: () => takePreset() });
  const text = h("textarea", { id: "strategy-text", rows: "18", spellcheck: "false", autocomplete: "off", "aria-describedby": "strategy-complaint", oninput: () => forgetCheck() });
  const complaint = h("p", { class: "complaint", id: "strategy-complaint", role: "alert" });
  const again = h("button", { type: "button", hidden: true, onclick: () => reload() }, "Take what is in force now");
  const verdict = h("p", { class: "note", role: "status" });
  const checked = h("div", { class: "checked" });
  const check = h("button", { type: "button", onclick: () => send(onCheck) }, "Check");
  const save = h("button", { type: "submit", class: "primary" }, "Put in force");
  const status = h("p", { class: "note", id: "strategy-status", role: "status" });
  const form = h(
    "form",
    { class: "editor", hidden: true, "aria-label": "Change the strategy", onsubmit: (event) => (event.preventDefault(), send(onSave)) },
    h("p", { class: "quiet-text" }, "What has been learnt about the prompts stays. Batches that are out keep their quotas; the next one is drawn by the new strategy."),
    h("label", { for: "strategy-preset" }, "Begin from a preset"),
    preset,
    h("label", { for: "strategy-text" }, "Strategy, as JSON: a preset and what differs from it, or every part"),
    text,
    complaint,
    h("div", { class: "pager" }, save, check, h("button", { type: "button", onclick: () => close() }, "Cancel"), again),
    verdict,
    checked,
  );
  let current = null; // What is in force, as last read.
  let basis = null; // What the text was made from: its etag goes along with the change.
  let presets = {};
  let sent = {}; // The change that was sent last and not answered yet, and its id.

  function begin(curriculum) {
    basis = curriculum;
    text.value = asText(curriculum.strategy);
    preset.value = "";
    complain("");
  }

  function forgetCheck() {
    setText(verdict, "");
    fill(checked);
  }

  function complain(message, field = "") {
    forgetCheck();
    setText(complaint, message);
    text.setAttribute("aria-invalid", String(message !== ""));
    again.hidden = true;
    const place = field.startsWith("strategy.") ? placeOf(text.value, field.slice("strategy.".length)) : null;
    if (!place) return;
    text.focus();
    text.setSelectionRange(place.start, place.end);
    const line = text.value.slice(0, place.start).split("\n").length;
    text.scrollTop = Math.max(0, (line - 4) * (text.scrollHeight / text.value.split("\n").length));
    setText(complaint, `Line ${line}: ${message.includes(field) ? "" : `${field}: `}${message}`);
  }

  async function open() {
    form.hidden = false;
    setText(status, "");
    begin(current);
    text.focus();
    text.setSelectionRange(0, 0);
    try {
      ({ presets } = await getPresets());
      fill(preset, h("option", { value: "" }, "(as it is)"), Object.keys(presets).sort().map((name) => h("option", { value: name }, name)));
    } catch (error) {
      complain(error.message);
    }
  }

  function close() {
    form.hidden = true;
    complain("");
  }

  function takePreset() {
    const chosen = presets[preset.value];
    text.value = asText(chosen ?? basis.strategy);
    complain("");
  }

  async function reload() {
    try {
      current = await getJson(paths.curriculum(id));
      begin(current);
    } catch (error) {
      complain(error.message);
    }
  }

  // What the text says goes to the service, which checks it in either case.
  async function send(onParsed) {
    let strategy;
    try {
      strategy = JSON.parse(text.value);
    } catch (error) {
      complain(`This is not JSON: ${error.message}`);
      return;
    }
    save.disabled = check.disabled = true;
    try {
      await onParsed(strategy);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      complain(error.message, error.field);
      again.hidden = error.reason !== "ETAG_MISMATCH";
    } finally {
      save.disabled = check.disabled = false;
    }
  }

  async function onSave(strategy) {
    // One id per text and basis: a repeat after a lost answer is the same change.
    const asSent = `${basis.etag} ${text.value}`;
    if (sent.what !== asSent) sent = { what: asSent, requestId: newId() };
    const curriculum = await putStrategy(id, { strategy, etag: basis.etag, request_id: sent.requestId });
    sent = {};
    close();
    setText(status, `Put in force: ${curriculum.strategy.preset || "a strategy of its own"}, at revision ${curriculum.revision}.`);
    onSaved(curriculum);
  }

  async function onCheck(strategy) {
    const asSent = text.value;
    const wouldBe = (await putStrategy(id, { strategy, etag: basis.etag, validate_only: true })).strategy;
    if (text.value !== asSent) return; // Written on meanwhile: the answer is about something else.
    complain("");
    const changes = differences(basis.strategy, wouldBe);
    setText(verdict, `Valid: it can be put in force. Nothing has been changed.${changes.length === 0 ? " It is the strategy in force." : ""}`);
    fill(
      checked,
      changes.length > 0 && h("div", { class: "scroll" }, table("What would change", ["parameter", "in force", "would be"], changes.map(([path, ...values]) => [path, ...values.map(inWords)]))),
      h("details", {}, h("summary", {}, "Every part of it spelt out"), spellOut(wouldBe)),
    );
  }

  return {
    root: h("div", {}, status, form),
    open,
    follow(curriculum) {
      current = curriculum;
    },
  };
}

// randomUUID is for secure contexts alone, which a service on a plain address is not.
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
