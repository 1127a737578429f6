// The elements of a bank.
/** @import {Bank, Desk, Place, Site, Told} from './types' */

import {dense, limits} from './arithmetic.js';
import {draw, make} from './elements.js';
import {listen} from './hand.js';
import {toggleLock, toggleSolo} from './moves.js';
import {paintSelected} from './painting.js';
import {makeTools} from './tools.js';
import {FIGURES, wordsOf} from './words.js';

const MOST_TICKS = 20; // feasible steps that can be told apart on a fader
const MOST_POINTS = 48; // of a curve: more than pixels would only cost time
const MAX_COLUMN = 52; // px; wider faders look like bars of a chart, not like something to hold
const NARROW = 17; // px of a column with room for every other number only

/** Draws a bank anew; the fader that has the focus keeps it. `accept` takes what Python sent during a drag.
 * @param {Desk} desk @param {(late: Told) => void} accept */
export function build(desk, accept) {
  const {bank, root} = desk;
  const held = focusWithin(root);
  const n = bank.layers.length;
  const inner = make('div', 'fd-lanes', {style: `--layers:${n};max-width:${n * MAX_COLUMN}px`});
  desk.nodes = {
    faders: {attention: [], mlp: []}, lanes: {}, solos: {}, numbers: [], locks: [], errors: [], figures: {},
    forecast: make('div', 'fd-forecast', {role: 'group', 'aria-label': 'Forecast', id: desk.props.forecast_id}),
    detail: make('p', 'fd-detail'),
    strip: make('div', 'fd-strip', {}, inner),
    inner,
    tools: makeTools(desk),
  };
  inner.append(
    title(desk, 'attention'), lane(desk, 'attention', accept), spine(desk),
    title(desk, 'mlp'), lane(desk, 'mlp', accept),
    errorTitle(), errorLane(desk),
  );
  const {strip, tools} = desk.nodes;
  root.replaceChildren(readout(desk), tools.row, make('div', 'fd-bench', {}, axis(), strip), legend());
  new ResizeObserver(() => fit(desk)).observe(inner);
  strip.addEventListener('scroll', () => fit(desk), {passive: true});
  paintSelected(desk);
  if (held) desk.nodes.faders[held.site]?.[held.layer]?.focus();
}

/** The fader within these elements that has the focus. @param {HTMLElement} root @returns {Place | null} */
function focusWithin(root) {
  const held = document.activeElement?.closest?.('[role=slider]');
  if (!(held instanceof HTMLElement) || !root.contains(held)) return null;
  return {site: /** @type {Site} */ (held.dataset.site), layer: Number(held.dataset.layer)};
}

/** Fewer numbers where columns are narrow; a fading edge where the strip goes on. @param {Desk} desk */
function fit({bank, nodes: {strip, inner}}) {
  inner.classList.toggle('fd-narrow', inner.clientWidth / bank.layers.length < NARROW);
  strip.classList.toggle('fd-more', strip.scrollLeft + strip.clientWidth < strip.scrollWidth - 2);
}

/** @param {Desk} desk @param {Site} site */
function title(desk, site) {
  const words = wordsOf(desk.bank, site);
  const button = make('button', 'fd-solo', {type: 'button', 'aria-pressed': 'false', 'data-solo': site}, 'Solo');
  button.title = `Hear ${words.short} alone: the other site counts as whole`;
  button.setAttribute('aria-label', `Solo ${words.short}`);
  button.addEventListener('click', () => toggleSolo(desk, site));
  desk.nodes.solos[site] = button;
  return make('div', 'fd-title', {}, make('span', '', {}, words.title, button));
}

function errorTitle() {
  return make('div', 'fd-title fd-error-title', {}, make('span', '', {}, 'Predicted error of the layer'));
}

/** One bar per layer, as high as the root of its predicted error; the numbers are in what the faders say.
 * @param {Desk} desk */
function errorLane({bank, nodes}) {
  const row = make('div', 'fd-errors', {'aria-hidden': 'true'});
  for (const layer of bank.layers.keys()) {
    const bar = make('i', 'fd-error', {'data-error': layer});
    nodes.errors.push(bar);
    row.append(make('span', 'fd-error-cell', {}, bar));
  }
  return row;
}

/** Kept share in per cent, beside each lane. */
function axis() {
  /** @param {string} className @param {string[]} marks */
  const scale = (className, marks) =>
    make('div', className, {'aria-hidden': 'true'}, ...marks.map((mark) => make('span', '', {}, mark)));
  const unit = () => make('div', 'fd-unit', {'aria-hidden': 'true'}, '% kept');
  const kept = () => scale('fd-scale', ['100', '75', '50', '25', '0']);
  const middle = make('div', 'fd-corner', {'aria-hidden': 'true'}, 'layer');
  const errors = scale('fd-error-scale', ['100 %', '25 %', '0']);
  return make('div', 'fd-axis', {}, unit(), kept(), middle, unit(), kept(), make('div', 'fd-unit fd-error-title'), errors);
}

