// The fader bank. Gradio runs this once, when the bank appears, with `element, trigger, props, watch`.
// Arithmetic mirrors slimllm (budget.layer_cost, planning.forecast); tests compare the two.
// Text from the model never becomes HTML here: every word is set with textContent.

const root = element.querySelector('.faders');
const SITES = ['attention', 'mlp'];
const WORDS = {
  attention: {title: 'Attention heads', short: 'attention', unit: 'heads', one: 'head', key: 'heads'},
  mlp: {title: 'MLP channels', short: 'MLP', unit: 'channels', one: 'channel', key: 'channels'},
};
const COLUMNS = {...WORDS.attention, title: 'Attention value columns', unit: 'value columns', one: 'value column'};
const MAX_COLUMN = 52; // px; wider faders look like bars of a chart, not like something to hold

let text = ''; // the bank as Python sent it, and
let bank = null; // what it says: see ui/faders.py
let value = null; // what the faders show
let nodes = null; // the DOM of the current bank
let sums = []; // per layer: {parameters, groups, attention, mlp, joint}
let dirty = new Set(); // layers to repaint in the next frame
let frame = 0;
let drag = null;
let pointed = null; // {site, layer} under the pointer or focused
let changed = false; // something moved since the last release

// Arithmetic ---------------------------------------------------------------------------------------------

/** What a site's units are called; attention may lose value columns instead of heads. */
function wordsOf(site) {
  return site === 'attention' && bank.unit === 'value-column' ? COLUMNS : WORDS[site];
}

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

/** The smallest feasible head count and the largest, or the same for channels. */
function limits(site, layer) {
  const it = bank.layers[layer];
  return site === 'attention' ? [it.heads[0], it.heads[it.heads.length - 1]] : [it.low, it.high];
}

function dense(site, layer) {
  return bank.layers[layer].dense[site === 'attention' ? 0 : 1];
}

/** The feasible count nearest to `wanted`. */
function snap(site, layer, wanted) {
  const it = bank.layers[layer];
  if (site === 'attention') {
    return it.heads.reduce((best, h) => (Math.abs(h - wanted) <= Math.abs(best - wanted) ? h : best));
  }
  if (wanted >= it.high) return it.high;
  const down = clamp(Math.floor(wanted / bank.align) * bank.align, it.low, it.high);
  const up = clamp(down + bank.align, it.low, it.high);
  return wanted - down < up - wanted ? down : up;
}

/** The feasible count `steps` above (or below) the current one. */
function stepped(site, layer, steps) {
  const it = bank.layers[layer];
  const now = value[WORDS[site].key][layer];
  if (isDropped(layer) && steps < 0) return 0;
  if (site === 'attention') {
    return it.heads[clamp(it.heads.indexOf(now) + steps, 0, it.heads.length - 1)];
  }
  const base = steps > 0 ? Math.floor(now / bank.align) : Math.ceil(now / bank.align);
  return clamp((base + steps) * bank.align, it.low, it.high);
}

/** The place of an attention width among its steps. */
const stepOf = (it, heads) => Math.floor((heads * it.steps) / it.dense[0]);

function layerParameters(layer, heads, channels) {
  if (!heads && !channels) return 0;
  const it = bank.layers[layer];
  const [base, stepCost, channelCost] = it.cost;
  let total = base + stepOf(it, heads) * stepCost + channels * channelCost;
  if (heads < it.dense[0]) total += it.bias[0];
  if (channels < it.dense[1]) total += it.bias[1];
  return total;
}

function groupsKept(it, heads) {
  if (!heads) return 0;
  return bank.unit === 'kv-group' ? stepOf(it, heads) : it.groups;
}

function attentionError(layer, heads) {
  const it = bank.layers[layer];
  return heads ? it.attention[it.heads.indexOf(heads)] ?? 0 : it.dropped[0];
}

