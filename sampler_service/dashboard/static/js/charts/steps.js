// The x axis of everything that runs over training.

// Policy versions where they only rise; else (a restored checkpoint, a trainer that never advances) points in order.
export function stepsOf(history) {
  const versions = history.policy_versions;
  const rising = versions.every((version, i) => i === 0 || version > versions[i - 1]);
  const x = rising ? versions : versions.map((_, i) => i);
  return { x, name: rising ? "policy version" : "point", at: (i) => `policy version ${versions[i]}` };
}

// Half a step of air on both sides, so that bars at the ends are whole.
export const stepScale = {
  time: false,
  range: (chart) => {
    const x = chart.data[0];
    if (x.length === 0) return [0, 1];
    const gap = x.length > 1 ? (x[x.length - 1] - x[0]) / (x.length - 1) : 1;
    return [x[0] - gap / 2, x[x.length - 1] + gap / 2];
  },
};

export const wholeTicks = (_chart, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? String(tick) : ""));
