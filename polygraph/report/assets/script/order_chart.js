// Error against order.
import { CONFIG, extent, hover, layout, missingNote } from "./charts.js";
import { escapeText, finite } from "./format.js";
import { $, FAMILY, view } from "./page.js";

function shade(color) {
  const half = [1, 3, 5].map((i) => Math.round(0.55 * parseInt(color.slice(i, i + 2), 16)));
  return `rgb(${half.join(",")})`;
}

function orderLines() {
  // Which models belong to one line is decided where all charts ask: polygraph/report/order_lines.py.
  const named = (name) => view().models.find((m) => m.name === name);
  return view().order_lines.map(({ family, without, norm, models }) => ({
    family,
    without,
    norm: norm === null ? null : `norm ${norm.replaceAll("_", " ")}`,
    models: models.map(named),
  }));
}

export function drawOrder() {
  const now = view();
  const orderly = orderLines();
  const traces = [],
    left = [];
  const drawn = now.models.filter(
    (m) => (m.family === "linear" && m.latent) || orderly.some((line) => line.models.includes(m)),
  );
  const vertical = extent(drawn);
  let shift = 0;
  for (const { family, without, norm, models: all } of orderly) {
    const there = all.filter((m) => finite(m.mean_mm.mean));
    left.push(...all.filter((m) => !there.includes(m) && !left.includes(m)));
    const style = FAMILY[family],
      color = norm ? shade(style.color) : style.color;
    const name = escapeText([style.label, norm, without ? "no activations" : null].filter(Boolean).join(", "));
    const offset = 0.03 * (shift++ - 2.5);
    traces.push({
      type: "scatter",
      mode: "lines+markers",
      name,
      x: there.map((m) => m.order + offset),
      y: there.map((m) => m.mean_mm.mean),
      error_y: {
        type: "data",
        array: there.map((m) => (vertical.beyond.includes(m) ? 0 : m.mean_mm.std || 0)),
        thickness: 1.4,
        width: 4,
        color,
      },
      line: { color, width: 2, dash: without ? "dash" : "solid" },
      marker: { color: without ? "#fff" : color, line: { color, width: 2 }, size: 9, symbol: style.symbol },
      text: there.map(hover),
      hovertemplate: "%{text}<extra></extra>",
      legendgroup: name,
    });
    const seeds = all.flatMap((m) => m.mean_mm.values.filter(finite).map((value) => [m.order + offset, value]));
    traces.push({
      type: "scatter",
      mode: "markers",
      x: seeds.map((s) => s[0]),
      y: seeds.map((s) => s[1]),
      marker: { color, size: 4, opacity: 0.4 },
      hoverinfo: "skip",
      showlegend: false,
      legendgroup: name,
    });
  }
  const orders = orderly.flatMap((line) => line.models).map((m) => m.order);
  const range = [Math.min(1, ...orders) - 0.3, Math.max(2, ...orders) + 0.3];
  const lines = now.models.filter((m) => m.family === "linear" && finite(m.mean_mm.mean) && m.latent);
  for (const model of lines)
    traces.push({
      type: "scatter",
      mode: "lines",
      name: escapeText(model.name.toUpperCase()),
      x: range,
      y: [model.mean_mm.mean, model.mean_mm.mean],
      line: { color: FAMILY.linear.color, width: 1.5, dash: "dot" },
      hovertemplate: `${escapeText(model.name)}: %{y:.2f} mm<extra></extra>`,
    });
  $("order-section").hidden = !traces.length;
  missingNote("order-note", left, "error over all seeds", vertical.beyond);
  if (traces.length)
    Plotly.react(
      "order",
      traces,
      layout(
        { title: "order", range, tickvals: [1, 2, 3, 4, 5, 6], showgrid: false },
        { title: "mean vertex error in mm", range: vertical.range },
        { margin: { l: 58, r: 14, t: 34, b: 48 } },
      ),
      CONFIG,
    );
}
