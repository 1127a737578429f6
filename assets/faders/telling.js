// What changed is counted, drawn and told to Python once a frame.
/** @import {Desk} from './types' */

import {paintDetail, paintLayer, paintTools, paintTotals} from './painting.js';
import {recount} from './state.js';

/** One frame: everything that moved is drawn, counted and told to the app once, however many events came.
 * @param {Desk} desk */
function tick(desk) {
  desk.frame = 0;
  if (!desk.dirty.size) return;
  for (const layer of desk.dirty) recount(desk, layer);
  for (const layer of desk.dirty) paintLayer(desk, layer);
  desk.dirty.clear();
  paintTotals(desk);
  paintDetail(desk);
  paintTools(desk);
  send(desk, 'input');
}

/** What Python has not heard of, or not answered yet. @param {Desk} desk */
export const unanswered = ({fresh, sent}) => new Set([...fresh, ...sent.flatMap(({touched}) => [...touched])]);

/** A new object each time: Gradio compares by identity and would not see a change inside the old one.
 * @param {Desk} desk @param {'input' | 'release'} event */
export function send(desk, event) {
  const {heads, channels, locked} = desk.value;
  const touched = [...unanswered(desk)];
  const copy = {heads: [...heads], channels: [...channels], locked: [...locked], turn: desk.turn, touched};
  desk.props.value = copy;
  desk.trigger(event, copy);
}

/** Draws and tells a layer in the next frame. @param {Desk} desk @param {number} layer */
export function schedule(desk, layer) {
  desk.dirty.add(layer);
  if (!desk.changed) desk.trigger('grasp', null);
  desk.changed = true;
  desk.exact = null;
  if (!desk.frame) desk.frame = requestAnimationFrame(() => tick(desk));
}

/** Does at once what waits for the next frame. @param {Desk} desk */
export function flush(desk) {
  if (desk.frame) cancelAnimationFrame(desk.frame);
  tick(desk);
}

/** Tells Python what the hand did. @param {Desk} desk */
export function release(desk) {
  flush(desk);
  if (!desk.changed) return;
  desk.changed = false;
  desk.turn = Math.max(desk.turn + 1, Date.now());
  desk.sent.push({turn: desk.turn, touched: desk.fresh});
  desk.fresh = new Set();
  send(desk, 'release');
}

/** Releases once more what Python had not heard of: its own answer is what Gradio would send now.
 * @param {Desk} desk */
export function resend(desk) {
  desk.fresh = unanswered(desk);
  desk.sent = [];
  desk.changed = true;
  release(desk);
}
