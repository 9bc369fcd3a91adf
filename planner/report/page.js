"use strict";
// Draws what the page says of a plan. All of it is in the page: nothing is fetched, and names are
// only ever set as text.

const plan = JSON.parse(document.getElementById("plan").textContent);
const { slots, swaps, rebuilds } = plan;
const slotCount = slots.anchor.length;
const swapCount = swaps.name.length;

const GUTTER = 92; // pixels left of the drawing, for labels
const MARGIN = 12;
const MEMORY_HEIGHT = 260;
const LANE_HEIGHT = 30;
const LANE_GAP = 8;
const AXIS_HEIGHT = 30;
const TOP = 10;
const LANES_TOP = TOP + MEMORY_HEIGHT + 18;
const HEIGHT = LANES_TOP + 3 * (LANE_HEIGHT + LANE_GAP) + AXIS_HEIGHT;
const LEAST_DRAWN = 3; // pixels; a narrower slice is drawn as a share of its columns
const LEAST_LABEL = 34; // a slice narrower than this has no room for its name
const ROWS_AT_ONCE = 200;

const SERIES = [
  { key: "without_bytes", label: "without the plan", colour: "--without", dash: [6, 3], shown: true },
  { key: "with_bytes", label: "with the plan", colour: "--with", dash: [], shown: true, filled: true },
  { key: "budget", label: "budget", colour: "--budget", dash: [10, 5], shown: true },
  { key: "host_bytes", label: "in host memory", colour: "--host", dash: [2, 3], shown: true },
];
const LANES = [
  { label: "compute", what: "compute: slots of the step", colour: "--compute" },
  { label: "to host", what: "D2H: copies to the host", colour: "--d2h" },
  { label: "back", what: "H2D: copies back", colour: "--h2d" },
];

// ---- text -------------------------------------------------------------------------------------

function sizeText(bytes) {
  for (const [unit, size] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (Math.abs(bytes) >= size) return `${(bytes / size).toFixed(2)} ${unit}`;
  }
  return `${bytes} B`;
}

function timeText(us) {
  const size = Math.abs(us);
  if (size >= 1e6) return `${(us / 1e6).toFixed(3)} s`;
  if (size >= 1e3) return `${(us / 1e3).toFixed(2)} ms`;
  return `${us.toFixed(1)} us`;
}

function axisTimeText(us, stepUs) {
  const [unit, size] = stepUs >= 1e5 ? ["s", 1e6] : stepUs >= 100 ? ["ms", 1e3] : ["us", 1];
  const decimals = Math.max(0, Math.min(3, -Math.floor(Math.log10(stepUs / size) + 1e-9)));
  return `${(us / size).toFixed(decimals)} ${unit}`;
}

// ---- what is drawn on the lanes ---------------------------------------------------------------

// Copies that end after the step's end are drawn at its begin too: steps repeat.
function copySlices(startUs, endUs) {
  const slices = [];
  for (let swap = 0; swap < swapCount; swap += 1) {
    if (startUs[swap] === null) continue;
    for (const back of [0, plan.step_us]) {
      const slice = { from: startUs[swap] - back, to: endUs[swap] - back, swap };
      if (slice.to > 0 && slice.from < plan.step_us) slices.push(slice);
    }
  }
  return slices.sort((one, other) => one.from - other.from);
}

function computeSlices() {
  const slices = [];
  for (let slot = 0; slot < slotCount; slot += 1) {
    const start = slots.start_us[slot];
    if (slots.stall_us[slot] > 0) {
      slices.push({ from: start - slots.stall_us[slot], to: start, slot, stall: true });
    }
    if (slots.duration_us[slot] > slots.recompute_us[slot]) {
      const own = start + slots.recompute_us[slot];
      slices.push({ from: own, to: start + slots.duration_us[slot], slot, stall: false });
    }
  }
  for (let again = 0; again < rebuilds.slot.length; again += 1) {
    const [from, to] = [rebuilds.start_us[again], rebuilds.end_us[again]];
    if (to > from) slices.push({ from, to, slot: rebuilds.slot[again], stall: false, again });
  }
  return slices.sort((one, other) => one.from - other.from);
}

