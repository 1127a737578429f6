// What can be done to faders, by whatever hand.
/** @import {Desk, Place, Site} from './types' */

import {limits, snap} from './arithmetic.js';
import {paintDetail, paintLayer, paintLock, paintSelected, paintSolo, paintTools, paintTotals} from './painting.js';
import {KEYS, SITES, countAt, countsOf, isDropped, isShut, recount, shareOf} from './state.js';
import {release, schedule, send} from './telling.js';

/** @param {Desk} desk @param {Site} site @param {number} layer @param {number} kept */
export function setCount(desk, site, layer, kept) {
  if (isShut(desk, site, layer) || countsOf(desk, site)[layer] === kept) return;
  if (isDropped(desk, layer)) revive(desk, layer);
  countsOf(desk, site)[layer] = kept;
  desk.fresh.add(`${site} ${layer}`);
  schedule(desk, layer);
}

/** A dropped layer comes back whole; the hand then takes its share of one site.
 * @param {Desk} desk @param {number} layer */
function revive(desk, layer) {
  for (const site of SITES) {
    [, countsOf(desk, site)[layer]] = limits(desk.bank, site, layer);
    desk.fresh.add(`${site} ${layer}`);
  }
}

/** @param {Desk} desk @param {Site} site @param {number} layer @param {number} share */
export function setShare(desk, site, layer, share) {
  setCount(desk, site, layer, countAt(desk, site, layer, share));
}

/** @param {Desk} desk @param {number} layer */
export function toggleLock(desk, layer) {
  desk.value.locked[layer] = !desk.value.locked[layer];
  desk.fresh.add(`lock ${layer}`);
  desk.changed = true;
  paintLock(desk, layer);
  paintLayer(desk, layer);
  paintDetail(desk);
  paintTools(desk);
  send(desk, 'input');
  release(desk);
}

/** Back to what the rules alone give; of a layer that they drop nothing stays.
 * @param {Desk} desk @param {Site} site @param {number} layer */
export function setAutomatic(desk, site, layer) {
  if (!desk.automatic) return;
  const {heads, channels} = desk.automatic;
  if (heads[layer] || channels[layer]) {
    setCount(desk, site, layer, snap(desk.bank, site, layer, desk.automatic[KEYS[site]][layer]));
  } else if (!desk.value.locked[layer]) {
    desk.value.heads[layer] = desk.value.channels[layer] = 0;
    for (const name of SITES) desk.fresh.add(`${name} ${layer}`);
    schedule(desk, layer);
  }
  if (!desk.drag) release(desk);
}

/** Gives every layer after this one the same share.
 * @param {Desk} desk @param {Site} site @param {number} layer */
export function copyRight(desk, site, layer) {
  const share = shareOf(desk, site, layer);
  for (let next = layer + 1; next < desk.bank.layers.length; next += 1) setShare(desk, site, next, share);
  release(desk);
}

/** Gives the next layer the same share, and goes there.
 * @param {Desk} desk @param {Site} site @param {number} layer */
export function copyOn(desk, site, layer) {
  if (layer + 1 >= desk.bank.layers.length) return;
  setShare(desk, site, layer + 1, shareOf(desk, site, layer));
  focusFader(desk, site, layer + 1);
}

/** Lets one site alone count, or both; Python is told, because the preview follows.
 * @param {Desk} desk @param {Site} site */
export function toggleSolo(desk, site) {
  desk.solo = desk.solo === site ? '' : site;
  desk.exact = null;
  for (let layer = 0; layer < desk.bank.layers.length; layer += 1) {
    recount(desk, layer);
    paintLayer(desk, layer);
  }
  paintSolo(desk);
  paintTotals(desk);
  paintDetail(desk);
  paintTools(desk);
  desk.trigger('solo', {site: desk.solo});
}

/** Turns the tools to a fader. @param {Desk} desk @param {Place} next */
export function select(desk, next) {
  desk.selected = next;
  paintSelected(desk);
  paintTools(desk);
}

/** One tab stop per lane: the fader last used. @param {Desk} desk @param {Site} site @param {number} layer */
export function focusFader({drag, nodes}, site, layer) {
  for (const node of nodes.faders[site]) if (node.tabIndex === 0) node.tabIndex = -1;
  nodes.faders[site][layer].tabIndex = 0;
  nodes.faders[site][layer].focus({preventScroll: drag !== null});
}
