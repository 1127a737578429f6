// The cursor on a plot: arrows go from point to point as the pointer would, Enter is a click. On maps that are there to
// pick from, Shift or the mouse makes it a range, and letters say what shall happen to it: wherever the focus is, as long
// as no other control takes the letter. Loaded once, from this app.
(() => {
  const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
  const LETTERS = {p: 'protect', f: 'force', c: 'clear', l: 'layer'};
  const TAKERS = 'input, textarea, select, [contenteditable], [role="slider"], [role="listbox"], .pv-plot';
  const PICKED = 'slimllm:picked'; // one map at a time has a cursor
  const touch = matchMedia('(hover: none)').matches;

  const within = (i, list) => Math.min(list.length - 1, Math.max(0, i));
  const live = (plot) => plot._fullData.findIndex((t) => t.hoverinfo !== 'skip' && t.x?.length);

  /** Whether a point is one of this figure: another may have taken its place. */
  function fits(plot, at) {
    const trace = plot._fullData[at?.curveNumber];
    if (!trace?.x?.length) return false;
    if (trace.type !== 'heatmap') return at.pointNumber < trace.x.length;
    return at.pointNumber?.[0] < trace.y.length && at.pointNumber[1] < trace.x.length;
  }

  /** The point next to `at` in this direction; the first one when there is none yet. */
  function neighbour(plot, point, [across, down]) {
    const at = fits(plot, point) ? point : null;
    const curve = at?.curveNumber ?? live(plot);
    const trace = plot._fullData[curve];
    if (!trace?.x?.length) return null;
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

  /** Where the cell around entry i of these middles begins and ends. */
  function edges(middles, i) {
    const here = Number(middles[i]);
    const before = i > 0 ? (here + Number(middles[i - 1])) / 2 : null;
    const after = i < middles.length - 1 ? (here + Number(middles[i + 1])) / 2 : null;
    return [before ?? (after === null ? here - 0.5 : 2 * here - after), after ?? (before === null ? here + 0.5 : 2 * here - before)];
  }

  /** What a point covers: {x: [from, to], y: [from, to]}, y null where the plot is of one layer only. */
  function extent(plot, point) {
    const trace = plot._fullData[point.curveNumber];
    if (trace.type !== 'heatmap') return {x: [point.x - 0.5, point.x + 0.5], y: null};
    const [row, column] = point.pointNumber;
    return {x: edges(trace.x, column), y: edges(trace.y, row)};
  }

  const joined = (one, other) => one && other && [Math.min(one[0], other[0]), Math.max(one[1], other[1])];
  const union = (one, other) => (one && other ? {x: joined(one.x, other.x), y: joined(one.y, other.y)} : one ?? other);

  /** The cells that a dragged frame touches. */
  function touched(plot, range) {
    const [low, high] = [...range.x].sort((a, b) => a - b);
    const trace = plot._fullData[live(plot)];
    if (!trace) return null;
    if (trace.type !== 'heatmap') return {x: [Math.round(low) - 0.5, Math.round(high) + 0.5], y: null};
    const [top, bottom] = [...range.y].sort((a, b) => a - b);
    const over = (list, from, to) => Array.from(list, (_, i) => edges(list, i)).filter(([a, b]) => b > from && a < to);
    const rows = plot._fullData.filter((t) => t.type === 'heatmap').flatMap((t) => over(t.y, top, bottom));
    const columns = over(trace.x, low, high);
    if (!rows.length || !columns.length) return null;
    return {x: columns.reduce(joined), y: rows.reduce(joined)};
  }

  /** Cursor, keys and selection of one plot. `tell` has click, pick and pin; `detail` turns an event into data. */
  function attach(box, plot, props, tell, detail) {
    const voice = document.createElement('span');
    const frame = document.createElement('div');
    voice.className = 'pv-voice';
    voice.setAttribute('aria-live', 'polite');
    frame.className = 'pv-cursor';
    frame.hidden = true;
    box.append(frame, voice);
    let at = null; // the point last hovered or walked to
    let anchor = null; // where a range began
    let span = null; // what is picked

    function place() {
      const {xaxis, yaxis} = plot._fullLayout ?? {};
      frame.hidden = !span || !xaxis?._length || !props.picks;
      if (frame.hidden) return;
      const on = (axis, ends) => {
        const [from, to] = ends ? ends.map((v) => axis.c2p(v)).sort((a, b) => a - b) : [0, axis._length];
        const low = Math.max(0, from);
        return [axis._offset + low, Math.max(0, Math.min(axis._length, to) - low)];
      };
      const [left, width] = on(xaxis, span.x);
      const [top, height] = on(yaxis, span.y);
      Object.assign(frame.style, {left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px`});
    }

    function choose(point, extend) {
      at = point;
      if (!props.picks) return;
      if (!extend || !fits(plot, anchor)) anchor = point;
      span = union(extent(plot, anchor), extent(plot, point));
      document.dispatchEvent(new CustomEvent(PICKED, {detail: plot}));
      place();
    }

    /** Pins what is picked where the key is one of the letters. */
    function pin(event) {
      const mark = LETTERS[event.key.toLowerCase()];
      if (!mark || !span || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
      tell.pin({mark, ...span});
      event.preventDefault();
    }

    /** Shows what Plotly says of a point. */
    function tip({x, y, curveNumber, pointNumber}) {
      window.Plotly.Fx.hover(plot, Array.isArray(pointNumber) ? {xval: x, yval: y} : [{curveNumber, pointNumber}]);
    }

    function keys(event) {
      if (event.key in ARROWS) {
        const next = neighbour(plot, at, ARROWS[event.key]);
        if (!next) return;
        choose(next, event.shiftKey);
        tip(at);
        voice.textContent = said(plot, at);
      } else if (event.key === 'Enter' && at && event.target === plot) { // on a button within it Enter is a press
        if (span && anchor !== at) tell.pick(span);
        else tell.click({...detail({points: [at]}), cell: props.picks ? span : null});
      } else if (event.key === 'Escape' && span) drop();
      else return pin(event);
      return event.preventDefault();
    }

    document.addEventListener('keydown', (event) => {
      const taker = /** @type {Element} */ (event.target).closest?.(TAKERS);
      if (plot.offsetParent && !taker) pin(event);
    });

    function drop() {
      [span, anchor] = [null, null];
      place();
    }

    // After a tap the browser says that a pointer has left, and Plotly would take away what it has just shown.
    if (touch) plot.addEventListener('mouseout', (event) => event.stopPropagation(), true);

    document.addEventListener(PICKED, (/** @type {any} */ {detail: picked}) => picked !== plot && span && drop());
    return {
      keys,
      place,
      reset() {
        at = null;
        drop();
      },
      /** Listens to a plot that was just drawn for the first time. */
      listen() {
        plot.on('plotly_hover', (event) => {
          [at] = event.points;
        });
        plot.on('plotly_relayout', place);
        plot.on('plotly_click', (event) => {
          plot.focus({preventScroll: true}); // Plotly keeps the press from moving the focus; the keys go on from here
          choose(event.points[0], event.event?.shiftKey && span);
          if (touch) tip(at);
          if (span && anchor !== at) tell.pick(span);
          else tell.click({...detail(event), cell: props.picks ? span : null});
        });
        plot.on('plotly_selected', (event) => {
          if (!event?.range) return;
          plot.focus({preventScroll: true});
          window.Plotly.relayout(plot, {selections: []});
          span = touched(plot, event.range);
          anchor = null;
          document.dispatchEvent(new CustomEvent(PICKED, {detail: plot}));
          place();
          if (span) tell.pick(span);
        });
      },
    };
  }

  window.slimPick = {attach};
})();
