// From values to places on a line, and the round values worth naming on it.

/** A linear scale. */
export function linear([low, high], [start, end]) {
  const span = high - low || 1;
  return Object.assign((value) => start + ((value - low) / span) * (end - start), { ticks: (count) => linearTicks(low, high, count) });
}

/** A logarithmic scale, of values above 0. */
export function logarithmic([low, high], [start, end]) {
  const along = linear([Math.log(low), Math.log(high)], [start, end]);
  return Object.assign((value) => along(Math.log(value)), { ticks: (count) => logarithmicTicks(low, high, count) });
}

function linearTicks(low, high, count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step); tick * step <= high; tick += 1) ticks.push(tick * step);
  return ticks;
}

/** 1, 2 and 5 of each power of ten that lies inside; where that leaves too few, as a linear scale has them. */
function logarithmicTicks(low, high, count) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1) {
    ticks.push(...[1, 2, 5].map((one) => one * 10 ** power).filter((one) => low <= one && one <= high));
  }
  return ticks.length >= 2 ? ticks : linearTicks(low, high, count);
}
