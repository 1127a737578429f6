// Numbers and states in words.
/** @import {Bank, Desk, Figures, Site} from './types' */

import {dense, limits} from './arithmetic.js';
import {countsOf, isDropped, isFixed} from './state.js';

const WORDS = {
  attention: {title: 'Attention heads', short: 'attention', unit: 'heads'},
  mlp: {title: 'MLP channels', short: 'MLP', unit: 'channels'},
};
const COLUMNS = {...WORDS.attention, title: 'Attention value columns', unit: 'value columns'};

/** What a site's units are called; attention may lose value columns instead of heads.
 * @param {Bank} bank @param {Site} site */
export function wordsOf(bank, site) {
  return site === 'attention' && bank.unit === 'value-column' ? COLUMNS : WORDS[site];
}

export const whole = new Intl.NumberFormat('en-US');

/** Three or four significant digits with a fixed count of decimals, so that digits do not jump about.
 * @param {number} number @param {string[]} units */
function scaled(number, units) {
  let i = 0;
  while (i < units.length - 1 && Math.abs(number) >= 999.95) {
    number /= 1000;
    i += 1;
  }
  const digits = Math.abs(number) >= 100 ? 1 : 2;
  return [i === 0 && Number.isInteger(number) ? whole.format(number) : number.toFixed(digits), units[i]];
}

/** @param {number} share */
export function percent(share) {
  const hundred = share * 100;
  if (hundred === 0) return '0 %';
  if (Math.abs(hundred) < 0.01) return '< 0.01 %';
  return `${hundred.toFixed(Math.abs(hundred) < 1 ? 2 : 1)} %`;
}

/** @param {number} number */
export const count = (number) => scaled(number, ['', 'k', 'M', 'B']).join(' ').trim();

/** @param {number} number */
const bytes = (number) => scaled(number / 1000, ['kB', 'MB', 'GB']).join(' ');

/** @param {number} number */
const flops = (number) => scaled(number / 1e6, ['MFLOP', 'GFLOP', 'TFLOP']).join(' ');

export const IDLE = matchMedia('(pointer: coarse)').matches
  ? 'Tap a fader to see what it keeps, costs and saves; then drag its handle.'
  : 'Point at a fader to see what it keeps, costs and saves.';

/** The figures of the readout, and what each is a part of: `all` is the whole model's. */
/** @type {{key: keyof Figures, label: string, show: (number: number) => string, of: (all: Figures, bank: Bank) => string}[]} */
export const FIGURES = [
  {key: 'parameters', label: 'Parameters', show: count, of: (all) => `of ${count(all.parameters)}`},
  {
    key: 'ratio',
    label: 'Removed',
    show: percent,
    of: (_, bank) => (bank.count === 'all' ? 'of the whole model' : 'of the layers'),
  },
  {
    key: 'bytes',
    label: 'Size',
    show: bytes,
    of: (all, bank) => `of ${bytes(all.bytes)} at ${bank.bytes * 8} bits`,
  },
  {
    key: 'kv',
    label: 'KV cache per 1k tokens',
    show: (number) => bytes(number * 1000),
    of: (all) => `of ${bytes(all.kv * 1000)}`,
  },
  {key: 'flops', label: 'Compute per token', show: flops, of: (all) => `of ${flops(all.flops)}`},
  {key: 'error', label: 'Predicted error', show: percent, of: () => 'mean of all layers'},
];

export const ALONE = {
  attention: 'Attention alone counts in the figures and the preview; the MLP is taken as whole.',
  mlp: 'The MLP alone counts in the figures and the preview; attention is taken as whole.',
};

/** Why a fader cannot go all the way: what is protected or forced out on the map.
 * @param {Bank} bank @param {Site} site @param {number} layer */
export function pinWords(bank, site, layer) {
  const [low, high] = limits(bank, site, layer);
  const [kept, cut] = bank.layers[layer].pins[site];
  const said = [];
  if (kept) said.push(`${whole.format(kept)} protected: at least ${whole.format(low)} stay`);
  if (cut) said.push(`${whole.format(cut)} forced out: at most ${whole.format(high)} stay`);
  return said;
}

/** How far one step goes. @param {Bank} bank @param {Site} site @param {number} layer */
export function stepWords(bank, site, layer) {
  const it = bank.layers[layer];
  const step = site === 'mlp' ? bank.align : Math.round(it.dense[0] / it.steps);
  return step > 1 ? [`steps of ${step}`] : [];
}

/** What brings a dropped layer back. @param {Desk} desk @param {Site} site @param {number} layer */
export const wayBack = (desk, site, layer) =>
  isFixed(desk, site, layer) ? 'forced out on Analyse; clear it there to bring it back' : 'move a fader to bring it back';

/** How much of a site a layer keeps. @param {Desk} desk @param {Site} site @param {number} layer */
export function keptWords(desk, site, layer) {
  const kept = countsOf(desk, site)[layer];
  const all = dense(desk.bank, site, layer);
  return `${whole.format(kept)} of ${whole.format(all)} ${wordsOf(desk.bank, site).unit} kept`;
}

/** What a fader says to a screen reader. @param {Desk} desk @param {Site} site @param {number} layer */
export function spoken(desk, site, layer) {
  const {short} = wordsOf(desk.bank, site);
  if (isDropped(desk, layer)) return `layer ${layer}: dropped whole, ${short} included; ${wayBack(desk, site, layer)}`;
  const error = percent(desk.sums[layer][site]);
  const rest = [...(desk.value.locked[layer] ? ['locked'] : []), ...pinWords(desk.bank, site, layer)];
  return [`layer ${layer} ${short}: ${keptWords(desk, site, layer)}`, `predicted error ${error}`, ...rest].join(', ');
}