/** Between the sampled widths on a straight line. */
function mlpError(layer, channels) {
  const it = bank.layers[layer];
  if (!channels) return it.dropped[1];
  const grid = bank.grids[it.grid];
  let low = 0;
  let high = grid.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (grid[middle] <= channels) low = middle;
    else high = middle;
  }
  if (channels >= grid[high]) return it.mlp[high];
  const share = (channels - grid[low]) / (grid[high] - grid[low]);
  return (1 - share) * it.mlp[low] + share * it.mlp[high];
}

function layerSums(layer, heads, channels) {
  const it = bank.layers[layer];
  const attention = attentionError(layer, heads);
  const mlp = mlpError(layer, channels);
  const energy = it.energy[0] + it.energy[1];
  return {
    parameters: layerParameters(layer, heads, channels),
    groups: groupsKept(it, heads),
    attention,
    mlp,
    joint: energy > 0 ? (it.energy[0] * attention + it.energy[1] * mlp) / energy : 0,
  };
}

/** The whole model's numbers, as planning.forecast gives them. */
function forecast(layers) {
  const sum = (pick) => layers.reduce((total, layer) => total + pick(layer), 0);
  const decoder = sum((layer) => layer.parameters);
  const parameters = bank.outside + decoder;
  const whole = bank.count === 'all' ? bank.outside + bank.decoder : bank.decoder;
  return {
    parameters,
    ratio: (bank.decoder - decoder) / whole,
    bytes: parameters * bank.bytes,
    kv: 2 * sum((layer) => layer.groups) * bank.head_size * bank.bytes,
    flops: 2 * (decoder + bank.hidden * bank.vocab),
    error: sum((layer) => layer.joint) / layers.length,
  };
}

// Words --------------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat('en-US');

/** Three or four significant digits with a fixed count of decimals, so that digits do not jump about. */
function scaled(number, units) {
  let i = 0;
  while (i < units.length - 1 && Math.abs(number) >= 999.95) {
    number /= 1000;
    i += 1;
  }
  const digits = Math.abs(number) >= 100 ? 1 : 2;
  return [i === 0 && Number.isInteger(number) ? whole.format(number) : number.toFixed(digits), units[i]];
}

function percent(share) {
  const hundred = share * 100;
  if (hundred === 0) return '0 %';
  if (Math.abs(hundred) < 0.01) return '< 0.01 %';
  return `${hundred.toFixed(Math.abs(hundred) < 1 ? 2 : 1)} %`;
}

const count = (number) => scaled(number, ['', 'k', 'M', 'B']).join(' ').trim();
const bytes = (number) => scaled(number / 1000, ['kB', 'MB', 'GB']).join(' ');

const IDLE = matchMedia('(pointer: coarse)').matches
  ? 'Touch a fader and move up or down. Sideways scrolls to the other layers.'
  : 'Point at a fader to see what it keeps, costs and saves.';

const FIGURES = [
  {key: 'parameters', label: 'Parameters', show: count, of: (whole) => `of ${count(whole.parameters)}`},
  {
    key: 'ratio',
    label: 'Removed',
    show: percent,
    of: () => (bank.count === 'all' ? 'of the whole model' : 'of the layers'),
  },
  {key: 'bytes', label: 'Memory', show: bytes, of: (whole) => `of ${bytes(whole.bytes)}`},
  {
    key: 'kv',
    label: 'KV cache per 1k tokens',
    show: (number) => bytes(number * 1000),
    of: (whole) => `of ${bytes(whole.kv * 1000)}`,
  },
  {
    key: 'flops',
    label: 'Compute per token',
    show: (number) => scaled(number / 1e6, ['MFLOP', 'GFLOP', 'TFLOP']).join(' '),
    of: (whole) => `of ${scaled(whole.flops / 1e6, ['MFLOP', 'GFLOP', 'TFLOP']).join(' ')}`,
  },
  {key: 'error', label: 'Predicted error', show: percent, of: () => 'mean of all layers'},
];

const isDropped = (layer) => !value.heads[layer] && !value.channels[layer];

