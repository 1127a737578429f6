// The elements of a bank.

const MOST_TICKS = 20; // feasible steps that can be told apart on a fader

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
  nodes = {faders: {attention: [], mlp: []}, numbers: [], locks: [], figures: {}, lanes: {}, errors: [], solos: {}};
  const lanes = make('div', 'fd-lanes', {style: `--layers:${n};max-width:${n * MAX_COLUMN}px`});
  lanes.append(title('attention'), lane('attention', n), spine(n), title('mlp'), lane('mlp', n), errorTitle(), errorLane(n));
  nodes.strip = make('div', 'fd-strip', {}, lanes);
  nodes.inner = lanes;
  const bench = make('div', 'fd-bench', {}, axis(), nodes.strip);
  root.replaceChildren(readout(), tools(), bench, legend());
  new ResizeObserver(() => fit(n)).observe(lanes);
  nodes.strip.addEventListener('scroll', () => fit(n), {passive: true});
  paintSelected();
  if (held && inside) nodes.faders[held.site]?.[held.layer]?.focus();
}

/** Fewer numbers where columns are narrow; a fading edge where the strip goes on. */
function fit(n) {
  const {strip, inner} = nodes;
  inner.classList.toggle('fd-narrow', inner.clientWidth / n < 17);
  strip.classList.toggle('fd-more', strip.scrollLeft + strip.clientWidth < strip.scrollWidth - 2);
}

function title(site) {
  const words = wordsOf(site);
  const button = make('button', 'fd-solo', {type: 'button', 'aria-pressed': 'false', 'data-solo': site}, 'Solo');
  button.title = `Hear ${words.short} alone: the other site counts as whole`;
  button.setAttribute('aria-label', `Solo ${words.short}`);
  button.addEventListener('click', () => setSolo(solo === site ? '' : site));
  nodes.solos[site] = button;
  return make('div', 'fd-title', {}, make('span', '', {}, words.title, button));
}

function errorTitle() {
  return make('div', 'fd-title fd-error-title', {}, make('span', '', {}, 'Predicted error of the layer'));
}

/** One bar per layer, as high as the root of its predicted error; the numbers are in what the faders say. */
function errorLane(n) {
  const row = make('div', 'fd-errors', {'aria-hidden': 'true'});
  for (let layer = 0; layer < n; layer += 1) {
    const bar = make('i', 'fd-error', {'data-error': layer});
    nodes.errors.push(bar);
    row.append(make('span', 'fd-error-cell', {}, bar));
  }
  return row;
}

/** Kept share in per cent, beside each lane. */
function axis() {
  const scale = () =>
    make('div', 'fd-scale', {'aria-hidden': 'true'}, ...['100', '75', '50', '25', '0'].map((t) => make('span', '', {}, t)));
  const unit = () => make('div', 'fd-unit', {'aria-hidden': 'true'}, '% kept');
  const middle = make('div', 'fd-corner', {'aria-hidden': 'true'}, 'layer');
  const errors = make('div', 'fd-error-scale', {'aria-hidden': 'true'}, ...['100 %', '25 %', '0'].map((t) => make('span', '', {}, t)));
  return make('div', 'fd-axis', {}, unit(), scale(), middle, unit(), scale(), make('div', 'fd-unit fd-error-title'), errors);
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
    'aria-keyshortcuts': 'L A C S',
    style: `--weight:${bank.layers[layer].weight}`,
  });
  node.append(make('span', 'fd-track', {}, make('span', 'fd-fill'), ghost(site, layer), make('span', 'fd-cap')));
  node.append(make('span', 'fd-handle')); // what a finger drags: shown on the selected fader only
  return node;
}

/** The error at every width, turned on its side: as high as the width, as far right as the error (root scale). */
function ghost(site, layer) {
  const svg = draw('svg', {class: 'fd-ghost', viewBox: '0 0 100 100', preserveAspectRatio: 'none', 'aria-hidden': 'true'});
  const all = dense(site, layer);
  const [low, high] = limits(site, layer);
  const up = (kept) => (100 * (1 - kept / all)).toFixed(2);
  const points = curve(site, layer).map(([kept, error]) => `${(100 * Math.sqrt(Math.min(1, error))).toFixed(1)},${up(kept)}`);
  const [kept, cut] = bank.layers[layer].pins[site];
  const shut = (pins) => (pins ? 'fd-shut fd-pinned' : 'fd-shut');
  if (low > 0) svg.append(draw('rect', {class: shut(kept), x: 0, width: 100, y: up(low), height: (100 * low) / all}));
  if (high < all) svg.append(draw('rect', {class: shut(cut), x: 0, width: 100, y: 0, height: up(high)}));
  const steps = stepsOf(site, layer).filter((width) => width < all);
  svg.append(draw('path', {class: 'fd-ticks', d: steps.map((width) => `M0 ${up(width)}H100`).join('')}));
  if (kept) svg.append(draw('path', {class: 'fd-guard', d: `M0 ${up(low)}H100`}));
  if (cut) svg.append(draw('path', {class: 'fd-guard', d: `M0 ${up(high)}H100`}));
  svg.append(draw('polyline', {class: 'fd-curve', points: points.join(' ')}));
  return svg;
}

/** The feasible widths of a fader, where they are few enough to be seen. */
function stepsOf(site, layer) {
  const it = bank.layers[layer];
  const first = Math.ceil(it.low / bank.align);
  const last = Math.floor(it.high / bank.align);
  const found = site === 'attention' ? it.heads
    : Array.from({length: Math.min(MOST_TICKS, last - first) + 1}, (_, i) => (first + i) * bank.align);
  return found.length <= MOST_TICKS ? found : [];
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
  nodes.forecast = block;
  block.append(make('div', 'fd-figures', {}, ...figures), nodes.detail);
  return block;
}

/** Keys and what they do, for the legend. */
function keys(...pairs) {
  return pairs.flatMap(([key, does], i) => [i ? ' · ' : '', make('kbd', '', {}, key), ` ${does}`]);
}

function legend() {
  const ramp = make('span', 'fd-key', {}, 'Colour: the layer changes its input ', make('em', '', {}, 'little'),
    make('i', 'fd-ramp', {'aria-hidden': 'true'}), make('em', '', {}, 'much'));
  const line = draw('svg', {viewBox: '0 0 24 12', class: 'fd-key-curve', 'aria-hidden': 'true'});
  line.append(draw('path', {d: 'M1 1C3 5 8 9 23 11'}));
  const ghostKey = make('span', 'fd-key', {}, line, 'Curve: predicted error at each width, right edge 100 %');
  const hints = make('span', 'fd-key fd-hint', {}, 'Drag, or paint across · ',
    make('kbd', '', {}, 'Shift'), ' one fader only · ', make('kbd', '', {}, '↑'), make('kbd', '', {}, '↓'), ' step · ',
    'type a number · ', ...keys(['A', 'automatic, or double-click'], ['C', 'copy to the right'],
      ['L', 'lock'], ['S', 'solo'], ['Ctrl Z', 'undo']));
  return make('div', 'fd-legend', {}, ramp, ghostKey, hints);
}
