// Asks for a token, which then lies in a cookie that this script cannot read.

import { ApiError, forgetSession, openSession } from "../api.js";
import { fill, h, setText } from "../dom.js";

// The form in place of whatever the page shows. Signing in loads the page anew, now with its data.
export function showSignIn(main) {
  const field = h("input", { type: "password", id: "token", name: "token", autocomplete: "current-password", required: true, spellcheck: "false" });
  const complaint = h("p", { class: "complaint", role: "alert" });
  const button = h("button", { type: "submit" }, "Sign in");
  const form = h(
    "form",
    { class: "panel hero sign-in" },
    h("h1", {}, "Sign in"),
    h("p", {}, "This service shows its curricula to those who have a token. Whoever runs it makes one with ", h("code", {}, "sampler-service tokens create"), "."),
    h("label", { for: "token" }, "Token"),
    field,
    button,
    complaint,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await openSession(field.value.trim());
      location.reload();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setText(complaint, error.message);
      field.select();
    } finally {
      button.disabled = false;
    }
  });
  document.title = "Sign in";
  fill(main, form);
  field.focus();
}

// Shows who is signed in, where the service asks for it.
export function setUpSignOut(button, session) {
  if (!session.authentication) return;
  button.hidden = false;
  button.title = `${session.name} (${session.role})`;
  button.addEventListener("click", async () => {
    await forgetSession();
    location.assign("/");
  });
}