/** What a fader says to a screen reader. */
function spoken(site, layer) {
  const words = wordsOf(site);
  const kept = value[words.key][layer];
  if (isDropped(layer)) return `layer ${layer}: dropped whole, ${words.short} included`;
  const lock = value.locked[layer] ? ', locked' : '';
  return (
    `layer ${layer} ${words.short}: ${whole.format(kept)} of ${whole.format(dense(site, layer))} ` +
    `${words.unit} kept, predicted error ${percent(sums[layer][site])}${lock}`
  );
}

// Building -----------------------------------------------------------------------------------------------

function make(tag, className, attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [name, content] of Object.entries(attributes)) node.setAttribute(name, content);
  node.append(...children);
  return node;
}

function draw(tag, attributes) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, content] of Object.entries(attributes)) node.setAttribute(name, content);
  return node;
}

function build() {
  const held = document.activeElement?.closest?.('[role=slider]')?.dataset;
  const inside = root.contains(document.activeElement);
  const n = bank.layers.length;
  nodes = {faders: {attention: [], mlp: []}, numbers: [], locks: [], figures: {}, lanes: {}};
  const lanes = make('div', 'fd-lanes', {style: `--layers:${n};max-width:${n * MAX_COLUMN}px`});
  lanes.append(title('attention'), lane('attention', n), spine(n), title('mlp'), lane('mlp', n));
  nodes.strip = make('div', 'fd-strip', {}, lanes);
  nodes.inner = lanes;
  const bench = make('div', 'fd-bench', {}, axis(), nodes.strip);
  root.replaceChildren(readout(), bench, legend());
  new ResizeObserver(() => fit(n)).observe(lanes);
  nodes.strip.addEventListener('scroll', () => fit(n), {passive: true});
  if (held && inside) nodes.faders[held.site]?.[held.layer]?.focus();
}

/** Fewer numbers where columns are narrow; a fading edge where the strip goes on. */
function fit(n) {
  const {strip, inner} = nodes;
  inner.classList.toggle('fd-narrow', inner.clientWidth / n < 17);
  strip.classList.toggle('fd-more', strip.scrollLeft + strip.clientWidth < strip.scrollWidth - 2);
}

function title(site) {
  return make('div', 'fd-title', {}, make('span', '', {}, wordsOf(site).title));
}

/** Kept share in per cent, beside each lane. */
function axis() {
  const scale = () =>
    make('div', 'fd-scale', {'aria-hidden': 'true'}, ...['100', '75', '50', '25', '0'].map((t) => make('span', '', {}, t)));
  const unit = () => make('div', 'fd-unit', {'aria-hidden': 'true'}, '% kept');
  const middle = make('div', 'fd-corner', {'aria-hidden': 'true'}, 'layer');
  return make('div', 'fd-axis', {}, unit(), scale(), middle, unit(), scale());
}

function lane(site, n) {
  const row = make('div', 'fd-lane', {'data-lane': site, role: 'group', 'aria-label': wordsOf(site).title});
  for (let layer = 0; layer < n; layer += 1) {
    const node = fader(site, layer);
    nodes.faders[site].push(node);
    row.append(node);
  }
  nodes.lanes[site] = row;
  listen(row, site);
  return row;
}

function fader(site, layer) {
  const [low, high] = limits(site, layer);
  const node = make('div', 'fd-fader', {
    role: 'slider',
    tabindex: layer === 0 ? '0' : '-1',
    'data-layer': layer,
    'data-site': site,
    'data-testid': `fader-${site}-${layer}`,
    'aria-label': `layer ${layer} ${wordsOf(site).title}`,
    'aria-orientation': 'vertical',
    'aria-valuemin': low,
    'aria-valuemax': high,
    'aria-keyshortcuts': 'L',
    style: `--weight:${bank.layers[layer].weight}`,
  });
  node.append(make('span', 'fd-track', {}, make('span', 'fd-fill'), ghost(site, layer), make('span', 'fd-cap')));
  return node;
}

