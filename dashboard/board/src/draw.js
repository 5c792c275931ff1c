/** What is drawn on the canvas beside uPlot's lines: ranges, gaps, non-finite values and marks. */

import { element } from "./dom.js";
import { heightOf } from "./scale.js";

/** Height of the lane above the plot that holds the names of marks, in CSS pixels. */
export const LANE = 18;
const NAMES_APART = 6;

/** Draw intervals without records (hatched where unexplained) and buckets with non-finite values. */
export function underlay(u, chart) {
  const { ctx } = u;
  clipped(u, () => {
    ctx.fillStyle = chart.colours.gap;
    for (const d of chart.dropped) column(u, d.first, Math.max(d.last, d.first + 1));
    for (const series of chart.series) {
      const { points, broken } = series;
      ctx.fillStyle = chart.hatch(ctx);
      for (const i of broken) {
        const [from, to] = [points.last[i - 1], points.step[i]];
        if (!chart.dropped.some((d) => d.first <= to && d.last >= from)) column(u, from, to);
      }
      ctx.fillStyle = `${chart.colours.severity.error}40`;
      points.bad.forEach((bad, i) => bad && column(u, points.step[i], points.last[i], 3));
    }
  });
}

/** Draw the range from min to max of each bucket; a spike of one step stays visible at any zoom. */
export function bands(u, chart) {
  const { ctx } = u;
  clipped(u, () => {
    for (const { points, colour } of chart.series) {
      ctx.fillStyle = `${colour}48`;
      for (let i = 0; i < points.step.length; i += 1) {
        if (points.count[i] < 2 || points.min[i] === points.max[i]) continue;
        const top = heightOf(points.max[i], chart.log);
        if (top === null) continue;
        const bottom = heightOf(points.min[i], chart.log);
        const [high, low] = [u.valToPos(top, "y", true), bottom === null ? u.bbox.top + u.bbox.height : u.valToPos(bottom, "y", true)];
        const left = u.valToPos(points.step[i] - 0.5, "x", true);
        const right = u.valToPos(points.last[i] + 0.5, "x", true);
        const width = Math.max(right - left, 1.5 * ratio());
        ctx.fillRect((left + right - width) / 2, high, width, Math.max(low - high, 1));
      }
    }
  });
}

/** Draw the limit, a line at the first step of each finding, and their names in the lane above. */
export function overlay(u, chart) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.font = `${11 * ratio()}px ${chart.colours.font}`;
  if (chart.here !== null) diamond(u, chart);
  if (chart.limit) limit(u, chart);
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  let free = bbox.left;
  for (const mark of chart.lane()) {
    const x = u.valToPos(mark.step, "x", true);
    if (x < bbox.left - 1 || x > bbox.left + bbox.width + 1) continue;
    if (mark.line) {
      ctx.fillStyle = mark.colour;
      ctx.globalAlpha = 0.75;
      ctx.fillRect(Math.round(x), bbox.top - 3 * ratio(), Math.max(1, ratio()), bbox.height + 3 * ratio());
      ctx.globalAlpha = 1;
    }
    const width = ctx.measureText(mark.text).width;
    const left = Math.min(Math.max(x, bbox.left), bbox.left + bbox.width - width);
    // A name that would cover the one before it is left out; the line stays, the list has both.
    if (left < free) continue;
    ctx.fillStyle = mark.colour;
    ctx.fillText(mark.text, left, bbox.top - (LANE / 2 + 2) * ratio());
    free = left + width + NAMES_APART * ratio();
  }
  ctx.restore();
}

function limit(u, chart) {
  const { ctx, bbox } = u;
  const height = heightOf(chart.limit.value, chart.log);
  if (height === null) return;
  const y = u.valToPos(height, "y", true);
  if (y < bbox.top || y > bbox.top + bbox.height) return;
  ctx.strokeStyle = ctx.fillStyle = chart.colours.severity.error;
  ctx.lineWidth = 1.4 * ratio();
  ctx.setLineDash([5 * ratio(), 4 * ratio()]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.setLineDash([]);
  ctx.textAlign = "right";
  const width = ctx.measureText(chart.limit.text).width + 8 * ratio();
  const right = bbox.left + bbox.width;
  const space = 16 * ratio();
  const above = y - bbox.top > space
    && (y + space > bbox.top + bbox.height || behind(u, chart, right - width, y - space, y) <= behind(u, chart, right - width, y, y + space));
  ctx.textBaseline = above ? "bottom" : "top";
  ctx.fillStyle = chart.colours.background;
  ctx.globalAlpha = 0.8;
  ctx.fillRect(right - width, above ? y - 16 * ratio() : y + 2 * ratio(), width, 14 * ratio());
  ctx.globalAlpha = 1;
  ctx.fillStyle = chart.colours.severity.error;
  ctx.fillText(chart.limit.text, right - 4 * ratio(), above ? y - 3 * ratio() : y + 3 * ratio());
}

/** Return the number of points right of `left` and between the heights `top` and `bottom`, in canvas pixels. */
function behind(u, chart, left, top, bottom) {
  let count = 0;
  for (const { points } of chart.series) {
    for (let i = points.step.length - 1; i >= 0 && u.valToPos(points.last[i], "x", true) >= left; i -= 1) {
      const height = heightOf(points.mean[i], chart.log);
      const y = height === null ? -1 : u.valToPos(height, "y", true);
      if (y >= top && y <= bottom) count += 1;
    }
  }
  return count;
}

function diamond(u, chart) {
  const { ctx } = u;
  const points = chart.series[0]?.points;
  const height = points && heightOf(points.mean[points.step.indexOf(chart.here)], chart.log);
  if (height === null || height === undefined) return;
  const [x, y] = [u.valToPos(chart.here, "x", true), u.valToPos(height, "y", true)];
  const size = 8 * ratio();
  ctx.fillStyle = chart.colours.severity.error;
  ctx.beginPath();
  ctx.moveTo(x, y - size);
  ctx.lineTo(x + size, y);
  ctx.lineTo(x, y + size);
  ctx.lineTo(x - size, y);
  ctx.fill();
}

function column(u, first, last, least = 1) {
  const left = u.valToPos(first, "x", true);
  const width = Math.max(u.valToPos(last, "x", true) - left, least * ratio());
  u.ctx.fillRect(left, u.bbox.top, width, u.bbox.height);
}

function clipped(u, draw) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  draw();
  ctx.restore();
}

function ratio() {
  return window.devicePixelRatio || 1;
}

/** Return a pattern of diagonal lines, for what was not measured. */
export function hatched(ctx, colour, size = 8, alpha = 0.45) {
  const tile = element("canvas", { width: `${size}`, height: `${size}` });
  const pen = tile.getContext("2d");
  pen.strokeStyle = colour;
  pen.globalAlpha = alpha;
  pen.beginPath();
  pen.moveTo(0, size);
  pen.lineTo(size, 0);
  pen.stroke();
  return ctx.createPattern(tile, "repeat");
}
