// What stands beside the plane: the input, a template, outputs and choices at the pointer.
import { $, make } from "./page.js";
import {
  areaOf,
  choiceAt,
  colors,
  differing,
  distance,
  inputAt,
  names,
  outputsAt,
  picture,
  regions,
  sites,
  templateOf,
} from "./slice_data.js";
import { chosen } from "./slice_map.js";

const CELLS_DRAWN = 20000;
const fixed = (x) => (Math.abs(x) >= 1000 ? x.toExponential(1) : x.toFixed(2)).replace("-", "−");
const signed = (x) => `${x < 0 ? "−" : "+"} ${fixed(Math.abs(x))}`;

function paint(canvas, width, height, colorOf) {
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(width, height);
  for (let n = 0; n < width * height; n++) {
    const [red, green, blue] = colorOf(n);
    image.data.set([red, green, blue, 255], 4 * n);
  }
  pen.putImageData(image, 0, 0);
}

function drawInput() {
  const { width, height, channels, low, high } = picture;
  const x = inputAt(chosen.a, chosen.b);
  const level = (value) => (255 * (value - low)) / (high - low || 1);
  const pixels = width * height;
  paint($("input"), width, height, (n) => [0, 1, 2].map((c) => level(x[(channels === 3 ? c : 0) * pixels + n])));
}

// White at 0; red where a larger number of the input raises the output, blue where it lowers it.
function diverging(t) {
  const size = Math.min(1, Math.abs(t));
  const end = t > 0 ? [178, 24, 43] : [33, 102, 172];
  return end.map((x) => Math.round(255 + size ** 0.8 * (x - 255)));
}

function drawTemplate(winner) {
  const found = templateOf(chosen.region, chosen.output ?? winner);
  $("template").parentElement.hidden = found === null;
  if (found === null) return;
  paint($("template"), picture.width, picture.height, (n) => diverging(found.values[n] / 127));
  const largest = found.limit.toPrecision(2);
  $("template-name").textContent = `template of ${names[found.output]} in this region (up to ${largest})`;
}

function drawOutputs(rows) {
  const least = Math.min(0, ...rows.map((r) => r.value));
  const range = Math.max(0, ...rows.map((r) => r.value)) - least || 1;
  const share = (x) => `${((100 * (x - least)) / range).toFixed(2)}%`;
  const sorted = [...rows].sort((x, y) => y.value - x.value).slice(0, 12);
  $("outputs").tBodies[0].replaceChildren(
    ...sorted.map(({ name, k, value, bias }) => {
      const bar = make("span", {});
      Object.assign(bar.style, {
        background: colors[k],
        left: share(Math.min(0, value)),
        width: `${((100 * Math.abs(value)) / range).toFixed(2)}%`,
      });
      const zero = make("i", {});
      zero.style.left = share(0);
      return make(
        "tr",
        { "aria-selected": String(chosen.output === k), title: "A click shows its template", "data-output": k },
        make("td", { class: "name" }, name),
        make("td", { class: "line" }, make("span", { class: "track" }, bar, zero)),
        make("td", {}, fixed(value)),
        make("td", { class: "sum" }, `= ⟨A, x⟩ ${fixed(value - bias)} ${signed(bias)}`),
      );
    }),
  );
}

function drawSite(site) {
  const shown = site.rows !== null && site.entries <= CELLS_DRAWN;
  let on = 0;
  if (site.rows !== null && site.bytes === 0)
    for (let n = 0; n < site.entries; n++) on += choiceAt(site, chosen.region, n);
  const apart = chosen.pinned >= 0 ? differing(site, chosen.pinned, chosen.region) : null;
  const made = site.bytes === 0 ? `${on} of ${site.entries} on` : `${site.entries} winners`;
  const differ = apart === null ? "" : `, ${apart} differ`;
  const told = site.rows === null ? `${site.entries} choices, too many for this page` : `${made}${differ}`;
  const block = make("div", { class: "site" }, make("p", {}, make("b", {}, site.name), told));
  if (!shown) return block;
  const columns = Math.min(site.entries, Math.max(24, Math.ceil(Math.sqrt(6 * site.entries))));
  const rows = Math.ceil(site.entries / columns);
  let most = 1;
  if (site.bytes > 0) for (let n = 0; n < site.entries; n++) most = Math.max(most, choiceAt(site, chosen.region, n));
  const canvas = make("canvas", {});
  paint(canvas, columns, rows, (n) => {
    if (n >= site.entries) return [255, 255, 255];
    const value = choiceAt(site, chosen.region, n);
    if (chosen.pinned >= 0 && value !== choiceAt(site, chosen.pinned, n)) return [200, 30, 91];
    const level = Math.round(226 - (196 * value) / most);
    return [level, level, level + 8];
  });
  canvas.style.aspectRatio = `${columns} / ${rows}`;
  block.append(canvas);
  return block;
}

export function drawPanel() {
  const { region, a, b, pinned } = chosen;
  const rows = outputsAt(region, a, b);
  const winner = rows.reduce((best, row) => (row.value > best.value ? row : best), rows[0]);
  const dot = make("span", { class: "dot" });
  dot.style.background = colors[winner.k];
  $("where").replaceChildren(dot, rows.length > 1 ? names[winner.k] : `${names[0]} = ${fixed(winner.value)}`);
  const area = (25 * areaOf(regions[region])).toPrecision(2);
  const number = `Region ${region + 1} of ${regions.length.toLocaleString("en")}`;
  $("facts").textContent = `${number}, ${area} % of the plane, at a = ${a.toFixed(3)}, b = ${b.toFixed(3)}`;
  $("pictures").hidden = picture === null;
  if (picture !== null) {
    drawInput();
    drawTemplate(winner.k);
  }
  drawOutputs(rows);
  const { apart, all } = pinned >= 0 ? distance(pinned, region) : { apart: 0, all: 0 };
  const share = all === 0 ? "0" : ((100 * apart) / all).toFixed(1);
  $("difference").textContent =
    pinned < 0
      ? "Dark: on. A click pins this region; what differs from it turns red elsewhere."
      : `${apart} of ${all} choices differ from the pinned region (${share} %).`;
  $("codes").replaceChildren(...sites.map(drawSite));
}
