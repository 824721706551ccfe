// Of the page that report.py writes; it is copied into it: sorts and filters the tables, reads
// values off the plots.
const all = (query, root = document) => [...root.querySelectorAll(query)];
for (const button of all('.sortable th button')) button.onclick = () => {
  const head = button.parentNode, column = [...head.parentNode.children].indexOf(head);
  const body = head.closest('table').tBodies[0];
  const sign = head.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
  for (const other of all('th', head.parentNode)) other.removeAttribute('aria-sort');
  head.setAttribute('aria-sort', sign > 0 ? 'ascending' : 'descending');
  const key = row => row.children[column].dataset.v, text = row => row.children[column].textContent;
  const missing = row => column > 0 && key(row) === undefined;
  const order = (a, b) => missing(a) - missing(b) ||
    sign * (column ? key(a) - key(b) : text(a).localeCompare(text(b), 'en', {numeric: true}));
  body.append(...[...body.rows].sort(order));
};
const filter = document.getElementById('filter'), count = document.getElementById('count');
const parts = all('[data-seq]');
filter.oninput = () => {
  const wanted = filter.value.trim().toLowerCase();
  for (const part of parts) part.hidden = !part.dataset.seq.toLowerCase().includes(wanted);
  const rows = parts.filter(part => part.tagName === 'TR');
  count.textContent = wanted ? rows.filter(row => !row.hidden).length + ' of ' + rows.length : '';
};
filter.oninput();
for (const plot of all('svg.plot')) {
  if (!plot.dataset.axes) continue;
  const [left, right, bottom, top, x0, x1, y0, y1] = plot.dataset.axes.split(' ').map(Number);
  const make = (name, kind) => {
    const made = document.createElementNS(plot.namespaceURI, name);
    made.setAttribute('class', kind);
    return plot.appendChild(made);
  };
  const note = make('text', 'note'), rule = make('line', 'rule');
  note.setAttribute('text-anchor', 'end');
  note.setAttribute('x', right);
  note.setAttribute('y', top - 7);
  rule.setAttribute('y1', top);
  rule.setAttribute('y2', bottom);
  const lines = all('polyline[data-name]', plot);
  plot.onpointerleave = () => {
    note.textContent = '';
    rule.style.display = 'none';
  };
  plot.onpointerleave();
  plot.onpointermove = event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(
      plot.getScreenCTM().inverse()).x;
    const points = lines.flatMap(line => [...line.points].map(p => ({name: line.dataset.name, p})));
    if (!points.length) return;
    const near = points.reduce((a, b) => Math.abs(b.p.x - at) < Math.abs(a.p.x - at) ? b : a).p.x;
    const read = points.filter(({p}) => Math.abs(p.x - near) < 0.06).map(({name, p}) =>
      name + ' ' + (y0 + (bottom - p.y) / (bottom - top) * (y1 - y0)).toFixed(2));
    const x = x0 + (near - left) / (right - left) * (x1 - x0);
    note.textContent = +x.toFixed(1) + ': ' + read.slice(0, 4).join('  ');
    for (const end of ['x1', 'x2']) rule.setAttribute(end, near);
    rule.style.display = '';
  };
}