const laneSlices = [
  computeSlices(),
  copySlices(swaps.out_start_us, swaps.out_end_us),
  copySlices(swaps.in_start_us, swaps.in_end_us),
];

// ---- view -------------------------------------------------------------------------------------

const canvas = document.getElementById("canvas");
const context = canvas.getContext("2d");
const tip = document.getElementById("tip");
const wholeUs = Math.max(plan.step_us, 1e-3);
const leastUs = Math.min(wholeUs, Math.max(wholeUs / 1e6, 0.01));
const view = { from: 0, to: wholeUs, width: 0, chosen: null, pending: false };
const highestBytes = () =>
  SERIES.filter((one) => one.shown).reduce((top, one) => Math.max(top, highest(one.key)), 1) * 1.05;

function highest(key) {
  return key === "budget" ? plan.budget_bytes : slots[key].reduce((a, b) => Math.max(a, b), 0);
}

function plotWidth() {
  return Math.max(50, view.width - GUTTER - MARGIN);
}

function xOf(us) {
  return GUTTER + ((us - view.from) / (view.to - view.from)) * plotWidth();
}

function timeAt(x) {
  return view.from + ((x - GUTTER) / plotWidth()) * (view.to - view.from);
}

function yOf(bytes, top) {
  return TOP + MEMORY_HEIGHT * (1 - bytes / top);
}

function laneTop(lane) {
  return LANES_TOP + lane * (LANE_HEIGHT + LANE_GAP);
}

function show(from, to) {
  const span = Math.min(wholeUs, Math.max(leastUs, to - from));
  view.from = Math.min(Math.max(0, from), wholeUs - span);
  view.to = view.from + span;
  redraw();
}

function zoom(factor, aroundUs = (view.from + view.to) / 2) {
  const span = Math.min(wholeUs, Math.max(leastUs, (view.to - view.from) * factor));
  const share = (aroundUs - view.from) / (view.to - view.from);
  show(aroundUs - share * span, aroundUs + (1 - share) * span);
}

function pan(share) {
  const by = (view.to - view.from) * share;
  show(view.from + by, view.to + by);
}

// ---- drawing ----------------------------------------------------------------------------------

function redraw() {
  if (view.pending) return;
  view.pending = true;
  requestAnimationFrame(draw);
}

function draw() {
  view.pending = false;
  const scale = window.devicePixelRatio || 1;
  view.width = canvas.clientWidth;
  canvas.width = Math.round(view.width * scale);
  canvas.height = Math.round(HEIGHT * scale);
  canvas.style.height = `${HEIGHT}px`;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, view.width, HEIGHT);
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "middle";
  const colours = getComputedStyle(document.documentElement);
  const colour = (name) => colours.getPropertyValue(name).trim();
  const top = highestBytes();
  drawTimeAxis(colour);
  drawMemoryAxis(colour, top);
  clipped(() => {
    drawAbsence(colour);
    for (const series of SERIES.filter((one) => one.shown)) drawSeries(series, colour, top);
    LANES.forEach((_, lane) => drawLane(lane, colour));
    drawChosen(colour);
  });
  drawLaneNames(colour);
  canvas.dataset.drawn = `${view.from} ${view.to}`;
}

function clipped(drawInside) {
  context.save();
  context.beginPath();
  context.rect(GUTTER, 0, plotWidth(), HEIGHT);
  context.clip();
  drawInside();
  context.restore();
}

function niceStep(range, count) {
  const rough = range / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((n) => n * power).find((step) => step >= rough);
}

function drawTimeAxis(colour) {
  const step = niceStep(view.to - view.from, Math.max(2, plotWidth() / 110));
  context.textAlign = "center";
  const bottom = laneTop(LANES.length);
  for (let n = Math.ceil(view.from / step); n * step <= view.to; n += 1) {
    const x = xOf(n * step);
    line(colour("--rule"), [x, TOP, x, bottom]);
    context.fillStyle = colour("--muted");
    const half = context.measureText(axisTimeText(n * step, step)).width / 2;
    const labelX = Math.max(GUTTER + half, Math.min(x, view.width - half - 1));
    context.fillText(axisTimeText(n * step, step), labelX, bottom + 10);
  }
}

