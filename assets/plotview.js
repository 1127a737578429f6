// Draws one Plotly figure per PlotView and keeps it in step with its size and the theme. Loaded once, from this app.
(() => {
  const MODEBAR = ['sendChartToCloud', 'sendDataToCloud', 'editInChartStudio', 'select2d', 'lasso2d', 'autoScale2d', 'zoomIn2d', 'zoomOut2d'];
  const CONFIG = {
    plotlyServerURL: '', // plotly.js 4 offers to upload the chart otherwise
    modeBarButtonsToRemove: MODEBAR,
    displaylogo: false,
    showSendToCloud: false,
    responsive: false, // our own ResizeObserver also sees tabs being shown
  };

  /** The buttons come with the pointer; on a phone there is neither pointer nor room. */
  const config = (width) => ({...CONFIG, displayModeBar: width < 480 ? false : 'hover'});

  const dark = () => document.body.classList.contains('dark');
  const style = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

  /** The figure with every light colour replaced by its dark counterpart. Long strings are data, not colours. */
  function recoloured(node, swaps) {
    if (typeof node === 'string') return node.length < 24 ? swaps[node.toLowerCase()] ?? node : node;
    if (Array.isArray(node)) {
      return node.some((x) => typeof x !== 'number') ? node.map((x) => recoloured(x, swaps)) : node;
    }
    if (!node || typeof node !== 'object') return node;
    return Object.fromEntries(Object.entries(node).map(([key, x]) => [key, recoloured(x, swaps)]));
  }

  /** The page's font and ink for all that the figure leaves open. */
  function dressed(layout, data, width, height) {
    const muted = style('--slim-muted');
    const line = style('--slim-line');
    const font = {family: style('--font') || 'sans-serif', size: 13, color: style('--slim-ink'), ...layout.font};
    const dress = {...layout, width, height, autosize: false, font};
    dress.hoverlabel = {
      bgcolor: style('--slim-raised'), bordercolor: style('--slim-line-strong'), align: 'left',
      ...layout.hoverlabel, font: {family: font.family, size: 13, color: style('--slim-ink')},
    };
    dress.modebar = {bgcolor: 'rgba(0,0,0,0)', color: muted, activecolor: style('--slim-accent'), ...layout.modebar};
    for (const key of Object.keys(dress)) {
      if (!/^[xy]axis\d*$/.test(key)) continue;
      dress[key] = {gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line, ...dress[key]};
      dress[key].tickfont = {color: muted, size: 12, ...dress[key].tickfont};
    }
    if (width < 480) narrow(dress, data, width);
    else if (dress.legend?.y > 1) dress.legend = {...dress.legend, yref: 'container', y: 1 - 14 / height, yanchor: 'top'};
    if (matchMedia('(prefers-reduced-motion: reduce)').matches) delete dress.transition;
    return presenting() ? enlarged(dress) : dress;
  }

  const presenting = () => document.documentElement.classList.contains('presenting');
  const LARGER = 1.35;

  /** The layout with all its type larger, and more room around the plot for it. */
  function enlarged(node, key = '') {
    if (Array.isArray(node)) return node.map((x) => enlarged(x));
    if (!node || typeof node !== 'object') return node;
    const grown = key === 'margin' ? Object.keys(node) : /font$/.test(key) ? ['size'] : [];
    return Object.fromEntries(Object.entries(node).map(([name, x]) => (
      [name, grown.includes(name) ? LARGER * x : enlarged(x, name)]
    )));
  }

  /** On a phone the title wraps, legend and colour bar go below, and fewer numbers stand on the axis. */
  function narrow(dress, data, width) {
    const margin = {...dress.margin};
    margin.l = Math.min(margin.l ?? 64, 52);
    margin.r = Math.min(margin.r ?? 24, dress.yaxis2?.side === 'right' ? 44 : 26);
    const lines = wrapped(dress.title?.text ?? '', width - 44);
    margin.t = (margin.t ?? 52) + 18 * (lines.length - 1);
    const pad = {...dress.title?.pad, t: 16 + 8 * (lines.length - 1)};
    dress.title = {...dress.title, text: lines.join('<br>'), pad};
    const names = new Set(data.filter((t) => t.name && t.showlegend !== false).map((t) => t.name));
    if (dress.coloraxis) {
      const bar = {...dress.coloraxis.colorbar, orientation: 'h', x: 0, xanchor: 'left', xpad: 0, len: 1};
      bar.title = {...bar.title, side: 'bottom'};
      dress.coloraxis = {...dress.coloraxis, colorbar: {...bar, y: 0, yref: 'container', yanchor: 'bottom', ypad: 8}};
      margin.b = 52 + 62;
    } else if (names.size > 1 || dress.showlegend) {
      margin.b = 52 + 22 * rows(names, width - 60);
      dress.legend = {...dress.legend, x: 0, xanchor: 'left', y: 0, yref: 'container', yanchor: 'bottom'};
    }
    dress.margin = margin;
    for (const key of Object.keys(dress)) {
      if (/^xaxis\d*$/.test(key)) dress[key] = sparse(dress[key], width);
    }
  }

  /** Words in lines of about this many pixels. */
  function wrapped(text, pixels) {
    const most = Math.max(12, Math.floor(pixels / 7.2));
    return text.split(' ').reduce((lines, word) => {
      const last = lines[lines.length - 1];
      if (last !== undefined && last.length + word.length < most) lines[lines.length - 1] = `${last} ${word}`;
      else lines.push(word);
      return lines;
    }, []);
  }

  /** How many rows the legend will need: Plotly sets entries that do not fit into one row in columns as wide as the
   * longest. */
  function rows(names, pixels) {
    const widths = [...names].map((name) => name.length * 6.4 + 56);
    if (1.15 * widths.reduce((sum, width) => sum + width, 0) <= pixels) return 1;
    return Math.ceil(names.size / Math.max(1, Math.floor(pixels / Math.max(...widths))));
  }

  function sparse(axis, width) {
    const most = Math.max(3, Math.floor(width / 44));
    if (!axis.tickvals || axis.tickvals.length <= most) return {...axis, nticks: Math.min(axis.nticks ?? 4, 4), tickangle: 0};
    const every = Math.ceil(axis.tickvals.length / most);
    return {...axis, tickvals: axis.tickvals.filter((_, i) => i % every === 0), tickangle: 0};
  }

  function detail(event) {
    const p = event.points[0];
    return {
      x: p.x ?? null, y: p.y ?? null, curve: p.curveNumber, i: p.pointNumber ?? p.pointIndex ?? null,
      custom: p.customdata ?? null,
    };
  }

  // Keys: arrows go from point to point as the pointer would, Enter is a click. ----------------------------------

  const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};

  /** The point next to `at` in this direction; the first one when there is none yet. */
  function neighbour(plot, at, [across, down]) {
    const curve = at?.curveNumber ?? plot._fullData.findIndex((t) => t.hoverinfo !== 'skip' && t.x?.length);
    const trace = plot._fullData[curve];
    if (!trace?.x?.length) return null;
    const within = (i, list) => Math.min(list.length - 1, Math.max(0, i));
    if (trace.type !== 'heatmap') {
      const i = at ? within(at.pointNumber + across, trace.x) : 0;
      return {x: trace.x[i], y: trace.y[i], curveNumber: curve, pointNumber: i, customdata: trace.customdata?.[i]};
    }
    const [row, column] = at?.pointNumber ?? [-down, -across];
    const [i, j] = [within(row + down, trace.y), within(column + across, trace.x)];
    return {x: trace.x[j], y: trace.y[i], curveNumber: curve, pointNumber: [i, j]};
  }

  /** What a screen reader says of the point: axis titles and values. */
  function said(plot, {x, y, curveNumber}) {
    const {xaxis = 'x', yaxis = 'y'} = plot._fullData[curveNumber];
    const name = (id) => plot._fullLayout[`${id[0]}axis${id.slice(1)}`]?.title?.text ?? '';
    const show = (value) => (typeof value === 'number' ? Number(value.toPrecision(4)).toLocaleString('en-US') : value);
    return `${name(xaxis)} ${show(x)}, ${name(yaxis)} ${show(y)}`;
  }

  function steer(event, plot, state, click) {
    if (event.key === 'Enter' && state.at) click(detail({points: [state.at]}));
    else if (event.key in ARROWS) {
      state.at = neighbour(plot, state.at, ARROWS[event.key]) ?? state.at;
      if (!state.at) return;
      const {x, y, curveNumber, pointNumber} = state.at;
      const map = Array.isArray(pointNumber);
      window.Plotly.Fx.hover(plot, map ? {xval: x, yval: y} : [{curveNumber, pointNumber}]);
      state.voice.textContent = said(plot, state.at);
    } else return;
    event.preventDefault();
  }

  function mount(element, props, watch, click) {
    const Plotly = window.Plotly;
    const box = element.querySelector('.plotview');
    const plot = document.createElement('div');
    const note = document.createElement('p');
    plot.className = 'pv-plot';
    note.className = 'pv-empty';
    const state = {at: null, voice: document.createElement('span')}; // the point last hovered, and what is said of it
    state.voice.className = 'pv-voice';
    state.voice.setAttribute('aria-live', 'polite');
    plot.tabIndex = 0;
    plot.addEventListener('keydown', (event) => listening && steer(event, plot, state, click));
    plot.addEventListener('blur', () => listening && Plotly.Fx.unhover(plot));
    box.replaceChildren(plot, note, state.voice);
    let listening = false;
    let queued = 0;

    function paint() {
      queued = 0;
      box.style.height = `${props.height}px`;
      note.textContent = props.placeholder ?? '';
      const text = props.value;
      note.hidden = Boolean(text);
      plot.hidden = !text;
      plot.setAttribute('role', 'group'); // not img: one walks within it by keys
      plot.setAttribute('aria-label', props.caption ?? '');
      if (!text) {
        if (listening) Plotly.purge(plot);
        listening = false;
        state.at = null;
        return;
      }
      const width = box.clientWidth;
      if (!width) return; // hidden: the ResizeObserver calls again when shown
      const figure = JSON.parse(text);
      const {data, layout} = dark() ? recoloured(figure, window.slimSwaps ?? {}) : figure;
      Plotly.react(plot, data, dressed(layout ?? {}, data, width, props.height), config(width)).then(() => {
        if (listening) return;
        listening = true;
        plot.on('plotly_click', (event) => click(detail(event)));
        plot.on('plotly_hover', (event) => {
          [state.at] = event.points;
        });
      });
    }

    const later = () => {
      queued ||= requestAnimationFrame(paint);
    };
    watch(['value', 'height', 'caption', 'placeholder'], later);
    let seen = box.clientWidth;
    new ResizeObserver(() => {
      if (box.clientWidth !== seen) later();
      seen = box.clientWidth;
    }).observe(box);
    let theme = dark();
    new MutationObserver(() => {
      if (dark() !== theme) later();
      theme = dark();
    }).observe(document.body, {attributes: true, attributeFilter: ['class']});
    document.addEventListener('slim:presenting', later);
    paint();
  }

  window.slimPlot = {mount};
})();
