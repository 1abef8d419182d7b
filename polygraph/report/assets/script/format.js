// Numbers and names as text; what models are.

export const finite = (value) => typeof value === "number" && Number.isFinite(value);
export const whole = (value) => value.toLocaleString("en");
export const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : word.endsWith("sh") ? "es" : "s"}`;

function digits(value) {
  const size = Math.abs(value);
  return size >= 100 ? 1 : size >= 1 ? 2 : 3;
}

function number(value, places) {
  return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
}

export function show(value, kind) {
  if (!finite(value)) return "–";
  if (Math.abs(value) >= 1e7 && kind !== "s") return power(value);
  if (kind === "int") return Math.round(value).toLocaleString("en");
  if (kind === "s")
    return value >= 3600
      ? `${number(value / 3600, 1)} h`
      : value >= 60
        ? `${number(value / 60, 1)} min`
        : `${number(value, 1)} s`;
  return number(value, kind === "mm" ? digits(value) : value >= 100 ? 0 : value >= 10 ? 1 : 2);
}

export function plusMinus(spread) {
  return Math.max(spread.mean, spread.std) >= 1e7 ? power(spread.std) : number(spread.std, digits(spread.mean));
}

function power(value) {
  const [mantissa, exponent] = value.toExponential(1).split("e");
  const raised = [...String(Number(exponent))].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)]).join("");
  return `${mantissa} × 10${raised}`;
}

export const open = (model) => model.activation === "none" && model.family !== "linear";

export function escapeText(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}
