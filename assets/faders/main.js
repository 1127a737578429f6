// A fader bank on a page of Gradio: what Python sends is taken, what the hand did is told.
/** @import {Bank, Desk, Props, Site, Told, Trigger, Value, Watch} from './types' */

import {snap} from './arithmetic.js';
import {build} from './building.js';
import {make} from './elements.js';
import {paintDense, paintDetail, paintLayer, paintLock, paintSolo, paintTools, paintTotals} from './painting.js';
import {KEYS, newDesk, recount} from './state.js';
import {resend, unanswered} from './telling.js';
import {listenForUndo, travelled} from './undo.js';

/** Puts a bank into a component's element; the rest is what Gradio gives the component.
 * @param {HTMLElement} element @param {Props} props @param {Trigger} trigger @param {Watch} watch */
export function mount(element, props, trigger, watch) {
  const root = /** @type {HTMLElement} */ (element.querySelector('.faders'));
  const desk = newDesk(root, props, trigger);
  root.setAttribute('role', 'group');
  root.setAttribute('aria-label', props.caption ?? '');
  listenForUndo(desk);
  watch(['value', 'bank'], () => {
    if (desk.drag) desk.drag.late = props.value; // what the hand says meanwhile takes its place there
    else {
      accept(desk, props.value);
      if (desk.sent.length) resend(desk);
    }
  });
  accept(desk, props.value);
}

/** Takes what Python sent; what it had not heard of yet stays as the hand left it.
 * @param {Desk} desk @param {Told | null} given */
function accept(desk, given) {
  const text = desk.props.bank;
  if (!text || !given?.heads) return empty(desk);
  const rebuilt = text !== desk.text;
  const mine = desk.text ? desk.value : null;
  /** @type {Bank} */
  const bank = rebuilt ? JSON.parse(text) : desk.bank;
  const n = bank.layers.length;
  if (given.heads.length !== n) return empty(desk);
  Object.assign(desk, {text, bank, value: valueOf(given), automatic: given.auto ?? null, solo: given.solo ?? ''});
  const touched = unheard(desk, given);
  if (mine) keep(desk, mine, touched);
  if (desk.pointed && desk.pointed.layer >= n) desk.pointed = null;
  if (desk.selected.layer >= n) desk.selected = {site: 'mlp', layer: 0};
  if (rebuilt) build(desk, (late) => accept(desk, late));
  desk.exact = touched.size || desk.solo ? null : given.exact ?? null;
  paintAll(desk);
  travelled(desk);
}

/** A value of our own, to be written in. @param {Told} given @returns {Value} */
function valueOf({heads, channels, locked}) {
  const n = heads.length;
  return {
    heads: [...heads],
    channels: [...channels],
    locked: locked?.length === n ? locked.map(Boolean) : new Array(n).fill(false),
  };
}

/** What the hand did that Python had not heard of when it sent this: in the present gesture, and in releases under way.
 * @param {Desk} desk @param {Told} given */
function unheard(desk, given) {
  desk.turn = Math.max(desk.turn, given.turn ?? 0);
  desk.sent = desk.sent.filter((release) => release.turn > (given.turn ?? Infinity));
  return unanswered(desk);
}

/** Leaves what the hand touched as the hand left it.
 * @param {Desk} desk @param {Value} mine @param {Set<string>} touched */
function keep({bank, value}, mine, touched) {
  for (const name of touched) {
    const [what, number] = name.split(' ');
    const layer = Number(number);
    if (layer >= Math.min(mine.heads.length, bank.layers.length)) continue;
    if (what === 'lock') value.locked[layer] = mine.locked[layer];
    else {
      const site = /** @type {Site} */ (what);
      const kept = mine[KEYS[site]][layer];
      value[KEYS[site]][layer] = kept ? snap(bank, site, layer, kept) : 0;
    }
  }
}

/** @param {Desk} desk */
function paintAll(desk) {
  desk.sums = [];
  for (const layer of desk.bank.layers.keys()) {
    recount(desk, layer);
    paintLayer(desk, layer);
    paintLock(desk, layer);
  }
  paintSolo(desk);
  paintDense(desk);
  paintTotals(desk);
  paintDetail(desk);
  paintTools(desk);
}

/** Says what is missing. @param {Desk} desk */
function empty(desk) {
  desk.text = '';
  desk.pointed = null;
  desk.dirty.clear();
  desk.root.replaceChildren(make('p', 'fd-empty', {}, desk.props.placeholder ?? ''));
}
