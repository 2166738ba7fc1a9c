// One ranking is shown at a time; its choice and the filter reach every table and chart.

{
  const data = JSON.parse(document.getElementById('data').textContent);
  const controls = document.querySelector('.controls');
  const status = controls.querySelector('.status');
  const select = controls.querySelector('select');
  const search = controls.querySelector('input');
  const panels = [...document.querySelectorAll('[data-panel]')];
  const grids = [...document.querySelectorAll('[data-grid]')];
  const tables = [...document.querySelectorAll('table.sortable')].map((t) => new SortableTable(t));
  const section = document.getElementById('layers');
  const curves = section && new Curves(section);
  const checked = document.getElementById('checks');
  const checks = checked && new Checks(checked);

  const told = () => {
    const shown = tables.filter((t) => t.table.closest('[data-panel]:not([hidden])'));
    const rows = shown.reduce((sum, t) => sum + t.matching, 0);
    status.textContent = search.value && shown.length ? `${rows} of ${shown[0].rows.length} rows match` : '';
  };

  const pressed = () => {
    for (const button of document.querySelectorAll('.pick')) {
      const slot = curves?.chosen.get(Number(button.dataset.id));
      button.setAttribute('aria-pressed', String(slot !== undefined));
      button.querySelector('svg')?.remove();
      if (slot !== undefined) button.prepend(key(slot));
    }
  };

  const choose = (index) => {
    panels.forEach((panel) => { panel.hidden = panel.dataset.panel !== String(index); });
    const panel = data.panels[index];
    if (!panel) return;
    document.querySelectorAll('[data-setting]').forEach((part) => {
      const { setting, metric } = part.dataset;
      part.hidden = setting !== String(panel.setting) || (metric ?? panel.metric) !== panel.metric;
    });
    const own = grids.filter((grid) => grid.dataset.grid === panel.metric);
    grids.forEach((grid) => { grid.hidden = grid !== (own[0] || grids[0]); });
    curves?.use(panel);
    checks?.use(panel);
    pressed();
    told();
  };

  controls.hidden = false;
  if (select) select.onchange = () => choose(Number(select.value));
  search.oninput = () => {
    const text = search.value.trim().toLowerCase();
    [...tables, curves, checks].forEach((part) => part?.filter(text));
    told();
  };
  document.addEventListener('chosen', pressed);
  panels.flatMap((panel) => [...panel.querySelectorAll('table')]).forEach((table) => {
    roving(table);
    for (const button of table.querySelectorAll('.pick')) {
      const id = Number(button.dataset.id);
      button.onclick = () => curves?.toggle(id);
      const row = button.closest('tr');
      row.onpointerenter = () => curves?.light(id);
      row.onpointerleave = () => curves?.light(null);
      button.onfocus = () => curves?.light(id);
      button.onblur = () => curves?.light(null);
    }
  });
  choose(0);
}
