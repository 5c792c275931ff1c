/** The points of one series: columns of buckets of steps, as trainvitals.api.curves.Curve has them.

`step` and `last` are the first and last step of each bucket, `mean`, `min` and `max` are over its
finite values (null without one), `count` is their number and `bad` the number of non-finite ones. */

const COLUMNS = ["step", "last", "mean", "min", "max", "count", "bad"];
/** A live series above this length is merged to about half of it. */
export const POINTS_MAX = 1600;
/** A distance more than this many times larger than both adjacent distances is a gap. */
const GAP_FACTOR = 4;

/** Return columns from what Python sends; columns that follow from others are not sent.

A live update has arrays in the order of COLUMNS, without their names. */
export function unpack(given) {
  const sent = Array.isArray(given) ? Object.fromEntries(COLUMNS.map((name, i) => [name, given[i]])) : given;
  const n = sent.step.length;
  return {
    step: sent.step.slice(),
    last: (sent.last ?? sent.step).slice(),
    mean: sent.mean.slice(),
    min: (sent.min ?? sent.mean).slice(),
    max: (sent.max ?? sent.mean).slice(),
    count: sent.count?.slice() ?? sent.mean.map((v) => (v === null ? 0 : 1)),
    bad: sent.bad?.slice() ?? new Array(n).fill(0),
  };
}

/** Append the buckets of `more` that begin after the last step of `points`, in place. */
export function append(points, more) {
  const end = points.last.at(-1) ?? -1;
  for (let i = 0; i < more.step.length; i += 1) {
    if (more.step[i] > end) for (const name of COLUMNS) points[name].push(more[name][i]);
  }
}

/** Return the points with adjacent buckets merged in pairs, never across a gap.

The mean stays exact because it is weighted by the number of finite values. */
export function halved(points, dropped) {
  const broken = gaps(points, dropped);
  const made = Object.fromEntries(COLUMNS.map((name) => [name, []]));
  for (let i = 0; i < points.step.length; i += 1) {
    const pair = i + 1 < points.step.length && !broken.has(i + 1);
    for (const [name, value] of Object.entries(pair ? merged(points, i, i + 1) : bucket(points, i))) {
      made[name].push(value);
    }
    if (pair) i += 1;
  }
  return made;
}

function bucket(p, i) {
  return Object.fromEntries(COLUMNS.map((name) => [name, p[name][i]]));
}

function merged(p, i, j) {
  const count = p.count[i] + p.count[j];
  const sum = (p.mean[i] ?? 0) * p.count[i] + (p.mean[j] ?? 0) * p.count[j];
  return {
    step: p.step[i],
    last: p.last[j],
    mean: count ? sum / count : null,
    min: least(p.min[i], p.min[j], Math.min),
    max: least(p.max[i], p.max[j], Math.max),
    count,
    bad: p.bad[i] + p.bad[j],
  };
}

function least(a, b, choose) {
  if (a === null || b === null) return a ?? b;
  return choose(a, b);
}

/** Return the indices of buckets that follow a gap.

A gap is an interval that the training process reported as dropped, or a distance much larger than
the distances before and after it. At a change of cadence only one of the two is smaller. */
export function gaps(points, dropped = []) {
  const { step, last } = points;
  const found = new Set();
  for (let i = 1; i < step.length; i += 1) {
    const distance = step[i] - last[i - 1];
    if (dropped.some((d) => last[i - 1] < d.first && d.last < step[i])) found.add(i);
    else if (i > 1 && i + 1 < step.length) {
      const usual = Math.max(step[i - 1] - last[i - 2], step[i + 1] - last[i], 1);
      if (distance > GAP_FACTOR * usual) found.add(i);
    }
  }
  return found;
}

/** Return the means after a debiased exponential moving average; weight 0 to 1, 0 is unchanged.

Restarts after a gap. Source: Kingma & Ba, "Adam", 2015, section 3 (correction of the bias). */
export function smoothed(points, weight, broken) {
  if (!weight) return points.mean;
  let average = 0;
  let mass = 0;
  return points.mean.map((value, i) => {
    if (broken.has(i)) average = mass = 0;
    if (value === null) return null;
    average = weight * average + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return average / mass;
  });
}

/** Return the middle of each bucket: where it is drawn. */
export function middles(points) {
  return points.step.map((first, i) => (first + points.last[i]) / 2);
}

/** Return the index of the bucket nearest to `step`, -1 without buckets. */
export function nearest(points, step) {
  let low = 0;
  let high = points.step.length - 1;
  if (high < 0) return -1;
  while (low < high) {
    const half = (low + high) >> 1;
    if (points.last[half] < step) low = half + 1;
    else high = half;
  }
  const before = low > 0 ? step - points.last[low - 1] : Infinity;
  return Math.max(points.step[low] - step, 0) <= before ? low : low - 1;
}
