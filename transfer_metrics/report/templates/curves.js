// Score against depth: one curve per model, the chosen ones in colour.

const FIRST_CHOSEN = 5;

class Curves {
  constructor(section) {
    this.host = section.querySelector('.chart');
    this.chips = section.querySelector('.chips');
    this.note = section.querySelector('.empty');
    this.tip = tip(this.host);
    this.chosen = new Map(); // number of a model -> slot of its colour and marker
    this.touched = false;
    this.text = '';
    this.lit = null;
    this.points = [];
    visiting(this.host, () => this.points, (p) => this.show(p), () => this.light(null));
    new ResizeObserver(() => this.draw()).observe(this.host);
  }

  // Another ranking; the models that were chosen by hand stay chosen.
  use(panel) {
    this.panel = panel;
    if (!this.touched) {
      this.chosen.clear();
      panel.curves.slice(0, FIRST_CHOSEN).forEach((curve, slot) => this.chosen.set(curve.id, slot));
    }
    this.chips.replaceChildren(...panel.curves.map((curve) => {
      const chip = element('button', { type: 'button', 'data-id': curve.id });
      chip.onclick = () => this.toggle(curve.id);
      chip.onpointerenter = chip.onfocus = () => this.light(curve.id);
      chip.onpointerleave = chip.onblur = () => this.light(null);
      return chip;
    }));
    this.draw();
  }

  toggle(id) {
    this.touched = true;
    if (this.chosen.has(id)) {
      this.chosen.delete(id);
    } else {
      const taken = new Set(this.chosen.values());
      let slot = 0;
      while (taken.has(slot)) slot += 1;
      this.chosen.set(id, slot);
    }
    this.draw();
    document.dispatchEvent(new CustomEvent('chosen'));
  }

  filter(text) {
    this.text = text;
    this.draw();
  }

  light(id) {
    if (id === null) this.tip.hide();
    this.host.querySelectorAll('.here').forEach((mark) => mark.remove());
    this.lit = id;
    this.host.querySelectorAll('.curve').forEach((curve) => {
      curve.classList.toggle('lit', curve.dataset.id === String(id));
    });
  }

  show(point) {
    this.light(point.id);
    const { model, depth, score, low, high, layer, dim } = point;
    const lines = [`layer ${layer}`, `${this.panel.metric} ${written(score)}`];
    if (low !== null) lines.push(`95 % interval ${written(low)} to ${written(high)}`);
    lines.push(`depth ${written(depth)}${dim === null ? '' : `, ${dim} features`}`);
    this.chart.svg.append(drawn('circle', { cx: point.px, cy: point.py, r: 7, class: 'here' }));
    this.tip.show(this.chart, point, model, lines);
  }

  visible() {
    return this.panel.curves.filter((curve) => curve.model.toLowerCase().includes(this.text));
  }

  draw() {
    if (!this.panel) return;
    const curves = this.visible();
    this.labelled(new Set(curves.map((curve) => curve.id)));
    this.host.querySelector('svg')?.remove();
    this.host.hidden = !curves.length;
    this.note.hidden = Boolean(curves.length);
    this.points = [];
    if (!curves.length) return;
    const values = curves.flatMap((curve) => curve.points.flatMap((p) => (
      this.chosen.has(curve.id) ? [p[1], p[2] ?? p[1], p[3] ?? p[1]] : [p[1]])));
    // Not Math.min(...values): thousands of values are too many arguments for some browsers.
    const ends = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    const [low, high] = padded(...ends);
    const names = curves.filter((c) => this.chosen.has(c.id)).map((c) => c.short).join(', ');
    this.chart = framed(
      this.host, `${this.panel.metric} by depth on ${this.panel.label}`,
      `${curves.length} curves; in colour: ${names || 'none'}. Arrow keys read the points.`,
      { low: 0, high: 1, name: 'depth, as a share of the network' },
      { low, high, name: this.panel.metric }, this.host.clientWidth < 500 ? 320 : 400,
    );
    // Chosen curves lie on top, the best of them uppermost, and come first for the arrow keys.
    const isChosen = (curve) => this.chosen.has(curve.id);
    const order = [...curves.filter(isChosen), ...curves.filter((curve) => !isChosen(curve))];
    for (const curve of order.reverse()) this.add(curve);
    this.points.reverse();
    this.host.prepend(this.chart.svg);
    this.tip.hide();
  }

  add(curve) {
    const { svg, atX, atY } = this.chart;
    const places = curve.points.map(([depth, score, low, high, layer, dim]) => ({
      id: curve.id, model: curve.model, depth, score, low, high, layer, dim, px: atX(depth), py: atY(score),
    }));
    this.points.push(places);
    const line = places.map((p, i) => `${i ? 'L' : 'M'}${p.px.toFixed(1)},${p.py.toFixed(1)}`).join('');
    const slot = this.chosen.get(curve.id);
    if (slot === undefined) {
      svg.append(drawn('path', { d: line, class: 'curve other', 'data-id': curve.id }));
      return;
    }
    if (places.every((p) => p.low !== null)) {
      const up = places.map((p) => `${p.px},${atY(p.high)}`);
      const down = places.map((p) => `${p.px},${atY(p.low)}`).reverse();
      svg.append(drawn('polygon', { points: [...up, ...down].join(' '), class: `band s${slot % COLOURS}` }));
    }
    const path = drawn('path', { d: line, class: `curve s${slot % COLOURS}`, 'data-id': curve.id, fill: 'none' });
    svg.append(path, ...places.map((p) => marker(slot, p.px, p.py)));
  }

  labelled(shown) {
    for (const chip of this.chips.children) {
      const id = Number(chip.dataset.id);
      const slot = this.chosen.get(id);
      const curve = this.panel.curves.find((c) => c.id === id);
      chip.replaceChildren(...(slot === undefined ? [] : [key(slot)]), curve.short);
      chip.setAttribute('aria-pressed', String(slot !== undefined));
      chip.hidden = !shown.has(id);
    }
  }
}