/** The error at every width, turned on its side: as high as the width, as far right as the error (root scale). */
function ghost(site, layer) {
  const svg = draw('svg', {class: 'fd-ghost', viewBox: '0 0 100 100', preserveAspectRatio: 'none', 'aria-hidden': 'true'});
  const all = dense(site, layer);
  const [low, high] = limits(site, layer);
  const up = (kept) => (100 * (1 - kept / all)).toFixed(2);
  const points = curve(site, layer).map(([kept, error]) => `${(100 * Math.sqrt(Math.min(1, error))).toFixed(1)},${up(kept)}`);
  if (low > 0) svg.append(draw('rect', {class: 'fd-shut', x: 0, width: 100, y: up(low), height: (100 * low) / all}));
  if (high < all) svg.append(draw('rect', {class: 'fd-shut', x: 0, width: 100, y: 0, height: up(high)}));
  if (site === 'attention' && bank.layers[layer].heads.length <= 20) {
    const ticks = bank.layers[layer].heads.filter((h) => h < all).map((h) => `M0 ${up(h)}H100`);
    svg.append(draw('path', {class: 'fd-ticks', d: ticks.join('')}));
  }
  svg.append(draw('polyline', {class: 'fd-curve', points: points.join(' ')}));
  return svg;
}

function curve(site, layer) {
  const it = bank.layers[layer];
  if (site === 'attention') return it.heads.map((h, i) => [h, it.attention[i]]);
  const grid = bank.grids[it.grid];
  const every = Math.max(1, Math.floor(grid.length / 48)); // more points than pixels would only cost time
  return grid.map((w, i) => [w, it.mlp[i]]).filter((_, i) => i % every === 0 || i === grid.length - 1);
}

function spine(n) {
  const row = make('div', 'fd-spine');
  for (let layer = 0; layer < n; layer += 1) {
    const number = make('span', 'fd-number', {'aria-hidden': 'true'}, String(layer));
    const lock = make('button', 'fd-lock', {type: 'button', tabindex: '-1', 'data-layer': layer}, padlock());
    lock.addEventListener('click', () => toggleLock(layer));
    nodes.numbers.push(number);
    nodes.locks.push(lock);
    row.append(make('div', layer % 5 ? 'fd-cell' : 'fd-cell fd-fifth', {}, number, lock));
  }
  return row;
}

function padlock() {
  const svg = draw('svg', {viewBox: '0 0 12 14', 'aria-hidden': 'true'});
  svg.append(draw('path', {class: 'fd-shackle', d: 'M3.5 6.5V4a2.5 2.5 0 0 1 5 0v2.5'}));
  svg.append(draw('rect', {class: 'fd-body', x: 2, y: 6.5, width: 8, height: 6, rx: 1.2}));
  return svg;
}

function readout() {
  const figures = FIGURES.map((figure) => {
    const number = make('output', 'fd-number-big', {'data-key': figure.key});
    const of = make('span', 'fd-of');
    nodes.figures[figure.key] = {number, of};
    return make('div', 'fd-figure', {}, make('span', 'fd-label', {}, figure.label), number, of);
  });
  nodes.detail = make('p', 'fd-detail');
  const block = make('div', 'fd-forecast', {role: 'group', 'aria-label': 'Forecast'});
  block.id = props.forecast_id;
  block.append(make('div', 'fd-figures', {}, ...figures), nodes.detail);
  return block;
}

function legend() {
  const ramp = make('span', 'fd-key', {}, 'Colour: the layer changes its input ', make('em', '', {}, 'little'),
    make('i', 'fd-ramp', {'aria-hidden': 'true'}), make('em', '', {}, 'much'));
  const line = draw('svg', {viewBox: '0 0 24 12', class: 'fd-key-curve', 'aria-hidden': 'true'});
  line.append(draw('path', {d: 'M1 1C3 5 8 9 23 11'}));
  const ghostKey = make('span', 'fd-key', {}, line, 'Curve: predicted error at each width, right edge 100 %');
  const hints = make('span', 'fd-key fd-hint', {}, 'Drag, or paint across · ',
    make('kbd', '', {}, 'Shift'), ' one fader only · ', make('kbd', '', {}, '↑'), make('kbd', '', {}, '↓'), ' step · ',
    make('kbd', '', {}, 'L'), ' lock');
  return make('div', 'fd-legend', {}, ramp, ghostKey, hints);
}

