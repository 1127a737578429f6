// A row of tools for the fader last used, so that hands without a keyboard reach everything, too.
/** @import {Desk, Site, Tools} from './types' */

import {dense, snap} from './arithmetic.js';
import {make} from './elements.js';
import {copyRight, focusFader, setAutomatic, setCount, toggleLock} from './moves.js';
import {paintNumber, paintTools} from './painting.js';
import {release} from './telling.js';

/** @param {Desk} desk @returns {Tools} */
export function makeTools(desk) {
  /** @param {string} name @param {string} label @param {string} title @param {(desk: Desk, site: Site, layer: number) => void} act */
  const button = (name, label, title, act) => {
    const node = make('button', 'fd-tool', {type: 'button', 'data-tool': name, title}, label);
    node.addEventListener('click', () => act(desk, desk.selected.site, desk.selected.layer));
    return node;
  };
  const [name, of, number] = [make('b', 'fd-selected'), make('span', 'fd-number-of'), numberBox(desk)];
  const auto = button('automatic', 'Automatic', 'Back to the width that the rules give (A, or double-click)', setAutomatic);
  const copy = button('copy', 'Copy to the right', 'The same share for every layer after this one (C)', copyRight);
  const lock = button('lock', 'Lock', 'Keep this layer as it is (L)', (_, __, layer) => toggleLock(desk, layer));
  const row = make('div', 'fd-tools', {role: 'group', 'aria-label': 'The selected fader'},
    name, make('label', 'fd-typed', {}, 'keeps', number, of), auto, copy, lock);
  return {row, name, number, of, auto, copy, lock};
}

/** @param {Desk} desk */
function numberBox(desk) {
  const number = make('input', 'fd-type', {
    type: 'text', inputmode: 'decimal', autocomplete: 'off', 'data-testid': 'fader-number', maxlength: '9',
  });
  number.addEventListener('keydown', (event) => pressKey(desk, event));
  number.addEventListener('change', () => takeNumber(desk));
  return number;
}

/** A digit pressed on a fader begins a number in its box. @param {Desk} desk @param {string} digit */
export function typeFrom(desk, digit) {
  const {number} = desk.nodes.tools;
  if (number.disabled) return;
  number.focus();
  number.value = digit;
}

/** Enter takes the number, Escape the one before; both lead back to the fader.
 * @param {Desk} desk @param {KeyboardEvent} event */
function pressKey(desk, event) {
  const {site, layer} = desk.selected;
  if (event.key === 'Enter') {
    if (takeNumber(desk)) focusFader(desk, site, layer);
  } else if (event.key === 'Escape') {
    paintNumber(desk);
    focusFader(desk, site, layer);
  } else return;
  event.preventDefault();
}

/** Takes 512, 1,024 or 75 %; whether that was a number. @param {Desk} desk */
function takeNumber(desk) {
  const {site, layer} = desk.selected;
  const {number} = desk.nodes.tools;
  const found = /^\s*(\d[\d,]*(?:\.\d+)?)\s*(%?)\s*$/.exec(number.value);
  number.toggleAttribute('aria-invalid', !found);
  if (!found) return false;
  const written = Number(found[1].replaceAll(',', ''));
  const wanted = found[2] ? (written / 100) * dense(desk.bank, site, layer) : written;
  setCount(desk, site, layer, snap(desk.bank, site, layer, wanted));
  release(desk);
  paintTools(desk);
  return true;
}
