// What the charts share: SVG, scales, ticks, a tip. Text from the data is only ever set as text.

const SVG = 'http://www.w3.org/2000/svg';
const COLOURS = 7;
const MARKERS = [
  'M-3.6,0A3.6,3.6 0 1,0 3.6,0A3.6,3.6 0 1,0 -3.6,0Z',
  'M-3.2,-3.2H3.2V3.2H-3.2Z',
  'M0,-4.2L4.2,3.2H-4.2Z',
  'M0,-4.6L4.6,0L0,4.6L-4.6,0Z',
  'M0,4.2L4.2,-3.2H-4.2Z',
  'M-1.4,-4.2H1.4V-1.4H4.2V1.4H1.4V4.2H-1.4V1.4H-4.2V-1.4H-1.4Z',
];

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function marker(slot, x, y) {
  // The second round of colours has other shapes than the first.
  const shape = MARKERS[(slot + Math.floor(slot / COLOURS)) % MARKERS.length];
  return drawn('path', { d: shape, transform: `translate(${x},${y})`, class: `s${slot % COLOURS}` });
}

function key(slot) {
  const svg = drawn('svg', { class: 'key', 'aria-hidden': 'true' });
  svg.append(marker(slot, 6, 6));
  return svg;
}

// Round values between two ends, about as many as asked for.
function ticks(low, high, many) {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return [low];
  const power = 10 ** Math.floor(Math.log10(span / many));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => span / s <= many) || 10 * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * span; i += 1) {
    found.push(Number((i * step).toPrecision(12)));
  }
  return found;
}

// As results/wording.py writes numbers in the tables.
function written(value) {
  if (value === null || value === undefined) return '';
  const short = Number(value.toPrecision(4));
  const size = Math.abs(short);
  const text = size !== 0 && (size < 1e-4 || size >= 1e4)
    ? short.toExponential().replace(/e(.)(\d)$/, 'e$10$2') : String(short);
  return text.replaceAll('-', '\u2212');
}

function padded(low, high) {
  const room = (high - low) * 0.05 || Math.abs(low) * 0.1 || 1;
  return [low - room, high + room];
}

function scaled(low, high, from, to) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

// An empty chart: axes, grid and names; returns its parts and scales.
function framed(host, title, described, x, y, height) {
  const width = Math.max(host.clientWidth, 240);
  const yTicks = ticks(y.low, y.high, 7);
  const widest = Math.max(...yTicks.map((t) => written(t).length));
  const box = { left: 14 + 7 * widest, right: width - 10, top: 26, bottom: height - 38 };
  const svg = drawn('svg', {
    viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': `${title}. ${described}`,
  }, drawn('title', {}, title), drawn('desc', {}, described));
  const atX = scaled(x.low, x.high, box.left, box.right);
  const atY = scaled(y.low, y.high, box.bottom, box.top);
  for (const tick of yTicks) {
    svg.append(
      drawn('line', { x1: box.left, x2: box.right, y1: atY(tick), y2: atY(tick), class: 'grid-line' }),
      drawn('text', { x: box.left - 6, y: atY(tick) + 4, 'text-anchor': 'end' }, written(tick)),
    );
  }
  for (const tick of ticks(x.low, x.high, width < 500 ? 4 : 8)) {
    svg.append(drawn('text', { x: atX(tick), y: box.bottom + 16, 'text-anchor': 'middle' }, written(tick)));
  }
  svg.append(
    drawn('text', { x: 0, y: 12 }, y.name),
    drawn('text', { x: box.right, y: height - 6, 'text-anchor': 'end' }, x.name),
  );
  return { svg, box, atX, atY, width, height };
}

// The point of a list that is nearest to a place in the chart.
function nearest(points, x, y) {
  let best = null;
  let least = Infinity;
  for (const point of points) {
    const distance = (point.px - x) ** 2 + (point.py - y) ** 2;
    if (distance < least) [best, least] = [point, distance];
  }
  return least <= 60 ** 2 ? best : null;
}

function tip(host) {
  const box = element('div', { class: 'tip', role: 'status', hidden: '' });
  host.append(box);
  return {
    show(chart, point, title, lines) {
      box.replaceChildren(element('b', {}, title), ...lines.flatMap((line) => [line, element('br')]));
      box.hidden = false;
      const ratio = host.clientWidth / chart.width;
      const [x, y] = [point.px * ratio, point.py * ratio];
      const left = x + 14 + box.offsetWidth > host.clientWidth ? x - 14 - box.offsetWidth : x + 14;
      box.style.left = `${Math.max(0, left)}px`;
      box.style.top = `${Math.max(0, y - box.offsetHeight - 8)}px`;
    },
    hide() { box.hidden = true; },
  };
}

// Pointer and arrow keys visit the points of a chart; `rows` are lists of points side by side.
function visiting(host, rows, show, leave) {
  let [row, column] = [0, -1];
  const visit = (point) => { if (point) show(point); };
  host.onpointermove = host.onpointerdown = (event) => {
    const svg = host.querySelector('svg');
    const frame = svg.getBoundingClientRect();
    const ratio = svg.viewBox.baseVal.width / frame.width;
    const at = [(event.clientX - frame.left) * ratio, (event.clientY - frame.top) * ratio];
    const point = nearest(rows().flat(), ...at);
    if (point) show(point); else leave();
  };
  host.onpointerleave = leave;
  host.onblur = leave;
  host.onkeydown = (event) => {
    const all = rows();
    if (!all.length || !event.key.startsWith('Arrow')) {
      if (event.key === 'Escape') leave();
      return;
    }
    event.preventDefault();
    if (event.key === 'ArrowDown') row += 1;
    if (event.key === 'ArrowUp') row -= 1;
    row = (row + all.length) % all.length;
    if (event.key === 'ArrowRight') column += 1;
    if (event.key === 'ArrowLeft') column -= 1;
    column = Math.min(Math.max(column, 0), all[row].length - 1);
    visit(all[row][column]);
  };
}
