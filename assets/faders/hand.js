// The pointer and the keys on a lane.
/** @import {Desk, Drag, Site, Spot, Told} from './types' */

import {clamp, limits, stepped} from './arithmetic.js';
import {targetOf} from './elements.js';
import {copyOn, copyRight, focusFader, select, setAutomatic, setCount, setShare, toggleLock, toggleSolo} from './moves.js';
import {point} from './painting.js';
import {KEYS, SITES, countsOf, isDropped, shareOf} from './state.js';
import {flush, release, resend, schedule} from './telling.js';
import {typeFrom} from './tools.js';

const MOST_PAUSE = 350; // ms between the two presses of a double one
const NEAR = 6; // px

/** The hand on one lane. `accept` takes what Python sent during a drag.
 * @param {Desk} desk @param {Site} site @param {(late: Told) => void} accept */
export function listen(desk, site, accept) {
  const row = desk.nodes.lanes[site];
  /** The drag of this pointer here, if there is one. @param {PointerEvent} event */
  const mine = ({pointerId}) => (desk.drag?.site === site && desk.drag.id === pointerId ? desk.drag : null);
  row.addEventListener('pointerdown', (event) => begin(desk, event, site, row));
  row.addEventListener('pointermove', (event) => {
    const drag = mine(event);
    if (drag && !drag.again) paintTo(desk, drag, event);
    else if (!desk.drag) point(desk, {site, layer: spotOf(desk, event, row.getBoundingClientRect()).layer});
  });
  row.addEventListener('pointerup', (event) => {
    lift(desk, event, site, row);
    const drag = mine(event);
    if (!drag) return;
    if (!drag.moved && !drag.again) paintTo(desk, drag, event);
    finish(desk, drag, row, accept);
  });
  row.addEventListener('pointercancel', (event) => {
    desk.finger = null;
    const drag = mine(event);
    if (drag) abandon(desk, drag, row, accept);
  });
  row.addEventListener('pointerleave', () => !desk.drag && point(desk, null));
  row.addEventListener('keydown', (event) => {
    if (!desk.drag) press(desk, event, site);
    else if (event.key === 'Escape') abandon(desk, desk.drag, row, accept);
  });
  row.addEventListener('keyup', () => !desk.drag && release(desk));
  row.addEventListener('focusin', (event) => {
    const at = {site, layer: Number(targetOf(event).dataset.layer)};
    select(desk, at);
    if (!desk.drag) point(desk, at);
  });
  row.addEventListener('focusout', () => {
    if (desk.drag) return;
    release(desk);
    point(desk, null);
  });
}

// The pointer --------------------------------------------------------------------------------------------

/** Where a pointer is, in a lane measured when the drag began.
 * @param {Desk} desk @param {PointerEvent} event @param {DOMRect} box @returns {Spot} */
function spotOf(desk, event, box) {
  const n = desk.bank.layers.length;
  const layer = clamp(Math.floor(((event.clientX - box.left) / box.width) * n), 0, n - 1);
  return {layer, share: clamp(1 - (event.clientY - box.top) / box.height, 0, 1)};
}

/** @param {Desk} desk @param {PointerEvent} event @param {Site} site @param {HTMLElement} row */
function begin(desk, event, site, row) {
  if (event.button !== 0 || desk.drag) return;
  const touch = event.pointerType === 'touch';
  const scrolls = touch && !targetOf(event).closest('.fd-handle'); // for all we know
  desk.finger = scrolls ? {id: event.pointerId, x: event.clientX, y: event.clientY} : null;
  if (scrolls) return;
  release(desk);
  const box = row.getBoundingClientRect();
  const at = spotOf(desk, event, box);
  /** @type {Drag} */
  const drag = {
    site, box, touch, layer: at.layer, last: null, moved: false, again: false, id: event.pointerId, late: null,
    offset: shareOf(desk, site, at.layer) - at.share,
    before: {heads: [...desk.value.heads], channels: [...desk.value.channels]},
  };
  desk.drag = drag;
  row.setPointerCapture(event.pointerId);
  row.classList.add('fd-dragging');
  focusFader(desk, site, at.layer);
  drag.again = !touch && pressedAgain(desk, event, site, at.layer);
  if (drag.again) setAutomatic(desk, site, at.layer);
  else if (!touch) paintTo(desk, drag, event);
  event.preventDefault();
}

/** Columns that a fast pointer jumped over get the heights on the straight line between.
 * @param {Desk} desk @param {Drag} drag @param {PointerEvent} event */
