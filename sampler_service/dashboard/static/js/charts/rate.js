// How fast rollouts come back, by the log's own times.

const window = 10;
const idleMillis = 10 * 60_000;

// Since when nothing has happened to a curriculum, if that is long ago: its rate is that of then.
export function idleSince({ update_time: last }) {
  return last && Date.now() - new Date(last).getTime() > idleMillis ? last : null;
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
