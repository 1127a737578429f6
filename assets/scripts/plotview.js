// Draws one Plotly figure per PlotView and keeps it in step with its size and the theme. Loaded once, from this app.
(() => {
  const CONFIG = {
    plotlyServerURL: '', // plotly.js 4 offers to upload the chart otherwise
    displaylogo: false,
    showSendToCloud: false,
    responsive: false, // our own ResizeObserver also sees tabs being shown
  };

  const touch = matchMedia('(hover: none)').matches;
  const FOLDED = 72; // px of an empty plot that folds
  const SAVING = 30; // px below a plot for its buttons, where they cannot come with the pointer

  /** The buttons come with the pointer; on a phone there is neither pointer nor room. */
  const config = (width, picks) => ({
    ...CONFIG,
    displayModeBar: width < 480 || touch ? false : 'hover',
    modeBarButtons: [['zoom2d', 'pan2d', ...(picks ? ['select2d'] : []), 'resetScale2d']],
  });

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
  function dressed(layout, data, {width, height, picks}) {
    const muted = style('--slim-muted');
    const line = style('--slim-line');
    const font = {family: style('--font') || 'sans-serif', size: 13, color: style('--slim-ink'), ...layout.font};
    const dress = {...layout, width, height, autosize: false, font};
    // a finger that moves over a plot scrolls the page
    dress.dragmode = touch ? false : layout.dragmode ?? (picks ? 'select' : 'zoom');
    const frame = {line: {color: style('--slim-accent'), width: 2, dash: 'solid'}};
    if (picks) Object.assign(dress, {newselection: frame, activeselection: {opacity: 0}});
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
    fitSubtitle(dress, width);
    if (width < 480) narrow(dress, data, width);
    else if (dress.legend?.y > 1) dress.legend = {...dress.legend, yref: 'container', y: 1 - 14 / height, yanchor: 'top'};
    if (matchMedia('(prefers-reduced-motion: reduce)').matches) delete dress.transition;
    return presenting() ? enlarged(dress) : dress;
  }

  const [SUBTITLE_LINE, SUBTITLE_LETTER] = [16, 6.2]; // px

  /** The line under the title goes on in further lines where the plot is too narrow for it. */
  function fitSubtitle(dress, width) {
    const subtitle = dress.title?.subtitle;
    if (!subtitle?.text) return;
    const lines = wrapped(subtitle.text, (width - 44) / (presenting() ? LARGER : 1), SUBTITLE_LETTER);
    dress.title = {...dress.title, subtitle: {...subtitle, text: lines.join('<br>')}};
    dress.margin = {...dress.margin, t: (dress.margin?.t ?? 52) + SUBTITLE_LINE * (lines.length - 1)};
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
      if (names.size) { // signs on the map: their legend stands between the map and the colour bar
        dress.legend = {...dress.legend, x: 0, xanchor: 'left', y: 70 / dress.height, yref: 'container', yanchor: 'bottom'};
        margin.b += 24;
      }
    } else if (names.size > 1 || dress.showlegend) {
      margin.b = 52 + 22 * rows(names, width - 60);
      dress.legend = {...dress.legend, x: 0, xanchor: 'left', y: 0, yref: 'container', yanchor: 'bottom'};
    }
    dress.margin = margin;
    for (const key of Object.keys(dress)) {
      if (/^xaxis\d*$/.test(key)) dress[key] = sparse(dress[key], width);
    }
  }

  /** Words in lines of about this many pixels, by the usual width of a letter. */
  function wrapped(text, pixels, letter = 7.2) {
    const most = Math.max(12, Math.floor(pixels / letter));
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

  function mount(element, props, watch, tell) {
    const Plotly = window.Plotly;
    const box = element.querySelector('.plotview');
    const plot = document.createElement('div');
    const note = document.createElement('p');
    plot.className = 'pv-plot';
    note.className = 'pv-empty';
    plot.tabIndex = 0;
    const save = window.slimSave.buttons(plot, () => props.caption ?? '');
    box.replaceChildren(plot, note, save);
    const pick = window.slimPick.attach(box, plot, props, tell, detail);
    plot.addEventListener('keydown', (event) => listening && pick.keys(event));
    plot.addEventListener('blur', () => listening && Plotly.Fx.unhover(plot));
    let listening = false;
    let kind = null;
    let queued = 0;
    let drawn = 0; // the width of the picture, 0 while it is not in step with the value

    /** An empty place, or one where something went wrong, says so. */
    function bare(words, wrong) {
      note.textContent = words;
      note.classList.toggle('pv-wrong', wrong);
      if (listening) Plotly.purge(plot);
      listening = false;
      pick.reset();
    }

    function paint() {
      queued = 0;
      const figure = props.value ? JSON.parse(props.value) : null;
      const empty = !figure?.data;
      box.style.height = `${empty && props.folds ? FOLDED : props.height + (touch ? SAVING : 0)}px`;
      note.hidden = !empty;
      plot.hidden = empty;
      save.hidden = empty;
      plot.setAttribute('role', 'group'); // not img: one walks within it by keys
      plot.setAttribute('aria-label', props.caption ?? '');
      if (empty) {
        bare(figure?.said ?? props.placeholder ?? '', Boolean(figure?.said));
        return;
      }
      const width = box.clientWidth;
      drawn = width;
      if (!width) return; // hidden: the ResizeObserver calls again when shown
      const {data, layout} = dark() ? recoloured(figure, window.slimSwaps ?? {}) : figure;
      const dress = dressed(layout ?? {}, data, {width, height: props.height, picks: props.picks});
      Plotly.react(plot, data, dress, config(width, props.picks)).then(() => {
        if (dress.uirevision !== kind) pick.reset(); // another picture: what was chosen on the last is not on it
        kind = dress.uirevision;
        pick.place();
        if (listening) return;
        listening = true;
        pick.listen();
      });
    }

    const later = () => {
      queued ||= requestAnimationFrame(paint);
    };
    watch(['value', 'height', 'caption', 'placeholder', 'picks'], later);
    new ResizeObserver(() => {
      if (box.clientWidth && box.clientWidth !== drawn) later(); // what comes back as it was is still drawn
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