function drawMemoryAxis(colour, top) {
  const unit = [2 ** 40, 2 ** 30, 2 ** 20, 2 ** 10].find((size) => top >= size) || 1;
  const step = niceStep(top / unit, 5) * unit;
  context.textAlign = "right";
  for (let bytes = 0; bytes <= top; bytes += step) {
    const y = yOf(bytes, top);
    line(colour("--rule"), [GUTTER, y, view.width - MARGIN, y]);
    context.fillStyle = colour("--muted");
    context.fillText(bytes ? sizeText(bytes).replace(/\.00 /, " ") : "0", GUTTER - 8, y);
  }
}

function line(style, [x1, y1, x2, y2]) {
  context.strokeStyle = style;
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}

// Of the slots within one pixel the highest is drawn, so that no peak is lost by zooming out.
function drawSeries(series, colour, top) {
  context.beginPath();
  if (series.key === "budget") {
    context.moveTo(GUTTER, yOf(plan.budget_bytes, top));
    context.lineTo(view.width - MARGIN, yOf(plan.budget_bytes, top));
  } else {
    traceCurve(slots[series.key], top);
  }
  context.strokeStyle = colour(series.colour);
  context.lineWidth = 2;
  context.setLineDash(series.dash);
  context.stroke();
  context.setLineDash([]);
  if (!series.filled) return;
  context.lineTo(xOf(view.to), yOf(0, top));
  context.lineTo(GUTTER, yOf(0, top));
  context.globalAlpha = 0.15;
  context.fillStyle = colour(series.colour);
  context.fill();
  context.globalAlpha = 1;
}

function traceCurve(bytes, top) {
  let slot = firstAt(view.from);
  let y = yOf(bytes[slot], top);
  context.moveTo(GUTTER, y);
  while (slot < slotCount && slots.start_us[slot] <= view.to) {
    const column = Math.floor(xOf(slots.start_us[slot]));
    let most = 0;
    let last = 0;
    do {
      most = Math.max(most, bytes[slot]);
      last = bytes[slot];
      slot += 1;
    } while (slot < slotCount && Math.floor(xOf(slots.start_us[slot])) <= column);
    const x = Math.max(GUTTER, column);
    context.lineTo(x, y);
    context.lineTo(x, yOf(most, top));
    y = yOf(last, top);
    context.lineTo(x, y);
  }
  context.lineTo(xOf(view.to), y);
}

// The last slot that starts by a time.
function firstAt(us) {
  let low = 0;
  let high = slotCount - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (slots.start_us[middle] <= us) low = middle;
    else high = middle - 1;
  }
  return low;
}

// Narrow slices, and the ends of wide ones, are not drawn one by one, as that would show too much or
// too little of them: a pixel's column is filled as high as their share of its time.
function drawLane(lane, colour) {
  const fills = { busy: colour(LANES[lane].colour), again: colour("--again"), stall: colour("--stall") };
  const columns = new Map();
  for (const slice of laneSlices[lane]) {
    if (slice.from > view.to) break;
    if (slice.to < view.from) continue;
    const left = Math.max(GUTTER - 1, xOf(slice.from));
    const right = Math.min(view.width, xOf(slice.to));
    const kind = kindOf(slice);
    if (right - left < LEAST_DRAWN) {
      addShares(columns, left, right, kind);
      continue;
    }
    const first = Math.ceil(left);
    const end = Math.floor(right);
    addShares(columns, left, first, kind);
    addShares(columns, end, right, kind);
    drawSlice(lane, slice, first, end - first, fills[kind], colour);
  }
  drawColumns(laneTop(lane) + LANE_HEIGHT, columns, fills);
}

function kindOf(slice) {
  if (slice.stall) return "stall";
  return slice.again === undefined ? "busy" : "again";
}

function addShares(columns, left, right, kind) {
  for (let x = Math.floor(left); x < right; x += 1) {
    const column = columns.get(x) || { busy: 0, again: 0, stall: 0 };
    column[kind] += Math.min(right, x + 1) - Math.max(left, x);
    columns.set(x, column);
  }
}

