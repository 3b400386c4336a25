// The theme switch, and the palette that the canvases read from the style sheet.

const systemDark = matchMedia("(prefers-color-scheme: dark)");

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemDark.matches;
}

function announce(button) {
  button.setAttribute("aria-label", isDark() ? "Switch to light colours" : "Switch to dark colours");
  document.dispatchEvent(new Event("themechange"));
}

export function setUpThemeSwitch(button) {
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // Not remembered then; the page is switched all the same.
    }
    announce(button);
  });
  systemDark.addEventListener("change", () => announce(button));
  announce(button);
}

const names = ["ink", "muted", "grid", "surface", "blue", "sky", "orange", "green", "grey", "heat-low", "heat-mid", "heat-high"];

// Colours by name, in the theme that is on now.
export function palette() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}
