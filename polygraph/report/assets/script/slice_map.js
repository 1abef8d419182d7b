// The plane: two canvases, one of the regions, one of the pointer, and the way between places and pixels.
import { $, INK } from "./page.js";
import {
  colors,
  distance,
  hueOf,
  names,
  pieceClass,
  pieces,
  points,
  ramp,
  regionAt,
  regions,
  sites,
} from "./slice_data.js";

export const chosen = { mode: "class", a: 0, b: 0, region: regionAt(0, 0), pinned: -1, output: null };
const sight = { a: 0, b: 0, scale: 1 }; // the middle of what is seen, and how much larger than the whole
const MOST = 4000;
let side = 600;

const pixelOf = (a, b) => [
  side * (0.5 + ((a - sight.a) * sight.scale) / 2),
  side * (0.5 - ((b - sight.b) * sight.scale) / 2),
];

export function placeOf(event) {
  const box = $("overlay").getBoundingClientRect();
  const [right, down] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  return [sight.a + (2 * (right - 0.5)) / sight.scale, sight.b - (2 * (down - 0.5)) / sight.scale];
}

function clean(id) {
  const canvas = $(id);
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(side * ratio)) {
    canvas.width = Math.round(side * ratio);
    canvas.height = canvas.width;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, side, side);
  return pen;
}

function trace(pen, polygon) {
  pen.beginPath();
  for (let n = 0; n < polygon.length; n += 2) {
    const [x, y] = pixelOf(polygon[n], polygon[n + 1]);
    if (n === 0) pen.moveTo(x, y);
    else pen.lineTo(x, y);
  }
  pen.closePath();
}

function mix(one, other, share) {
  const [from, to] = [one, other].map((color) => [1, 3, 5].map((n) => Number.parseInt(color.slice(n, n + 2), 16)));
  return `rgb(${from.map((x, n) => Math.round(x + share * (to[n] - x))).join(",")})`;
}

function onRamp(share) {
  const place = Math.min(0.9999, Math.max(0, share)) * (ramp.length - 1);
  return mix(ramp[Math.floor(place)], ramp[Math.floor(place) + 1], place % 1);
}

function fills() {
  if (chosen.mode === "class") {
    const light = colors.map((color) => mix(color, "#ffffff", 0.45));
    return pieces.map((polygon, n) => [polygon, light[pieceClass[n]]]);
  }
  if (chosen.mode === "distance") {
    const from = chosen.pinned >= 0 ? chosen.pinned : chosen.region;
    const apart = regions.map((_, n) => distance(from, n).apart);
    const most = apart.reduce((x, y) => Math.max(x, y), 1);
    return regions.map((polygon, n) => [polygon, onRamp(apart[n] / most)]);
  }
  const site = sites[Number(chosen.mode)];
  return regions.map((polygon, n) => [polygon, `hsl(${hueOf(site, n)} 58% 78%)`]);
}

export function drawBase() {
  side = $("frame").clientWidth || side;
  const pen = clean("base");
  for (const [polygon, color] of fills()) {
    pen.fillStyle = color;
    trace(pen, polygon);
    pen.fill();
    pen.strokeStyle = color; // no seams between pieces of one colour
    pen.lineWidth = 0.5;
    pen.stroke();
  }
  pen.strokeStyle = INK;
  pen.lineWidth = regions.length > 3000 && sight.scale < 3 ? 0.25 : 0.6;
  for (const polygon of regions) {
    trace(pen, polygon);
    pen.stroke();
  }
  drawOverlay();
}

export function drawOverlay() {
  const pen = clean("overlay");
  const frame = (number, color, width, wash) => {
    if (number < 0) return;
    trace(pen, regions[number]);
    pen.fillStyle = wash;
    pen.fill();
    pen.strokeStyle = color;
    pen.lineWidth = width;
    pen.stroke();
  };
  frame(chosen.region, INK, 2.2, "rgba(255, 255, 255, .38)");
  frame(chosen.pinned, "#c81e5b", 2.6, "rgba(200, 30, 91, .12)");
  pen.font = "600 13px sans-serif";
  for (const [a, b, label] of points) {
    const [x, y] = pixelOf(a, b);
    pen.beginPath();
    pen.arc(x, y, 4.5, 0, 2 * Math.PI);
    pen.fillStyle = INK;
    pen.fill();
    pen.lineWidth = 3.5;
    pen.strokeStyle = "rgba(255, 255, 255, .9)";
    pen.strokeText(label, x + 8, y - 7);
    pen.fillText(label, x + 8, y - 7);
  }
  const [x, y] = pixelOf(chosen.a, chosen.b);
  pen.strokeStyle = INK;
  pen.lineWidth = 1.4;
  pen.beginPath();
  for (const [dx, dy] of [
    [1, 0],
    [-1, 0],
    [0, 1],
    [0, -1],
  ]) {
    pen.moveTo(x + 4 * dx, y + 4 * dy);
    pen.lineTo(x + 10 * dx, y + 10 * dy);
  }
  pen.stroke();
}

function keepInside() {
  const most = 1 - 1 / sight.scale;
  sight.a = Math.min(most, Math.max(-most, sight.a));
  sight.b = Math.min(most, Math.max(-most, sight.b));
}

// Larger or smaller, with one place where it is.
export function zoom(factor, a = chosen.a, b = chosen.b) {
  const scale = Math.min(MOST, Math.max(1, sight.scale * factor));
  const share = 1 - sight.scale / scale;
  sight.a += share * (a - sight.a);
  sight.b += share * (b - sight.b);
  sight.scale = scale;
  keepInside();
  drawBase();
}

export function drag(right, down) {
  sight.a -= (2 * right) / side / sight.scale;
  sight.b += (2 * down) / side / sight.scale;
  keepInside();
  drawBase();
}

export function whole() {
  Object.assign(sight, { a: 0, b: 0, scale: 1 });
  drawBase();
}

export const step = () => 0.01 / sight.scale;

export function legendParts() {
  if (chosen.mode !== "class") return [];
  return [...new Set(pieceClass)].sort((x, y) => x - y).map((k) => [colors[k], names[k]]);
}