function drawColumns(bottom, columns, fills) {
  for (const [x, shares] of columns) {
    let filled = 0;
    for (const [kind, fill] of Object.entries(fills)) {
      const share = Math.min(1 - filled, shares[kind]);
      context.fillStyle = fill;
      context.fillRect(x, bottom - (filled + share) * LANE_HEIGHT, 1, share * LANE_HEIGHT);
      filled += share;
    }
  }
}

function nameOf(slice) {
  if (slice.stall) return "stall";
  if (slice.again !== undefined) return `again: ${rebuilds.ops[slice.again]}`;
  return slice.swap === undefined ? slots.anchor[slice.slot] : swaps.name[slice.swap];
}

function drawSlice(lane, slice, left, width, fill, colour) {
  const top = laneTop(lane);
  context.fillStyle = fill;
  context.fillRect(left, top, width, LANE_HEIGHT);
  if (slice.stall) hatch(left, top, width, colour("--ink"));
  if (width > 3) line(colour("--page"), [left + width, top, left + width, top + LANE_HEIGHT]);
  if (width < LEAST_LABEL) return;
  const name = nameOf(slice);
  context.save();
  context.beginPath();
  context.rect(left + 3, top, width - 6, LANE_HEIGHT);
  context.clip();
  context.fillStyle = colour("--ink");
  context.textAlign = "left";
  context.fillText(name.slice(0, 200), left + 4, top + LANE_HEIGHT / 2);
  context.restore();
}

function hatch(left, top, width, style) {
  if (width < 4) return;
  context.save();
  context.beginPath();
  context.rect(left, top, width, LANE_HEIGHT);
  context.clip();
  context.globalAlpha = 0.35;
  for (let x = left - LANE_HEIGHT; x < left + width; x += 7) {
    line(style, [x, top + LANE_HEIGHT, x + LANE_HEIGHT, top]);
  }
  context.restore();
}

function drawLaneNames(colour) {
  context.textAlign = "right";
  context.fillStyle = colour("--text");
  LANES.forEach((lane, n) => context.fillText(lane.label, GUTTER - 8, laneTop(n) + LANE_HEIGHT / 2));
}

// ---- one swap followed ------------------------------------------------------------------------

// When the chosen storage is off the device: around the step's end, two stretches.
function absences(swap) {
  const from = slots.start_us[swaps.release[swap]];
  const to = slots.start_us[swaps.swap_in[swap]];
  return swaps.swap_in[swap] < swaps.release[swap] ? [[from, plan.step_us], [0, to]] : [[from, to]];
}

function drawAbsence(colour) {
  if (view.chosen === null) return;
  context.fillStyle = colour("--away");
  for (const [from, to] of absences(view.chosen)) {
    context.fillRect(xOf(from), TOP, xOf(to) - xOf(from), MEMORY_HEIGHT);
  }
}

function drawChosen(colour) {
  if (view.chosen === null) return;
  context.strokeStyle = colour("--selected");
  context.lineWidth = 2;
  const middles = [];
  for (const lane of [1, 2]) {
    for (const slice of laneSlices[lane].filter((one) => one.swap === view.chosen)) {
      const left = xOf(slice.from);
      const width = Math.max(2, xOf(slice.to) - left);
      context.strokeRect(left, laneTop(lane), width, LANE_HEIGHT);
      middles.push({ lane, left, right: left + width });
    }
  }
  const out = middles.find((one) => one.lane === 1);
  const back = middles.find((one) => one.lane === 2);
  if (out && back && back.left >= out.right) arrow(out.right, laneTop(1) + LANE_HEIGHT, back.left, laneTop(2));
}

function arrow(x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.moveTo(x2 - 6, y2 - 6);
  context.lineTo(x2, y2);
  context.lineTo(x2 - 8, y2 - 1);
  context.stroke();
}

function choose(swap) {
  view.chosen = swap;
  document.getElementById("selected").textContent = swap === null ? "" : swapText(swap).split("\n").join(" · ");
  for (const row of body.rows) row.classList.toggle("chosen", Number(row.dataset.swap) === swap);
  redraw();
}

function follow(swap) {
  const ends = [swaps.in_start_us[swap], swaps.in_end_us[swap]];
  const starts = swaps.out_start_us[swap] === null ? [] : [swaps.out_start_us[swap], swaps.out_end_us[swap]];
  const release = slots.start_us[swaps.release[swap]];
  const all = [...starts, release, ...ends, slots.start_us[swaps.await[swap]]];
  const from = Math.min(...all);
  const to = Math.max(...all);
  const room = (to - from) * 0.1 + leastUs;
  choose(swap);
  show(from - room, to + room);
}

