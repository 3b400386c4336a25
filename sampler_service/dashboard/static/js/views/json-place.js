// Where in a JSON text a path such as quota.knapsack.min stands.

const token = /\s*([{}[\],:]|"(?:[^"\\]|\\.)*"|[^\s{}[\],:"]+)/y;

// {start, end} of the key, or of the nearest one above it; null if not even the first name is there.
export function placeOf(text, path) {
  const wanted = path.replace(/\[(\d+)\]/g, ".$1").split(".");
  let best = null;
  let depth = 0;
  token.lastIndex = 0;

  function next() {
    const match = token.exec(text);
    return match ? { text: match[1], end: token.lastIndex, start: token.lastIndex - match[1].length } : null;
  }

  // `on`: how many of the wanted names lead here; -1 once the way has been left.
  function value(first, on) {
    if (first?.text === "{") {
      for (let key = next(); key && key.text !== "}"; key = next()) {
        if (key.text === ",") continue;
        const name = key.text.startsWith('"') ? JSON.parse(key.text) : key.text;
        const hit = on >= 0 && name === wanted[on];
        if (hit && on + 1 > depth) {
          depth = on + 1;
          best = { start: key.start, end: key.end };
        }
        next(); // The colon.
        value(next(), hit ? on + 1 : -1);
      }
    } else if (first?.text === "[") {
      for (let item = next(); item && item.text !== "]"; item = next()) {
        if (item.text !== ",") value(item, -1);
      }
    }
  }

  value(next(), 0);
  return best;
}
