// How fast rollouts come back, by the log's own times.

const window = 10;
const idleMillis = 10 * 60_000;

// When the last rollouts came, if that is long ago: the rate is that of then.
export function idleSince({ history }) {
  const last = history?.rollouts.findLastIndex((rollouts) => rollouts > 0) ?? -1;
  if (last < 0) return null;
  const time = new Date(1000 * history.times_seconds[last]);
  return Date.now() - time.getTime() > idleMillis ? time : null;
}

// Over the last points of training, up to the newest event; null while there is no stretch of time to measure.
export function rolloutsPerMinute({ history }) {
  const points = history?.times_seconds.length ?? 0;
  if (points < 2) return null;
  const first = Math.max(0, points - 1 - window);
  const seconds = history.times_seconds[points - 1] - history.times_seconds[first];
  const rollouts = history.rollouts.slice(first + 1).reduce((sum, n) => sum + n, 0);
  return seconds > 0 ? (60 * rollouts) / seconds : null;
}