// ---- what the pointer is at -------------------------------------------------------------------

function swapText(swap) {
  const at = (key) => slots.anchor[swaps[key][swap]];
  const wraps = swaps.await[swap] < swaps.swap_out[swap] ? " (in the next step)" : "";
  const clean = swaps.out_start_us[swap] === null;
  return [
    `${swaps.name[swap]}: ${sizeText(swaps.size_bytes[swap])}, ${swaps.kind[swap]}${swaps.module[swap] ? `, ${swaps.module[swap]}` : ""}`,
    clean
      ? `clean: given back at ${at("release")}, nothing copied`
      : `out at ${at("swap_out")}: ${timeText(swaps.out_end_us[swap] - swaps.out_start_us[swap])}, released at ${at("release")}, slack ${timeText(swaps.out_slack_us[swap])}`,
    `in at ${at("swap_in")}: ${timeText(swaps.in_end_us[swap] - swaps.in_start_us[swap])}, awaited at ${at("await")}${wraps}, slack ${timeText(swaps.in_slack_us[swap])}`,
  ].join("\n");
}

function againText(again) {
  return [
    `run again: ${rebuilds.ops[again]}`,
    `fills ${rebuilds.storages[again]}: ${sizeText(rebuilds.size_bytes[again])}`,
    `at ${slots.anchor[rebuilds.slot[again]]}: ${timeText(rebuilds.end_us[again] - rebuilds.start_us[again])}`,
  ].join("\n");
}

function slotText(slot) {
  return [
    `slot ${slot}: ${slots.anchor[slot]}`,
    `from ${timeText(slots.start_us[slot])}, takes ${timeText(slots.duration_us[slot])}`,
    slots.recompute_us[slot] > 0 ? `of it ops that are run again: ${timeText(slots.recompute_us[slot])}` : null,
    slots.stall_us[slot] > 0 ? `compute waits ${timeText(slots.stall_us[slot])} before it` : null,
    `with the plan ${sizeText(slots.with_bytes[slot])}, without ${sizeText(slots.without_bytes[slot])}`,
    `in host memory ${sizeText(slots.host_bytes[slot])}`,
    slots.op[slot] ? `needs most: ${slots.op[slot]}` : null,
  ].filter((text) => text !== null).join("\n");
}

function sliceAt(lane, us) {
  const slices = laneSlices[lane];
  let low = 0;
  let high = slices.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (slices[middle].from <= us) low = middle + 1;
    else high = middle;
  }
  const slack = (2 / plotWidth()) * (view.to - view.from); // two pixels: thin slices can be hit
  for (const n of [low - 1, low]) {
    const slice = slices[n];
    if (slice && us >= slice.from - slack && us <= slice.to + slack) return slice;
  }
  return null;
}

function under(event) {
  const box = canvas.getBoundingClientRect();
  const x = event.clientX - box.left;
  const y = event.clientY - box.top;
  const found = { x, y, us: timeAt(x), slice: null, text: "" };
  if (x < GUTTER || x > view.width - MARGIN) return found;
  const lane = LANES.findIndex((_, n) => y >= laneTop(n) && y <= laneTop(n) + LANE_HEIGHT);
  if (lane >= 0) found.slice = sliceAt(lane, found.us);
  if (found.slice && found.slice.swap !== undefined) found.text = swapText(found.slice.swap);
  else if (found.slice && found.slice.again !== undefined) found.text = againText(found.slice.again);
  else if (found.slice) found.text = slotText(found.slice.slot);
  else if (y >= TOP && y <= TOP + MEMORY_HEIGHT) found.text = slotText(firstAt(found.us));
  return found;
}

function showTip(found) {
  tip.hidden = found.text === "";
  if (tip.hidden) return;
  tip.textContent = found.text;
  const left = found.x + 14 + tip.offsetWidth > view.width ? found.x - tip.offsetWidth - 14 : found.x + 14;
  tip.style.left = `${Math.max(0, left)}px`;
  tip.style.top = `${found.y + 14}px`;
}

