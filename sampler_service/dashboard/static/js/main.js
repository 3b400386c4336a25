// Which page this address is, and what surrounds it.

import { ApiError, readSession } from "./api.js";
import { h, fill, setText } from "./dom.js";
import { setUpThemeSwitch } from "./theme.js";
import { showCompare } from "./views/compare.js";
import { showOverview } from "./views/overview.js";
import { showPromptPage } from "./views/prompt-page.js";
import { showCurriculum } from "./views/curriculum.js";
import { setUpSignOut, showSignIn } from "./views/sign-in.js";

const words = {
  connecting: "Connecting",
  live: "Live",
  polling: "Polling",
  away: "Service away",
  gone: "Not found",
  closed: "Signed out",
};

// What a view may change outside <main>.
const shell = {
  // Names, the last of which is this page's; those before it as [name, href].
  setTrail(...names) {
    fill(
      document.getElementById("trail"),
      names.map((name) => (Array.isArray(name) ? h("span", {}, h("a", { href: name[1] }, name[0])) : h("span", { "aria-current": "page" }, name))),
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
// The credential was revoked or has expired: loaded anew, the page asks for another one.
document.addEventListener("signedout", () => location.reload());

let session = null;
try {
  session = await readSession();
} catch (error) {
  // The view below meets the same and says so.
  if (!(error instanceof ApiError)) throw error;
}
const match = /^\/c\/([^/]+)(\/prompt)?$/.exec(location.pathname);
// As it stands where it is not an encoding of anything: there is no curriculum of that name then.
const named = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};
if (session !== null && !session.signed_in) {
  shell.setConnection("closed");
  showSignIn(main);
} else {
  if (session !== null) setUpSignOut(document.getElementById("sign-out"), session);
  if (match?.[2]) showPromptPage(main, shell, named(match[1]));
  else if (match) showCurriculum(main, shell, named(match[1]), session);
  else if (location.pathname === "/compare") showCompare(main, shell);
  else showOverview(main, shell);
}
