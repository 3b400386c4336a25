// Numbers and times as people read them. Missing values are a dash.

export const dash = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

const missing = (x) => x === null || x === undefined || !Number.isFinite(x);

// A minus sign, which a hyphen is not.
const signed = (text) => text.replace("-", "−");

export const integer = (x) => (missing(x) ? dash : signed(whole.format(x)));
export const compact = (x) => (missing(x) ? dash : signed((Math.abs(x) < 10_000 ? whole : short).format(x)));
// "1 prompt", "2,048 prompts"
export const counted = (n, noun) => `${integer(n)} ${noun}${n === 1 ? "" : "s"}`;
export const fixed = (x, digits = 3) => (missing(x) ? dash : x.toFixed(digits));
export const percent = (x, digits = 1) => (missing(x) ? dash : `${(100 * x).toFixed(digits)} %`);
export const share = (part, all, digits = 1) => percent(all > 0 ? part / all : NaN, digits);

export function clock(time) {
  if (!time) return dash;
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? dash : date.toLocaleTimeString("en-GB");
}

export function day(time) {
  if (!time) return dash;
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? dash : date.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

export function duration(seconds) {
  if (missing(seconds)) return dash;
  const s = Math.round(Math.abs(seconds));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

export function until(time) {
  if (!time) return dash;
  const seconds = (new Date(time).getTime() - Date.now()) / 1000;
  return seconds >= 0 ? `in ${duration(seconds)}` : `${duration(seconds)} ago`;
}
