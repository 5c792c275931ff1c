/** Which theme the page shows. */

import { element } from "./dom.js";

/** Return the background of the page and whether it is dark. */
export function background(style) {
  const colour = style.getPropertyValue("--st-background-color").trim() || "#ffffff";
  return { colour, dark: luminance(colour) < 0.5 };
}

function luminance(colour) {
  const canvas = luminance.canvas ??= element("canvas", { width: "1", height: "1" }).getContext("2d", { willReadFrequently: true });
  canvas.fillStyle = "#ffffff";
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}
