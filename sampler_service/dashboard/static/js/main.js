// Which page this address is, and what surrounds it.

import { h, fill, setText } from "./dom.js";
import { setUpThemeSwitch } from "./theme.js";
import { showOverview } from "./views/overview.js";
import { showCurriculum } from "./views/curriculum.js";

const words = {
  connecting: "Connecting",
  live: "Live",
  polling: "Polling",
  away: "Service away",
  gone: "Not found",
};

// What a view may change outside <main>.
const shell = {
  setTrail(...names) {
    fill(
      document.getElementById("trail"),
      names.map((name) => h("span", { "aria-current": "page" }, name)),
    );
  },
  setConnection(state) {
    const pill = document.getElementById("connection");
    if (pill.dataset.state === state) return;
    pill.dataset.state = state;
    setText(pill, words[state]);
  },
  setBanner(text) {
    const banner = document.getElementById("banner");
    banner.hidden = !text;
    setText(banner, text ?? "");
  },
};

setUpThemeSwitch(document.getElementById("theme"));
const main = document.getElementById("main");
const match = /^\/c\/([^/]+)$/.exec(location.pathname);
if (match) showCurriculum(main, shell, decodeURIComponent(match[1]));
else showOverview(main, shell);
