/** The words and the small curve of a row of the table of runs. Pure functions. */

const LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const UNITS = [["d", 86400], ["h", 3600], ["min", 60]];

/** Return the age of a time in words, as trainvitals.api.wording.ago. Both in seconds. */
export function ago(at, now) {
  const age = Math.max(0, Math.floor(now - at));
  for (const [unit, size] of UNITS) if (age >= size) return `${Math.floor(age / size)} ${unit} ago`;
  return age < 2 ? "just now" : `${age} s ago`;
}

/** Return the paths of a curve of one character per point ("." for a gap), and its last point. */
export function spark(text, width, height, margin) {
  const paths = [];
  let path = "";
  let end = null;
  [...text].forEach((letter, i) => {
    const level = LEVELS.indexOf(letter);
    if (level < 0) {
      if (path) paths.push(path);
      path = "";
      return;
    }
    const x = margin + (width - 2 * margin) * i / Math.max(1, text.length - 1);
    const y = height - margin - (height - 2 * margin) * level / (LEVELS.length - 1);
    path += `${path ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    end = [x, y];
  });
  if (path) paths.push(path);
  return { paths, end };
}

/** Return the counts that are not zero, worst first: [severity, sign and number, words]. */
export function counts(errors, warnings, infos) {
  return [["error", "✖", errors, "error"], ["warning", "▲", warnings, "warning"], ["info", "●", infos, "note"]]
    .filter(([, , count]) => count > 0)
    .map(([severity, sign, count, word]) => [severity, `${sign} ${count}`, `${count} ${word}${count === 1 ? "" : "s"}`]);
}
