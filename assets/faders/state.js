// What a bank knows and shows: one desk for each bank on a page.
/** @import {Bank, Desk, Nodes, Props, Site, Trigger} from './types' */

import {dense, layerSums, limits, snap} from './arithmetic.js';

/** @type {Site[]} */
export const SITES = ['attention', 'mlp'];
/** @type {{attention: 'heads', mlp: 'channels'}} */
export const KEYS = {attention: 'heads', mlp: 'channels'}; // where the counts of a site are in a value

/** A desk without a bank.
 * @param {HTMLElement} root @param {Props} props @param {Trigger} trigger @returns {Desk} */
export function newDesk(root, props, trigger) {
  return {
    root,
    props,
    trigger,
    text: '',
    bank: /** @type {Bank} */ ({}), // both come with the first bank
    nodes: /** @type {Nodes} */ ({}),
    value: {heads: [], channels: [], locked: []},
    sums: [],
    dirty: new Set(),
    frame: 0,
    drag: null,
    pointed: null,
    selected: {site: 'mlp', layer: 0},
    automatic: null,
    solo: '',
    exact: null,
    tapped: null,
    finger: null,
    changed: false,
    fresh: new Set(),
    turn: 0,
    sent: [],
    journey: 0,
    answer: 0,
  };
}

/** How many units every layer keeps of a site; to be written in. @param {Desk} desk @param {Site} site */
export const countsOf = (desk, site) => desk.value[KEYS[site]];

/** @param {Desk} desk @param {number} layer */
export const isDropped = (desk, layer) => !desk.value.heads[layer] && !desk.value.channels[layer];

/** Whether pins, or the layer's own size, leave a fader no other width.
 * @param {Desk} desk @param {Site} site @param {number} layer */
export function isFixed(desk, site, layer) {
  const [low, high] = limits(desk.bank, site, layer);
  return low === high && countsOf(desk, site)[layer] === low;
}

/** Whether one site alone counts, and this is the other. @param {Desk} desk @param {Site} site */
export const isSilent = (desk, site) => desk.solo !== '' && desk.solo !== site;

/** Whether a hand may not move a fader at present.
 * @param {Desk} desk @param {Site} site @param {number} layer */
export const isShut = (desk, site, layer) =>
  desk.value.locked[layer] || isSilent(desk, site) || isFixed(desk, site, layer);

/** The share of its units that a layer keeps. @param {Desk} desk @param {Site} site @param {number} layer */
export const shareOf = (desk, site, layer) => countsOf(desk, site)[layer] / dense(desk.bank, site, layer);

/** The feasible count nearest to a share.
 * @param {Desk} desk @param {Site} site @param {number} layer @param {number} share */
export const countAt = (desk, site, layer, share) =>
  snap(desk.bank, site, layer, share * dense(desk.bank, site, layer));

/** Whether a fader stands where the rules alone would have it.
 * @param {Desk} desk @param {Site} site @param {number} layer */
export function isAutomatic(desk, site, layer) {
  if (!desk.automatic) return false;
  const {heads, channels} = desk.automatic;
  if (!heads[layer] && !channels[layer]) return isDropped(desk, layer);
  return countsOf(desk, site)[layer] === snap(desk.bank, site, layer, desk.automatic[KEYS[site]][layer]);
}

/** Whether a layer after this one has another share than a copy would give it.
 * @param {Desk} desk @param {Site} site @param {number} layer */
export function leftToCopy(desk, site, layer) {
  const share = shareOf(desk, site, layer);
  return countsOf(desk, site).some(
    (kept, next) => next > layer && !desk.value.locked[next] && kept !== countAt(desk, site, next, share),
  );
}

/** Counts a layer as the faders stand; while one site is heard alone the other counts as whole.
 * @param {Desk} desk @param {number} layer */
export function recount(desk, layer) {
  const {bank, solo, value} = desk;
  const [wholeHeads, wholeChannels] = bank.layers[layer].dense;
  const both = !solo || isDropped(desk, layer);
  const heads = both || solo === 'attention' ? value.heads[layer] : wholeHeads;
  const channels = both || solo === 'mlp' ? value.channels[layer] : wholeChannels;
  desk.sums[layer] = layerSums(bank, layer, heads, channels);
}