function paintTo(desk, drag, event) {
  const {site, box} = drag;
  const to = spotOf(desk, event, box);
  if (event.shiftKey || drag.touch) to.layer = drag.layer;
  if (drag.touch) to.share = clamp(to.share + drag.offset, 0, 1);
  const from = drag.last ?? to;
  const span = Math.abs(to.layer - from.layer);
  for (let i = span ? 1 : 0; i <= span; i += 1) {
    const part = span ? i / span : 1;
    const layer = Math.round(from.layer + part * (to.layer - from.layer));
    setShare(desk, site, layer, from.share + part * (to.share - from.share));
  }
  drag.last = to;
  drag.moved = true;
  point(desk, {site, layer: to.layer});
}

/** A finger that is lifted where it was put down taps: it selects the fader, whose handle can then be dragged. A second tap
 * goes back to what the rules give.
 * @param {Desk} desk @param {PointerEvent} event @param {Site} site @param {HTMLElement} row */
function lift(desk, event, site, row) {
  const {finger} = desk;
  if (finger?.id !== event.pointerId) return;
  if (Math.hypot(event.clientX - finger.x, event.clientY - finger.y) < NEAR) {
    const {layer} = spotOf(desk, event, row.getBoundingClientRect());
    focusFader(desk, site, layer);
    if (pressedAgain(desk, event, site, layer)) setAutomatic(desk, site, layer);
  }
  desk.finger = null;
}

/** Whether this press is the second of two in the same place.
 * @param {Desk} desk @param {PointerEvent} event @param {Site} site @param {number} layer */
function pressedAgain(desk, event, site, layer) {
  const before = desk.tapped;
  const now = {site, layer, time: event.timeStamp, x: event.clientX, y: event.clientY};
  const again = desk.automatic !== null && before?.site === site && before.layer === layer &&
    now.time - before.time < MOST_PAUSE && Math.hypot(now.x - before.x, now.y - before.y) < NEAR;
  desk.tapped = again ? null : now;
  return again;
}

/** @param {Desk} desk @param {Drag} drag @param {HTMLElement} row @param {(late: Told) => void} accept */
function finish(desk, drag, row, accept) {
  row.classList.remove('fd-dragging');
  flush(desk);
  desk.drag = null;
  if (drag.late) accept(drag.late);
  if (drag.late && desk.sent.length) resend(desk);
  else release(desk);
}

/** Puts back what the drag changed: the browser took the gesture, or Escape was pressed.
 * @param {Desk} desk @param {Drag} drag @param {HTMLElement} row @param {(late: Told) => void} accept */
function abandon(desk, drag, row, accept) {
  for (const site of SITES) {
    const counts = countsOf(desk, site);
    drag.before[KEYS[site]].forEach((kept, layer) => {
      if (counts[layer] === kept) return;
      counts[layer] = kept;
      schedule(desk, layer);
    });
  }
  desk.fresh.clear();
  finish(desk, drag, row, accept);
}

// The keys -----------------------------------------------------------------------------------------------

/** @type {Record<string, number>} */
const STEPS = {ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10};
/** @type {Record<string, number>} */
const SIDES = {ArrowLeft: -1, ArrowRight: 1};
/** @type {Record<string, (desk: Desk, site: Site, layer: number) => void>} */
const LETTERS = {
  l: (desk, _, layer) => toggleLock(desk, layer),
  a: setAutomatic,
  c: copyRight,
  s: toggleSolo,
};

/** @param {Desk} desk @param {KeyboardEvent} event @param {Site} site */
function press(desk, event, site) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const layer = Number(targetOf(event).dataset.layer);
  const [low, high] = limits(desk.bank, site, layer);
  const letter = LETTERS[event.key.toLowerCase()];
  if (event.key === 'ArrowRight' && event.shiftKey) copyOn(desk, site, layer);
  else if (event.key in STEPS) step(desk, site, layer, STEPS[event.key]);
  else if (event.key in SIDES) focusFader(desk, site, clamp(layer + SIDES[event.key], 0, desk.bank.layers.length - 1));
  else if (event.key === 'Home') setCount(desk, site, layer, low);
  else if (event.key === 'End') setCount(desk, site, layer, high);
  else if (letter) letter(desk, site, layer);
  else if (/^[0-9]$/.test(event.key)) typeFrom(desk, event.key);
  else return;
  event.preventDefault();
}

/** So many feasible counts up or down; a dropped layer has nothing below it.
 * @param {Desk} desk @param {Site} site @param {number} layer @param {number} steps */
function step(desk, site, layer, steps) {
  const now = countsOf(desk, site)[layer];
  const below = isDropped(desk, layer) && steps < 0;
  setCount(desk, site, layer, below ? 0 : stepped(desk.bank, site, layer, now, steps));
}
