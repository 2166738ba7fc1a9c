// Score against accuracy: a point per model, the line of least squares, names where there is room.

const MOST_NAMES = 16;

class Checks {
  constructor(section) {
    this.section = section;
    this.host = section.querySelector('.chart');
    this.select = section.querySelector('select');
    this.tip = tip(this.host);
    this.points = [];
    this.text = '';
    this.select.onchange = () => this.draw();
    visiting(this.host, () => [this.points], (p) => this.show(p), () => this.leave());
    new ResizeObserver(() => this.draw()).observe(this.host);
  }

  use(panel) {
    this.panel = panel;
    const before = this.select.value;
    this.select.replaceChildren(...panel.checks.map((c) => element('option', { value: c.head }, c.head)));
    if (panel.checks.some((check) => check.head === before)) this.select.value = before;
    this.section.hidden = !panel.checks.length;
    this.draw();
  }

  filter(text) {
    this.text = text;
    this.draw();
  }

  leave() {
    this.tip.hide();
    this.host.querySelectorAll('.here').forEach((mark) => mark.remove());
  }

  show(point) {
    this.leave();
    this.chart.svg.append(drawn('circle', { cx: point.px, cy: point.py, r: 8, class: 'here' }));
    this.tip.show(this.chart, point, point.model, [
      `${this.panel.metric} ${written(point.score)}`, `${point.measure} ${(100 * point.accuracy).toFixed(1)} %`,
    ]);
  }

  draw() {
    const check = this.panel?.checks.find((c) => c.head === this.select.value);
    this.host.querySelector('svg')?.remove();
    this.points = [];
    if (!check) return;
    const [xs, ys] = [1, 2].map((i) => check.points.map((p) => p[i]));
    const [left, right] = padded(Math.min(...xs), Math.max(...xs));
    const [low, high] = padded(Math.min(...ys), Math.max(...ys));
    this.chart = framed(
      this.host, `${check.measure} of ${check.head} against ${this.panel.metric}`,
      `${check.points.length} models. Arrow keys read the points.`,
      { low: left, high: right, name: this.panel.metric },
      { low: 100 * low, high: 100 * high, name: `${check.measure} of ${check.head}, %` }, 360,
    );
    const { svg, atX, atY, box } = this.chart;
    if (check.trend) {
      const [x1, y1, x2, y2] = check.trend;
      svg.append(drawn('line', {
        x1: atX(x1), y1: atY(100 * y1), x2: atX(x2), y2: atY(100 * y2), class: 'trend',
      }));
    }
    const shown = check.points.filter(([model]) => model.toLowerCase().includes(this.text));
    this.points = shown.map(([model, score, accuracy, short]) => ({
      model, short, score, accuracy, measure: check.measure, px: atX(score), py: atY(100 * accuracy),
    })).sort((a, b) => a.px - b.px);
    svg.append(...this.points.map((p) => marker(0, p.px, p.py)));
    this.host.prepend(svg);
    if (this.points.length <= MOST_NAMES) this.named(box);
    this.tip.hide();
  }

  // Names beside their points, left out where they would cover another name.
  named(box) {
    const taken = [];
    for (const point of this.points) {
      const label = drawn('text', { class: 'name', x: point.px + 7, y: point.py - 5 }, point.short);
      this.chart.svg.append(label);
      let at = label.getBBox();
      if (at.x + at.width > box.right) {
        label.setAttribute('x', point.px - 7);
        label.setAttribute('text-anchor', 'end');
        at = label.getBBox();
      }
      const hits = (b) => at.x < b.x + b.width && b.x < at.x + at.width && at.y < b.y + b.height && b.y < at.y + at.height;
      if (at.x < 0 || taken.some(hits)) label.remove(); else taken.push(at);
    }
  }
}
