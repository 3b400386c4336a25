// One hue from the surface's own colour to the strongest: ordered by lightness, so it reads without colour.

const parse = (hex) => [1, 3, 5].map((i) => Number.parseInt(hex.slice(i, i + 2), 16));

// `level` in [0, 1] between the palette's heat-low, heat-mid and heat-high.
export function mix(colors, level) {
  const stops = [colors["heat-low"], colors["heat-mid"], colors["heat-high"]].map(parse);
  const at = Math.max(0, Math.min(1, level)) * 2;
  const low = Math.min(1, Math.floor(at));
  const [a, b] = [stops[low], stops[low + 1]];
  return `rgb(${a.map((value, i) => Math.round(value + (b[i] - value) * (at - low))).join(" ")})`;
}