// ---- hands and keys ---------------------------------------------------------------------------

let grip = null;

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  grip = { x: event.clientX, from: view.from, to: view.to, moved: false };
  canvas.setPointerCapture(event.pointerId);
});

canvas.addEventListener("pointermove", (event) => {
  if (grip === null) {
    showTip(under(event));
    return;
  }
  const by = event.clientX - grip.x;
  grip.moved = grip.moved || Math.abs(by) > 3;
  const us = (by / plotWidth()) * (grip.to - grip.from);
  if (grip.moved) show(grip.from - us, grip.to - us);
});

canvas.addEventListener("pointerup", (event) => {
  const clicked = grip !== null && !grip.moved;
  grip = null;
  if (!clicked) return;
  const { slice } = under(event);
  choose(slice && slice.swap !== undefined ? slice.swap : null);
});

canvas.addEventListener("pointercancel", () => { grip = null; });
canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
canvas.addEventListener("dblclick", (event) => zoom(event.shiftKey ? 2 : 0.5, under(event).us));

canvas.addEventListener("wheel", (event) => {
  // A wheel alone scrolls the page, as everywhere else on it.
  if (event.ctrlKey || event.metaKey) zoom(Math.exp(event.deltaY * 0.004), under(event).us);
  else if (event.deltaX !== 0 || event.shiftKey) pan((event.deltaX || event.deltaY) / plotWidth());
  else return;
  event.preventDefault();
}, { passive: false });

const ACTIONS = {
  "zoom-in": { keys: ["+", "="], act: () => zoom(0.5) },
  "zoom-out": { keys: ["-"], act: () => zoom(2) },
  left: { keys: ["ArrowLeft"], act: () => pan(-0.25) },
  right: { keys: ["ArrowRight"], act: () => pan(0.25) },
  whole: { keys: ["0"], act: () => show(0, wholeUs) },
};

for (const [id, { act }] of Object.entries(ACTIONS)) {
  document.getElementById(id).addEventListener("click", act);
}

canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") choose(null);
  const action = Object.values(ACTIONS).find(({ keys }) => keys.includes(event.key));
  if (!action) return;
  event.preventDefault();
  action.act();
});

// ---- legends ----------------------------------------------------------------------------------

function swatch(colour, dash) {
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  picture.setAttribute("width", "26");
  picture.setAttribute("height", "12");
  picture.setAttribute("aria-hidden", "true");
  const mark = document.createElementNS("http://www.w3.org/2000/svg", dash ? "line" : "rect");
  const shape = dash
    ? { x1: 0, x2: 26, y1: 6, y2: 6, stroke: `var(${colour})`, "stroke-width": 2.5, "stroke-dasharray": dash.join(" ") }
    : { width: 26, height: 12, fill: `var(${colour})` };
  for (const [key, value] of Object.entries(shape)) mark.setAttribute(key, value);
  picture.append(mark);
  return picture;
}

function drawLegends() {
  for (const series of SERIES) {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = series.shown;
    box.addEventListener("change", () => { series.shown = box.checked; redraw(); });
    const label = document.createElement("label");
    label.append(box, swatch(series.colour, series.dash), series.label);
    document.getElementById("series").append(label);
  }
  const again = { what: "recompute: ops run again", colour: "--again" };
  const stall = { what: "stall: compute waits for a copy", colour: "--stall" };
  for (const lane of [...LANES, ...(rebuilds.slot.length ? [again] : []), stall]) {
    const label = document.createElement("span");
    label.append(swatch(lane.colour, null), lane.what);
    document.getElementById("lanes").append(label);
  }
}

// ---- the list of swaps ------------------------------------------------------------------------

