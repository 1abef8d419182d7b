// Error against order.
import { CONFIG, extent, hover, layout, missingNote } from "./charts.js";
import { escapeText, finite, noActivation } from "./format.js";
import { $, FAMILY, POLYNOMIALS, view } from "./page.js";

function shade(color) {
  const half = [1, 3, 5].map((i) => Math.round(0.55 * parseInt(color.slice(i, i + 2), 16)));
  return `rgb(${half.join(",")})`;
}

function orderLines(models) {
  // One line per family, normalisation and activation; the normalisation is named where there are several.
  const lines = new Map();
  for (const model of models) {
    if (!POLYNOMIALS.includes(model.family) || model.operator !== "spiral") continue;
    const key = [model.family, noActivation(model), model.norm].join(" ");
    if (!lines.has(key))
      lines.set(key, { family: model.family, without: noActivation(model), norm: model.norm, models: [] });
    lines.get(key).models.push(model);
  }
  const all = [...lines.values()].sort(
    (a, b) => POLYNOMIALS.indexOf(a.family) - POLYNOMIALS.indexOf(b.family) || a.without - b.without,
  );
  const counts = {};
  for (const model of all.flatMap((line) => line.models)) counts[model.norm] = (counts[model.norm] || 0) + 1;
  const usual = Object.keys(counts).sort((a, b) => counts[b] - counts[a])[0];
  for (const line of all)
    line.norm = line.norm === usual || line.norm === null ? null : `norm ${line.norm.replaceAll("_", " ")}`;
  return all;
}

export function drawOrder() {
  const now = view();
  const starts = now.models.filter((m) => m.family === "first-order");
  const traces = [],
    left = [];
  const drawn = now.models.filter(
    (m) =>
      (m.family === "linear" && m.latent) ||
      starts.includes(m) ||
      orderLines(now.models).some((line) => line.models.includes(m)),
  );
  const vertical = extent(drawn);
  let shift = 0;
  for (const line of orderLines(now.models)) {
    const { family, without, norm, models: mine } = line;
    const all = [...starts.filter((m) => noActivation(m) === without), ...mine].sort((a, b) => a.order - b.order);
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
  const orders = now.models.filter((m) => ["first-order", ...POLYNOMIALS].includes(m.family)).map((m) => m.order);
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