// Painting -----------------------------------------------------------------------------------------------

function recount(layer) {
  sums[layer] = layerSums(layer, value.heads[layer], value.channels[layer]);
}

function paintLayer(layer) {
  for (const site of SITES) {
    const node = nodes.faders[site][layer];
    const kept = value[WORDS[site].key][layer];
    const now = String(kept);
    if (node.getAttribute('aria-valuenow') !== now) {
      node.style.setProperty('--kept', kept / dense(site, layer));
      node.setAttribute('aria-valuenow', now);
    }
    node.setAttribute('aria-valuemin', Math.min(kept, limits(site, layer)[0]));
    node.setAttribute('aria-valuetext', spoken(site, layer));
    node.classList.toggle('fd-dropped', isDropped(layer));
  }
}

function paintLock(layer) {
  const locked = value.locked[layer];
  const lock = nodes.locks[layer];
  lock.setAttribute('aria-pressed', locked);
  lock.setAttribute('aria-label', `${locked ? 'unlock' : 'lock'} layer ${layer}`);
  lock.title = `${locked ? 'Unlock' : 'Lock'} layer ${layer}`;
  for (const site of SITES) {
    nodes.faders[site][layer].classList.toggle('fd-locked', locked);
    nodes.faders[site][layer].setAttribute('aria-disabled', locked);
  }
}

function paintTotals() {
  const totals = forecast(sums);
  for (const figure of FIGURES) {
    const {number} = nodes.figures[figure.key];
    number.textContent = figure.show(totals[figure.key]);
    number.dataset.value = totals[figure.key];
  }
}

function paintDense() {
  const all = forecast(bank.layers.map((it, layer) => layerSums(layer, it.dense[0], it.dense[1])));
  for (const figure of FIGURES) nodes.figures[figure.key].of.textContent = figure.of(all);
}

/** The numbers of the fader under the pointer; a hint where there is none. */
function paintDetail() {
  const line = nodes.detail;
  if (!pointed) {
    line.textContent = IDLE;
    line.classList.add('fd-idle');
    return;
  }
  const {site, layer} = pointed;
  const words = wordsOf(site);
  const kept = value[words.key][layer];
  const [heads, channels] = bank.layers[layer].dense;
  const without = site === 'attention' ? [heads, value.channels[layer]] : [value.heads[layer], channels];
  const saved = layerParameters(layer, ...without) - sums[layer].parameters;
  const all = [heads, channels];
  const parts = isDropped(layer) ? [
    'dropped whole',
    `predicted error ${percent(sums[layer].joint)}`,
    `saves ${count(layerParameters(layer, ...all))} parameters`,
    'move a fader to bring it back',
  ] : [
    `${whole.format(kept)} of ${whole.format(dense(site, layer))} ${words.unit} kept`,
    `predicted error ${percent(sums[layer][site])}, whole layer ${percent(sums[layer].joint)}`,
    `saves ${count(Math.max(0, saved))} parameters`,
  ];
  if (value.locked[layer]) parts.push('locked');
  line.classList.remove('fd-idle');
  line.replaceChildren(make('b', '', {}, `Layer ${layer}, ${words.short}`), ...parts.map((t) => make('span', '', {}, t)));
}

function point(next) {
  if (next?.site === pointed?.site && next?.layer === pointed?.layer) return;
  if (pointed) nodes.numbers[pointed.layer]?.parentElement.classList.remove('fd-pointed');
  pointed = next;
  if (pointed) nodes.numbers[pointed.layer].parentElement.classList.add('fd-pointed');
  paintDetail();
}