/** @param {Desk} desk @param {Site} site @param {(late: Told) => void} accept */
function lane(desk, site, accept) {
  const row = make('div', 'fd-lane', {'data-lane': site, role: 'group', 'aria-label': wordsOf(desk.bank, site).title});
  for (const layer of desk.bank.layers.keys()) desk.nodes.faders[site].push(fader(desk, site, layer));
  row.append(...desk.nodes.faders[site]);
  desk.nodes.lanes[site] = row;
  listen(desk, site, accept);
  return row;
}

/** @param {Desk} desk @param {Site} site @param {number} layer */
function fader(desk, site, layer) {
  const [low, high] = limits(desk.bank, site, layer);
  const node = make('div', 'fd-fader', {
    role: 'slider',
    tabindex: layer === 0 ? '0' : '-1',
    'data-layer': layer,
    'data-site': site,
    'data-testid': `fader-${site}-${layer}`,
    'aria-label': `layer ${layer} ${wordsOf(desk.bank, site).title}`,
    'aria-orientation': 'vertical',
    'aria-valuemin': low,
    'aria-valuemax': high,
    'aria-keyshortcuts': 'L A C S',
    style: `--weight:${desk.bank.layers[layer].weight}`,
  });
  node.append(make('span', 'fd-track', {}, make('span', 'fd-fill'), ghost(desk.bank, site, layer), make('span', 'fd-cap')));
  node.append(make('span', 'fd-handle')); // what a finger drags: shown on the selected fader only
  return node;
}

/** The error at every width, turned on its side: as high as the width, as far right as the error (root scale).
 * @param {Bank} bank @param {Site} site @param {number} layer */
function ghost(bank, site, layer) {
  const svg = draw('svg', {class: 'fd-ghost', viewBox: '0 0 100 100', preserveAspectRatio: 'none', 'aria-hidden': 'true'});
  const all = dense(bank, site, layer);
  const [low, high] = limits(bank, site, layer);
  const [kept, cut] = bank.layers[layer].pins[site];
  /** @param {number} width */
  const up = (width) => (100 * (1 - width / all)).toFixed(2);
  /** @param {number} error */
  const across = (error) => (100 * Math.sqrt(Math.min(1, error))).toFixed(1);
  /** @param {number} pins */
  const shut = (pins) => (pins ? 'fd-shut fd-pinned' : 'fd-shut');
  if (low > 0) svg.append(draw('rect', {class: shut(kept), x: 0, width: 100, y: up(low), height: (100 * low) / all}));
  if (high < all) svg.append(draw('rect', {class: shut(cut), x: 0, width: 100, y: 0, height: up(high)}));
  const steps = stepsOf(bank, site, layer).filter((width) => width < all);
  svg.append(draw('path', {class: 'fd-ticks', d: steps.map((width) => `M0 ${up(width)}H100`).join('')}));
  if (kept) svg.append(draw('path', {class: 'fd-guard', d: `M0 ${up(low)}H100`}));
  if (cut) svg.append(draw('path', {class: 'fd-guard', d: `M0 ${up(high)}H100`}));
  const points = curve(bank, site, layer).map(([width, error]) => `${across(error)},${up(width)}`);
  svg.append(draw('polyline', {class: 'fd-curve', points: points.join(' ')}));
  return svg;
}

/** The feasible widths of a fader, where they are few enough to be seen.
 * @param {Bank} bank @param {Site} site @param {number} layer */
function stepsOf(bank, site, layer) {
  const it = bank.layers[layer];
  const first = Math.ceil(it.low / bank.align);
  const last = Math.floor(it.high / bank.align);
  const found = site === 'attention' ? it.heads
    : Array.from({length: Math.min(MOST_TICKS, last - first) + 1}, (_, i) => (first + i) * bank.align);
  return found.length <= MOST_TICKS ? found : [];
}

/** Widths and their predicted errors. @param {Bank} bank @param {Site} site @param {number} layer */
function curve(bank, site, layer) {
  const it = bank.layers[layer];
  if (site === 'attention') return it.heads.map((h, i) => [h, it.attention[i]]);
  const grid = bank.grids[it.grid];
  const every = Math.max(1, Math.floor(grid.length / MOST_POINTS));
  return grid.map((w, i) => [w, it.mlp[i]]).filter((_, i) => i % every === 0 || i === grid.length - 1);
}

/** The layers' numbers and locks. @param {Desk} desk */
function spine(desk) {
  const row = make('div', 'fd-spine');
  for (const layer of desk.bank.layers.keys()) {
    const number = make('span', 'fd-number', {'aria-hidden': 'true'}, String(layer));
    const lock = make('button', 'fd-lock', {type: 'button', tabindex: '-1', 'data-layer': layer}, padlock());
    lock.addEventListener('click', () => toggleLock(desk, layer));
    desk.nodes.numbers.push(number);
    desk.nodes.locks.push(lock);
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

/** @param {Desk} desk */
function readout({nodes}) {
  const figures = FIGURES.map((figure) => {
    const number = make('output', 'fd-number-big', {'data-key': figure.key});
    const of = make('span', 'fd-of');
    nodes.figures[figure.key] = {number, of};
    return make('div', 'fd-figure', {}, make('span', 'fd-label', {}, figure.label), number, of);
  });
  nodes.forecast.append(make('div', 'fd-figures', {}, ...figures), nodes.detail);
  return nodes.forecast;
}

/** Keys and what they do, for the legend. @param {[string, string][]} pairs */
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
