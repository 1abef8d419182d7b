// What the page knows of a plane: regions, outputs, codes; found by place.
import { payload } from "./page.js";

const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const floatsOf = (text) => new Float32Array(bytesOf(text).buffer);

function polygonsOf({ count, corners }) {
  const all = floatsOf(corners);
  let end = 0;
  return count.map((n) => {
    end += n;
    return all.subarray(2 * (end - n), 2 * end);
  });
}

export const { names, colors, ramp, points, picture } = payload;
export const regions = polygonsOf(payload.polygons);
export const pieces = polygonsOf(payload.pieces);
export const pieceClass = payload.pieces.class;
const planes = floatsOf(payload.planes);
const bias = floatsOf(payload.bias);
const outputs = names.length;

export const sites = payload.codes.map((site) => {
  const rows = site.rows === null ? null : bytesOf(site.rows);
  return { ...site, rows, width: rows === null ? 0 : rows.length / regions.length };
});

export function areaOf(polygon) {
  let twice = 0;
  for (let n = 0, last = polygon.length - 2; n < polygon.length; last = n, n += 2)
    twice += polygon[last] * polygon[n + 1] - polygon[n] * polygon[last + 1];
  return Math.abs(twice) / 2;
}

// Outputs at a place of a region: all of it, and what the bias adds.
export function outputsAt(region, a, b) {
  return names.map((name, k) => {
    const at = 3 * (region * outputs + k);
    const value = planes[at] + planes[at + 1] * a + planes[at + 2] * b;
    return { name, k, value, bias: bias[region * outputs + k] };
  });
}

const inside = (polygon, a, b) => {
  let side = 0;
  for (let n = 0, last = polygon.length - 2; n < polygon.length; last = n, n += 2) {
    const turn =
      (polygon[n] - polygon[last]) * (b - polygon[last + 1]) -
      (polygon[n + 1] - polygon[last + 1]) * (a - polygon[last]);
    if (Math.abs(turn) < 1e-9) continue;
    if (side !== 0 && Math.sign(turn) !== side) return false;
    side = Math.sign(turn);
  }
  return true;
};

// Regions by cells of a grid, so that few are looked at for a place.
const CELLS = 48;
const cellOf = (x) => Math.min(CELLS - 1, Math.max(0, Math.floor(((x + 1) / 2) * CELLS)));
const cells = Array.from({ length: CELLS * CELLS }, () => []);
regions.forEach((polygon, number) => {
  const [a, b] = [[], []];
  polygon.forEach((x, n) => {
    (n % 2 ? b : a).push(cellOf(x));
  });
  for (let row = Math.min(...b); row <= Math.max(...b); row++)
    for (let column = Math.min(...a); column <= Math.max(...a); column++) cells[row * CELLS + column].push(number);
});

export function regionAt(a, b) {
  if (Math.abs(a) > 1 || Math.abs(b) > 1) return -1;
  const near = cells[cellOf(b) * CELLS + cellOf(a)];
  return near.find((number) => inside(regions[number], a, b)) ?? near[0] ?? -1;
}

// Choice n of a region at a site, as a number.
export function choiceAt(site, region, n) {
  if (site.bytes === 0) return (site.rows[region * site.width + (n >> 3)] >> (n & 7)) & 1;
  let value = 0;
  for (let k = site.bytes - 1; k >= 0; k--) value = value * 256 + site.rows[region * site.width + n * site.bytes + k];
  return value;
}

// How many choices of a site differ between two regions.
export function differing(site, one, other) {
  if (site.rows === null) return null;
  let count = 0;
  if (site.bytes === 0) {
    for (let k = 0; k < site.width; k++)
      for (let bits = site.rows[one * site.width + k] ^ site.rows[other * site.width + k]; bits; bits &= bits - 1)
        count++;
    return count;
  }
  for (let n = 0; n < site.entries; n++) if (choiceAt(site, one, n) !== choiceAt(site, other, n)) count++;
  return count;
}

// The same of all sites whose codes are here.
export function distance(one, other) {
  let [apart, all] = [0, 0];
  for (const site of sites) {
    if (site.rows === null) continue;
    apart += differing(site, one, other);
    all += site.entries;
  }
  return { apart, all };
}

// A hue of what is chosen at a site (FNV-1a).
export function hueOf(site, region) {
  let hash = 2166136261;
  for (let k = 0; k < site.width; k++) hash = Math.imul(hash ^ site.rows[region * site.width + k], 16777619);
  return (hash >>> 0) % 360;
}

const plane = picture === null ? null : picture.plane.map(floatsOf);
export function inputAt(a, b) {
  const [origin, u, v] = plane;
  return origin.map((x, n) => x + a * u[n] + b * v[n]);
}

const maps = payload.templates;
const mapBytes = maps === null ? null : new Int8Array(bytesOf(maps.bytes).buffer);
const mapLimits = maps === null ? null : floatsOf(maps.limit);

// The template of an output in a region, or of that region's largest one; null: it is not here.
export function templateOf(region, k) {
  if (maps === null) return null;
  const [each, place] = maps.every ? [outputs, k] : [1, 0];
  const size = mapLimits.length === 0 ? 0 : mapBytes.length / mapLimits.length;
  const at = region * each + place;
  return {
    output: maps.every ? k : maps.of[region],
    limit: mapLimits[at],
    values: mapBytes.subarray(at * size, (at + 1) * size),
  };
}
