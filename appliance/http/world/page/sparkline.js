// The course of a numeric property as a small line.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 160;
const HEIGHT = 36;

/** For each property with at least two numbers in `events` (newest first): its values, oldest first. */
export function numericSeries(events) {
  const series = new Map();
  for (const event of [...events].reverse()) {
    for (const [name, value] of Object.entries(event.payload?.properties ?? {})) {
      if (typeof value !== "number") continue;
      if (!series.has(name)) series.set(name, []);
      series.get(name).push(value);
    }
  }
  for (const [name, values] of series) if (values.length < 2) series.delete(name);
  return series;
}

/** An SVG line of `values`, with a text for those who do not see it. */
export function sparkline(name, values) {
  const low = Math.min(...values);
  const range = Math.max(...values) - low || 1;
  const points = values.map((value, index) =>
    `${(index / (values.length - 1) * WIDTH).toFixed(1)},${(HEIGHT - 2 - (value - low) / range * (HEIGHT - 4)).toFixed(1)}`);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("class", "spark");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${name}: ${values.length} values from ${low} to ${low + range}`);
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.join(" "));
  svg.append(line);
  return svg;
}