/** One frame: everything that moved is drawn, counted and told to the app once, however many events came. */
function tick() {
  frame = 0;
  if (!dirty.size) return;
  for (const layer of dirty) recount(layer);
  for (const layer of dirty) paintLayer(layer);
  dirty.clear();
  paintTotals();
  paintDetail();
  send('input');
}

/** A new object each time: Gradio compares by identity and would not see a change inside the old one. */
function send(event) {
  const copy = {heads: [...value.heads], channels: [...value.channels], locked: [...value.locked]};
  props.value = copy;
  trigger(event, copy);
}

function schedule(layer) {
  dirty.add(layer);
  if (!changed) trigger('grasp', null);
  changed = true;
  if (!frame) frame = requestAnimationFrame(tick);
}

function flush() {
  if (frame) cancelAnimationFrame(frame);
  tick();
}

function release() {
  flush();
  if (!changed) return;
  changed = false;
  send('release');
}

// Moving -------------------------------------------------------------------------------------------------

function set(site, layer, kept) {
  const counts = value[WORDS[site].key];
  if (value.locked[layer] || counts[layer] === kept) return;
  if (isDropped(layer)) revive(layer);
  counts[layer] = kept;
  drag?.touched.add(`${site} ${layer}`);
  schedule(layer);
}

/** A dropped layer comes back whole; the hand then takes its share of one site. */
function revive(layer) {
  for (const site of SITES) {
    [, value[WORDS[site].key][layer]] = limits(site, layer);
    drag?.touched.add(`${site} ${layer}`);
  }
}

function setShare(site, layer, share) {
  set(site, layer, snap(site, layer, share * dense(site, layer)));
}

function toggleLock(layer) {
  value.locked[layer] = !value.locked[layer];
  paintLock(layer);
  paintLayer(layer);
  paintDetail();
  send('input');
  send('release');
}

/** The column and height of a pointer event, in a lane measured when the drag began. */
function where(event, box) {
  const n = bank.layers.length;
  const layer = clamp(Math.floor(((event.clientX - box.left) / box.width) * n), 0, n - 1);
  return {layer, share: clamp(1 - (event.clientY - box.top) / box.height, 0, 1)};
}

/** Columns that a fast pointer jumped over get the heights on the straight line between. */
function paintTo(event) {
  const {site, box} = drag;
  const to = where(event, box);
  if (event.shiftKey) to.layer = drag.layer;
  const from = drag.last ?? to;
  const span = Math.abs(to.layer - from.layer);
  for (let i = span ? 1 : 0; i <= span; i += 1) {
    const part = span ? i / span : 1;
    const layer = Math.round(from.layer + part * (to.layer - from.layer));
    setShare(site, layer, from.share + part * (to.share - from.share));
  }
  drag.last = to;
  drag.moved = true;
  point({site, layer: to.layer});
}

function begin(event, site, row) {
  if (event.button !== 0 || drag) return;
  const box = row.getBoundingClientRect();
  const at = where(event, box);
  drag = {
    site, box, layer: at.layer, last: null, moved: false, id: event.pointerId,
    touched: new Set(), late: null,
    before: {heads: [...value.heads], channels: [...value.channels]},
  };
  row.setPointerCapture(event.pointerId);
  row.classList.add('fd-dragging');
  focusFader(site, at.layer);
  // A finger may be about to scroll the strip: wait until it moves up or down, or lifts.
  if (event.pointerType !== 'touch') paintTo(event);
  event.preventDefault();
}

function finish(row) {
  row.classList.remove('fd-dragging');
  const {late} = drag;
  flush();
  const {touched} = drag;
  drag = null;
  if (late) accept(touched);
  release();
}

/** Puts back what the drag changed: the browser took the gesture, or Escape was pressed. */
function abandon(row) {
  for (const site of SITES) {
    const key = WORDS[site].key;
    drag.before[key].forEach((kept, layer) => {
      if (value[key][layer] !== kept) {
        value[key][layer] = kept;
        schedule(layer);
      }
    });
  }
  drag.touched.clear();
  finish(row);
}

