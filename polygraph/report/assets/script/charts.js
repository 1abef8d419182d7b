// What the charts share, and the shares of vertices within an error.
import { escapeText, finite, open, plural, plusMinus, show } from "./format.js";
import { $, FAMILY, FONT, FRAME, GRID, INK, make, SOFT, view } from "./page.js";

export const CONFIG = { displayModeBar: false, responsive: true };

export function layout(x, y, more = {}) {
  const axis = {
    gridcolor: GRID,
    zeroline: false,
    linecolor: FRAME,
    ticks: "outside",
    tickcolor: FRAME,
    ticklen: 4,
    title: { standoff: 10 },
    automargin: true,
  };
  return {
    font: { family: FONT, size: 12.5, color: SOFT },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 58, r: 14, t: 10, b: 48 },
    hoverlabel: { font: { family: FONT, size: 12.5 }, bgcolor: "#fff", bordercolor: FRAME, align: "left" },
    legend: {
      orientation: "h",
      y: 1.02,
      yanchor: "bottom",
      x: 0,
      font: { size: 12.5, color: INK },
      itemsizing: "constant",
    },
    xaxis: { ...axis, ...x, title: { text: x.title, standoff: 10 } },
    yaxis: { ...axis, ...y, title: { text: y.title, standoff: 8 } },
    ...more,
  };
}

export function missingNote(id, models, what, beyond = []) {
  const lines = [];
  if (beyond.length)
    lines.push(`Beyond the picture: ${beyond.map((m) => `${m.name} (${show(m.mean_mm.mean, "mm")} mm)`).join(", ")}.`);
  if (models.length) lines.push(`Not drawn, having no finite ${what}: ${models.map((m) => m.name).join(", ")}.`);
  $(id).textContent = lines.join(" ");
}

const FAR = 3;

function middle(values) {
  const ordered = [...values].sort((a, b) => a - b);
  return ordered[Math.floor((ordered.length - 1) / 2)];
}

export function extent(models) {
  // A model that went astray must not press all others flat: it leaves through the top, and is named.
  const there = models.filter((m) => finite(m.mean_mm.mean));
  if (!there.length) return { range: undefined, beyond: [] };
  const limit = FAR * middle(there.map((m) => m.mean_mm.mean));
  const inside = there.filter((m) => m.mean_mm.mean <= limit);
  const low = Math.min(...inside.map((m) => m.mean_mm.mean - Math.min(m.mean_mm.std || 0, limit))),
    high = Math.max(...inside.map((m) => Math.min(m.mean_mm.mean + (m.mean_mm.std || 0), limit)));
  const room = 0.08 * (high - low) || 0.1 * high || 1;
  return { range: [Math.max(0, low - 1.5 * room), high + room], beyond: there.filter((m) => !inside.includes(m)) };
}

export function hover(model) {
  const std = finite(model.mean_mm.std) ? ` ± ${plusMinus(model.mean_mm)}` : "";
  const error = `${show(model.mean_mm.mean, "mm")}${std} mm`;
  return `<b>${escapeText(model.name)}</b><br>${error}<br>${plural(model.runs.length, "seed")}`;
}

export function drawLegend() {
  const there = Object.entries(FAMILY).filter(([family]) => view().models.some((m) => m.family === family && m.latent));
  const marks = there.map(([, style]) => {
    const dot = make("i", { class: "dot" });
    dot.style.background = style.color;
    return make("span", {}, dot, style.label);
  });
  if (view().models.some(open)) {
    const dot = make("i", { class: "dot open" });
    dot.style.borderColor = SOFT;
    marks.push(make("span", {}, dot, "no activations"));
  }
  $("families").replaceChildren(...marks);
}

export function drawCumulative() {
  const models = view().models; // the lowest error first
  const traces = [],
    left = [],
    shown = [];
  for (const model of models) {
    const x = [],
      y = [];
    model.quantiles.forEach((value, percent) => {
      if (finite(value)) {
        x.push(value);
        y.push(percent);
      }
    });
    if (!x.length) {
      left.push(model);
      continue;
    }
    const style = FAMILY[model.family];
    if (model.latent && model.family !== "linear") shown.push(x[Math.min(x.length - 1, 97)]);
    const depth = model.order || 1;
    traces.push({
      type: "scatter",
      mode: "lines",
      name: escapeText(model.name),
      x,
      y,
      visible: model.latent ? true : "legendonly",
      line: {
        color: style.color,
        width: model.family === "first-order" ? 2.4 : 1 + 0.5 * depth,
        dash: open(model) ? "dash" : model.family === "linear" ? "dot" : "solid",
      },
      opacity: 0.9,
      hovertemplate: `<b>${escapeText(model.name)}</b><br>%{y} % of vertices within %{x:.2f} mm<extra></extra>`,
    });
  }
  missingNote("cumulative-note", left, "quantiles over all seeds");
  const end = shown.length ? Math.max(...shown.filter((x) => x <= FAR * middle(shown))) : undefined;
  Plotly.react(
    "cumulative",
    traces,
    layout(
      { title: "vertex error in mm", range: end ? [0, end] : undefined, rangemode: "tozero" },
      { title: "vertices in %", range: [0, 101] },
      {
        legend: { orientation: "v", x: 1.01, y: 1, font: { size: 12, color: INK }, itemsizing: "trace" },
        margin: { l: 58, r: 10, t: 8, b: 48 },
      },
    ),
    CONFIG,
  );
}
