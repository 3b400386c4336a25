// Summaries as they change: by Server-Sent Events, by polling where those fail, and a plain word on which.

import { ApiError, getJson, paths } from "./api.js";

const pollMillis = 3000;
const retryStreamMillis = 15000;
const longestBackoffMillis = 10000;

// Calls onSummary(summary), onProblem(error) and onState("live" | "polling" | "away" | "gone").
// Returns a function that stops it.
export function watchSummary(id, bins, { onSummary, onProblem, onState }) {
  let source = null;
  let timer = 0;
  let failures = 0;
  let streamFailedAt = -Infinity;
  let stopped = false;

  function later(task, millis) {
    clearTimeout(timer);
    timer = setTimeout(task, millis);
  }

  function fail(error) {
    if (stopped) return;
    onProblem(error);
    if (error.status === 404 || error.status === 400) {
      stop();
      onState("gone");
      return;
    }
    onState("away");
  }

  function openStream() {
    source = new EventSource(paths.stream(id, bins));
    source.addEventListener("summary", (event) => {
      failures = 0;
      onState("live");
      onSummary(JSON.parse(event.data));
    });
    source.addEventListener("problem", (event) => {
      const { code, reason, message } = JSON.parse(event.data).error;
      fail(new ApiError(code === "NOT_FOUND" ? 404 : 503, code, reason, message));
    });
    source.addEventListener("error", () => {
      // The browser would reconnect by itself, but not tell a missing curriculum from a missing service.
      source.close();
      source = null;
      streamFailedAt = performance.now();
      poll();
    });
  }

  async function poll() {
    if (stopped) return;
    try {
      const summary = await getJson(paths.summary(id, bins));
      if (stopped) return;
      const wasAway = failures > 0;
      failures = 0;
      onState("polling");
      onSummary(summary);
      if (wasAway || performance.now() - streamFailedAt > retryStreamMillis) later(openStream, 0);
      else later(poll, pollMillis);
    } catch (error) {
      failures += 1;
      fail(error);
      if (!stopped) later(poll, Math.min(longestBackoffMillis, 1000 * 2 ** Math.min(failures - 1, 4)));
    }
  }

  function stop() {
    stopped = true;
    clearTimeout(timer);
    source?.close();
    source = null;
  }

  openStream();
  return stop;
}