function listen(row, site) {
  const mine = (event) => drag && drag.site === site && drag.id === event.pointerId;
  row.addEventListener('pointerdown', (event) => begin(event, site, row));
  row.addEventListener('pointermove', (event) => {
    if (mine(event)) paintTo(event);
    else if (!drag) point({site, layer: where(event, row.getBoundingClientRect()).layer});
  });
  row.addEventListener('pointerup', (event) => {
    if (!mine(event)) return;
    if (!drag.moved) paintTo(event);
    finish(row);
  });
  row.addEventListener('pointercancel', (event) => mine(event) && abandon(row));
  row.addEventListener('pointerleave', () => !drag && point(null));
  row.addEventListener('keydown', (event) => (drag ? event.key === 'Escape' && abandon(row) : press(event, site)));
  row.addEventListener('keyup', () => !drag && release());
  row.addEventListener('focusin', (event) => !drag && point({site, layer: Number(event.target.dataset.layer)}));
  row.addEventListener('focusout', () => {
    if (drag) return;
    release();
    point(null);
  });
}

// Keys ---------------------------------------------------------------------------------------------------

const STEPS = {ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10};
const SIDES = {ArrowLeft: -1, ArrowRight: 1};

function press(event, site) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const layer = Number(event.target.dataset.layer);
  const [low, high] = limits(site, layer);
  if (event.key in STEPS) set(site, layer, stepped(site, layer, STEPS[event.key]));
  else if (event.key in SIDES) focusFader(site, clamp(layer + SIDES[event.key], 0, bank.layers.length - 1));
  else if (event.key === 'Home') set(site, layer, low);
  else if (event.key === 'End') set(site, layer, high);
  else if (event.key.toLowerCase() === 'l') toggleLock(layer);
  else return;
  event.preventDefault();
}

/** One tab stop per lane: the fader last used. */
function focusFader(site, layer) {
  for (const node of nodes.faders[site]) if (node.tabIndex === 0) node.tabIndex = -1;
  nodes.faders[site][layer].tabIndex = 0;
  nodes.faders[site][layer].focus({preventScroll: drag !== null});
}

// From Python --------------------------------------------------------------------------------------------

function copyOf(given) {
  const n = bank.layers.length;
  return {
    heads: [...given.heads],
    channels: [...given.channels],
    locked: given.locked?.length === n ? given.locked.map(Boolean) : new Array(n).fill(false),
  };
}

/** Takes what Python sent; faders `touched` by a drag that has just ended keep what the hand gave them. */
function accept(touched = new Set()) {
  const mine = value;
  const given = props.value;
  const rebuilt = !nodes || props.bank !== text;
  if (!props.bank || !given?.heads) return empty();
  if (rebuilt) bank = JSON.parse(props.bank);
  if (given.heads.length !== bank.layers.length) return empty();
  text = props.bank;
  value = copyOf(given);
  for (const name of touched) {
    const [site, layer] = name.split(' ');
    const kept = mine?.[WORDS[site].key][layer];
    if (kept !== undefined && layer < bank.layers.length) {
      value[WORDS[site].key][layer] = kept ? snap(site, Number(layer), kept) : 0;
    }
  }
  if (rebuilt) build();
  sums = [];
  for (let layer = 0; layer < bank.layers.length; layer += 1) {
    recount(layer);
    paintLayer(layer);
    paintLock(layer);
  }
  if (pointed && pointed.layer >= bank.layers.length) pointed = null;
  paintDense();
  paintTotals();
  paintDetail();
}

function empty() {
  bank = value = nodes = pointed = null;
  text = '';
  root.replaceChildren(make('p', 'fd-empty', {}, props.placeholder ?? ''));
}

root.setAttribute('role', 'group');
root.setAttribute('aria-label', props.caption ?? '');
watch(['value', 'bank'], () => {
  if (drag) drag.late = true;
  else accept();
});
accept();
