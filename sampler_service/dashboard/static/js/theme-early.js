// Runs before the first paint, so that a chosen theme does not flash the other one.
(() => {
  let saved = null;
  try {
    saved = localStorage.getItem("theme");
  } catch {
    // Storage may be denied; the system's preference is then what counts.
  }
  if (saved === "light" || saved === "dark") document.documentElement.dataset.theme = saved;
})();