const anchorOf = (key) => (swap) => slots.anchor[swaps[key][swap]];
const slackOf = (key) => (swap) => (swaps[key][swap] === null ? "clean" : timeText(swaps[key][swap]));
const plain = (key) => (swap) => swaps[key][swap];
const COLUMNS = [
  { label: "storage", text: plain("name"), sort: plain("name") },
  { label: "kind", text: plain("kind"), sort: plain("kind") },
  { label: "module", text: plain("module"), sort: plain("module") },
  { label: "bytes", text: (swap) => sizeText(swaps.size_bytes[swap]), sort: plain("size_bytes"), number: true },
  { label: "swap-out", text: anchorOf("swap_out"), sort: plain("swap_out") },
  { label: "release", text: anchorOf("release"), sort: plain("release") },
  { label: "slack", text: slackOf("out_slack_us"), sort: plain("out_slack_us"), number: true },
  { label: "swap-in", text: anchorOf("swap_in"), sort: plain("swap_in") },
  { label: "await", text: anchorOf("await"), sort: plain("await") },
  { label: "slack", text: slackOf("in_slack_us"), sort: plain("in_slack_us"), number: true },
];
const table = document.getElementById("swaps");
const body = table.tBodies[0];
const list = { column: 4, down: false, order: [], shown: 0 };

const searched = Array.from({ length: swapCount }, (_, swap) =>
  COLUMNS.filter((column) => !column.number)
    .map((column) => column.text(swap))
    .join("\n")
    .toLowerCase(),
);

function compare(one, other) {
  if (typeof one === "string") return one.localeCompare(other, undefined, { numeric: true });
  // Clean swaps have no slack; they come last.
  return (one === null ? Infinity : one) - (other === null ? Infinity : other) || 0;
}

function arrange() {
  const wanted = document.getElementById("filter").value.trim().toLowerCase();
  const { sort } = COLUMNS[list.column];
  const sign = list.down ? -1 : 1;
  list.order = searched.map((_, swap) => swap).filter((swap) => searched[swap].includes(wanted));
  list.order.sort((one, other) => sign * compare(sort(one), sort(other)) || one - other);
  body.replaceChildren();
  list.shown = 0;
  addRows();
  headings.forEach((heading, n) => {
    const order = list.down ? "descending" : "ascending";
    heading.setAttribute("aria-sort", n === list.column ? order : "none");
    heading.firstChild.textContent = COLUMNS[n].label + (n === list.column ? (list.down ? " ↓" : " ↑") : "");
  });
}

function addRows() {
  const next = list.order.slice(list.shown, list.shown + ROWS_AT_ONCE);
  body.append(...next.map(rowOf));
  list.shown += next.length;
  const left = list.order.length - list.shown;
  const more = document.getElementById("more");
  more.hidden = left === 0;
  more.textContent = `Show ${Math.min(left, ROWS_AT_ONCE)} more of ${left}`;
  const bytes = list.order.reduce((sum, swap) => sum + swaps.size_bytes[swap], 0);
  document.getElementById("count").textContent = swapCount
    ? `${list.order.length} of ${swapCount} swaps, ${sizeText(bytes)}`
    : rebuilds.slot.length ? "No swaps." : "No swaps: the step fits within the budget.";
}

function rowOf(swap) {
  const row = document.createElement("tr");
  row.dataset.swap = swap;
  row.classList.toggle("chosen", swap === view.chosen);
  for (const column of COLUMNS) {
    const cell = row.insertCell();
    if (column.number) cell.className = "number";
    // Long names may be folded after a dot, and are still copied whole.
    const parts = column.number ? [column.text(swap)] : column.text(swap).split(/(?<=\.)/);
    parts.forEach((part, n) => cell.append(...(n ? [document.createElement("wbr")] : []), part));
  }
  row.tabIndex = 0;
  const seen = () => { follow(swap); canvas.scrollIntoView({ block: "nearest" }); };
  row.addEventListener("click", seen);
  row.addEventListener("keydown", (event) => { if (event.key === "Enter") seen(); });
  return row;
}

const headings = COLUMNS.map((column, n) => {
  const heading = document.createElement("th");
  const button = document.createElement("button");
  button.addEventListener("click", () => {
    list.down = n === list.column ? !list.down : Boolean(column.number) && column.label === "bytes";
    list.column = n;
    arrange();
  });
  heading.append(button);
  if (column.number) heading.className = "number";
  table.tHead.rows[0].append(heading);
  return heading;
});

document.getElementById("filter").addEventListener("input", arrange);
document.getElementById("more").addEventListener("click", addRows);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
new ResizeObserver(redraw).observe(canvas.parentElement);
drawLegends();
arrange();
redraw();
