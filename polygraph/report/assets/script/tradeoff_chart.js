// Error against size or time.
import { CONFIG, extent, hover, layout, missingNote } from "./charts.js";
import { escapeText, finite, open, show } from "./format.js";
import { FAMILY, FRAME, INK, state, view } from "./page.js";

function frontier(points) {
  const ordered = [...points].sort((a, b) => a.x - b.x || a.y - b.y),
    front = [];
  for (const point of ordered) if (!front.length || point.y < front[front.length - 1].y) front.push(point);
  return front;
}

function spreadOut(front, all) {
  // Names of neighbours would lie on each other: the best first, the others where there is room.
  const [xs, ys] = [all.map((p) => Math.log10(p.x)), all.map((p) => p.y)];
  const size = (values) => Math.max(...values) - Math.min(...values) || 1;
  const taken = [];
  for (const point of [...front].sort((a, b) => a.y - b.y)) {
    const free = taken.every(
      (other) =>
        Math.abs(Math.log10(point.x / other.x)) / size(xs) > 0.24 || Math.abs(point.y - other.y) / size(ys) > 0.065,
    );
    if (free) taken.push(point);
  }
  return taken;
}

function spanOf(values, format) {
  if (!values.length) return {};
  const [low, high] = [Math.log10(Math.min(...values)), Math.log10(Math.max(...values))];
  const room = Math.max(0.12, 0.12 * (high - low));
  // Three numbers per decade crowd a scale of several decades.
  return { range: [low - 2 * room, high + room], dtick: high - low > 1.6 ? 1 : "D2", tickformat: format };
}

const KINDS = { parameters: "int", seconds: "s" };

export function drawTradeoff(id, note, key, title, unit) {
  const models = view().models.filter((m) => m.latent);
  const points = models.map((model) => ({
    model,
    x: model[key].mean,
    y: model.mean_mm.mean,
    e: model.mean_mm.std || 0,
  }));
  const there = points.filter((p) => finite(p.x) && finite(p.y) && p.x > 0);
  const vertical = extent(there.map((p) => p.model));
  missingNote(
    note,
    points.filter((p) => !there.includes(p)).map((p) => p.model),
    `${title} or error`,
    vertical.beyond,
  );
  const networks = there.filter((p) => p.model.family !== "linear");
  const front = frontier(networks);
  const named = spreadOut(
    front,
    there.filter((p) => !vertical.beyond.includes(p.model)),
  );
  const traces = [
    {
      type: "scatter",
      mode: "lines",
      x: front.map((p) => p.x),
      y: front.map((p) => p.y),
      line: { color: FRAME, width: 5, shape: "linear" },
      hoverinfo: "skip",
      showlegend: false,
    },
  ];
  for (const [family, style] of Object.entries(FAMILY)) {
    const mine = there.filter((p) => p.model.family === family);
    if (!mine.length) continue;
    traces.push({
      type: "scatter",
      mode: "markers+text",
      name: style.label,
      x: mine.map((p) => p.x),
      y: mine.map((p) => p.y),
      error_y: {
        type: "data",
        array: mine.map((p) => (vertical.beyond.includes(p.model) ? 0 : p.e)),
        thickness: 1.2,
        width: 3,
        color: style.color,
      },
      marker: {
        color: mine.map((p) => (open(p.model) ? "#fff" : style.color)),
        line: { color: style.color, width: 2 },
        size: 10,
        symbol: style.symbol,
      },
      text: mine.map((p) => (named.includes(p) ? escapeText(p.model.name) : "")),
      textposition: "bottom left",
      textfont: { size: 11.5, color: INK },
      cliponaxis: false,
      hovertext: mine.map(
        (p) => `${hover(p.model)}<br>${show(p.x, KINDS[key] || "ms")}${key === "seconds" ? "" : ` ${unit}`}`,
      ),
      hovertemplate: "%{hovertext}<extra></extra>",
    });
  }
  Plotly.react(
    id,
    traces,
    layout(
      {
        title: `${title}${unit && key !== "parameters" ? ` in ${unit}` : ""}`,
        type: "log",
        dtick: "D2",
        exponentformat: "none",
        ...spanOf(
          there.map((p) => p.x),
          key === "parameters" ? "~s" : "~r",
        ),
      },
      { title: "mean vertex error in mm", range: vertical.range },
      { showlegend: false },
    ),
    CONFIG,
  );
}

export const TIMES = {
  inference_1_ms: ["inference, one mesh", "ms"],
  inference_16_ms: ["inference, 16 meshes", "ms"],
  train_step_ms: ["training step", "ms"],
  seconds: ["training", "s"],
};

export function drawTime() {
  const [title, unit] = TIMES[state.time];
  drawTradeoff("time", "time-note", state.time, title, unit);
}
