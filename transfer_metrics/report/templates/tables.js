// Tables that are sorted by their headings, filtered by text, and shown in parts.

const FIRST_ROWS = 25;

class SortableTable {
  constructor(table) {
    this.table = table;
    this.body = table.tBodies[0];
    this.rows = [...this.body.rows];
    this.texts = this.rows.map((row) => (row.dataset.find || row.textContent).toLowerCase());
    this.text = '';
    this.whole = this.rows.length <= FIRST_ROWS + 5;
    this.headings = [...table.tHead.rows[0].cells];
    for (const heading of this.headings) {
      const button = heading.querySelector('button');
      if (button) button.onclick = () => this.sort(heading);
    }
    if (!this.whole) {
      this.more = element('button', { type: 'button', class: 'plain' });
      this.more.onclick = () => { this.whole = !this.whole; this.show(); };
      table.parentElement.after(this.more);
    }
    this.show();
  }

  // Numbers start with the largest, ranks and text with the first; rows without a value
  // and failures stay last.
  sort(heading) {
    const column = heading.cellIndex;
    const first = heading.dataset.first || 'ascending';
    const other = first === 'ascending' ? 'descending' : 'ascending';
    const order = heading.getAttribute('aria-sort') === first ? other : first;
    this.headings.forEach((h) => h.hasAttribute('aria-sort') && h.setAttribute('aria-sort', 'none'));
    heading.setAttribute('aria-sort', order);
    const sign = order === 'ascending' ? 1 : -1;
    const value = (row) => {
      const cell = row.cells[column];
      if (!cell) return null;
      if (!('value' in cell.dataset)) return cell.textContent.trim().toLowerCase() || null;
      return cell.dataset.value === '' ? null : Number(cell.dataset.value);
    };
    const keyed = [...this.body.rows].map((row, i) => (
      { row, i, value: value(row), last: 'last' in row.dataset }));
    keyed.sort((a, b) => {
      if (a.last !== b.last) return a.last - b.last;
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.i - b.i;
      const less = typeof a.value === 'number' ? a.value - b.value : a.value.localeCompare(b.value);
      return sign * less || a.i - b.i;
    });
    this.body.append(...keyed.map((k) => k.row));
    this.show();
  }

  filter(text) {
    this.text = text;
    this.show();
  }

  show() {
    const matches = new Set(this.rows.filter((_, i) => this.texts[i].includes(this.text)));
    let count = 0;
    for (const row of this.body.rows) {
      const match = matches.has(row);
      row.hidden = !match || (!this.whole && count >= FIRST_ROWS);
      count += match;
    }
    this.matching = count;
    if (this.more) {
      this.more.hidden = count <= FIRST_ROWS;
      this.more.textContent = this.whole ? `Show the first ${FIRST_ROWS}` : `Show all ${count}`;
    }
  }
}

// Arrow keys move between the buttons of a column, which are one stop of the Tab key.
function roving(table) {
  const buttons = () => [...table.querySelectorAll('tbody tr:not([hidden]) .pick')];
  const focusable = (chosen) => {
    table.querySelectorAll('.pick').forEach((b) => { b.tabIndex = b === chosen ? 0 : -1; });
  };
  focusable(buttons()[0]);
  table.addEventListener('focusin', (event) => {
    if (event.target.classList.contains('pick')) focusable(event.target);
  });
  table.addEventListener('keydown', (event) => {
    const all = buttons();
    const at = all.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined || !all[to]) return;
    event.preventDefault();
    all[to].focus();
  });
}
