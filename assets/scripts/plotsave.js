// Every figure as a picture and its numbers as a table, made in the browser. Loaded once, from this app.
(() => {
  /** Words of Plotly's small HTML as plain text. */
  function plain(html) {
    const text = String(html ?? '').replace(/<br\s*\/?>/gi, ' ').replace(/<[^>]*>/g, '');
    return text.replace(/&lt;/g, '<').replace(/&gt;/g, '>').replace(/&amp;/g, '&').trim();
  }

  const value = (list, i, from = 0, step = 1) => (list ? list[i] : from + i * step);
  const flat = (list, i) => (Array.isArray(list) || ArrayBuffer.isView(list) ? list[i] : undefined);

  /** One row for every point or cell that a figure shows. */
  function* records(plot) {
    for (const trace of plot._fullData) {
      const given = plot.data[trace.index] ?? trace;
      if (given.hoverinfo === 'skip' || trace.visible !== true) continue;
      const meta = trace.meta ?? {};
      const base = {trace: plain(given.name), panel: axisOf(plot, trace.xaxis ?? 'x')};
      if (trace.type === 'heatmap') yield* cells(trace, base, meta);
      else yield* points(trace, base, meta);
    }
  }

  function* cells(trace, base, meta) {
    for (let i = 0; i < trace.z.length; i += 1) {
      for (let j = 0; j < trace.z[i].length; j += 1) {
        const exact = flat(flat(trace.customdata, i), j);
        yield {
          ...base, x: value(trace.x, j, trace.x0, trace.dx), y: value(trace.y, i, trace.y0, trace.dy),
          [meta.value ?? 'value']: exact ?? trace.z[i][j], [meta.text ?? 'text']: flat(flat(trace.text, i), j),
        };
      }
    }
  }

  function* points(trace, base, meta) {
    const count = trace.y?.length ?? 0;
    for (let i = 0; i < count; i += 1) {
      const custom = flat(trace.customdata, i);
      yield {
        ...base, x: value(trace.x, i, trace.x0, trace.dx), y: trace.y[i],
        [meta.custom ?? 'of']: typeof custom === 'object' ? undefined : custom,
        [meta.text ?? 'text']: flat(trace.text, i), note: flat(trace.hovertext, i),
      };
    }
  }

  const axisOf = (plot, id) => plain(plot._fullLayout[`${id[0]}axis${id.slice(1)}`]?.title?.text);

  /** A field of the table; what a spreadsheet would take for a formula is kept a word. */
  function field(content) {
    if (content === undefined || content === null) return '';
    if (typeof content === 'number') return String(content);
    const words = plain(content).replace(/^([=+\-@\t\r])/, "'$1");
    return /[",\n]/.test(words) ? `"${words.replace(/"/g, '""')}"` : words;
  }

  /** The figure's numbers as comma-separated values; columns without content are left out. */
  function csv(plot) {
    const rows = [...records(plot)];
    const one = (key) => new Set(rows.map((row) => row[key])).size < 2;
    const names = {x: 'x', y: axisOf(plot, 'y') || 'y'};
    if (one('panel')) names.x = axisOf(plot, 'x') || 'x';
    const filled = (key) => rows.some((row) => row[key] !== undefined && row[key] !== '');
    const keys = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((key) => filled(key) && !(key === 'panel' && one(key)));
    const lines = rows.map((row) => keys.map((key) => field(row[key])).join(','));
    return [keys.map((key) => field(names[key] ?? key)).join(','), ...lines, ''].join('\r\n');
  }

  function download(address, name) {
    const link = document.createElement('a');
    Object.assign(link, {href: address, download: name});
    link.click();
  }

  function saveTable(plot, name) {
    const address = URL.createObjectURL(new Blob(['\uFEFF', csv(plot)], {type: 'text/csv'}));
    download(address, `${name}.csv`);
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  async function savePicture(plot, name) {
    const ground = getComputedStyle(document.body).getPropertyValue('--slim-surface').trim();
    const {width, height} = plot._fullLayout;
    const layout = {...plot.layout, paper_bgcolor: ground};
    const figure = {data: plot.data, layout, config: {plotlyServerURL: ''}};
    download(await window.Plotly.toImage(figure, {format: 'png', width, height, scale: 2}), `${name}.png`);
  }

  const WAYS = [{label: 'PNG', what: 'a picture', save: savePicture}, {label: 'CSV', what: 'a table', save: saveTable}];

  /** Two quiet buttons for a plot. */
  function buttons(plot, caption) {
    const bar = document.createElement('div');
    bar.className = 'pv-save';
    const name = () => (plain(plot.layout?.title?.text) || caption()).toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-+|-+$/g, '');
    for (const {label, what, save} of WAYS) {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = label;
      button.title = `Download as ${what}`;
      button.setAttribute('aria-label', `${label}: download “${caption()}” as ${what}`);
      button.addEventListener('click', () => save(plot, name()));
      bar.append(button);
    }
    return bar;
  }

  window.slimSave = {buttons, csv};
})();
