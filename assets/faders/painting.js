// What the desk says is drawn.
/** @import {Desk, Place, Site} from './types' */

import {dense, forecast, layerParameters, layerSums, limits} from './arithmetic.js';
import {make, say, write} from './elements.js';
import {SITES, countsOf, isAutomatic, isDropped, isShut, isSilent, leftToCopy, shareOf} from './state.js';
import {ALONE, FIGURES, IDLE, count, keptWords, percent, pinWords, spoken, stepWords, wayBack, whole, wordsOf} from './words.js';

/** @param {Desk} desk @param {number} layer */
export function paintLayer(desk, layer) {
  const {bank, exact, nodes, sums} = desk;
  for (const site of SITES) {
    const node = nodes.faders[site][layer];
    const kept = countsOf(desk, site)[layer];
    const now = String(kept);
    if (node.getAttribute('aria-valuenow') !== now) {
      node.style.setProperty('--kept', String(shareOf(desk, site, layer)));
      node.setAttribute('aria-valuenow', now);
    }
    say(node, 'aria-valuemin', Math.min(kept, limits(bank, site, layer)[0]));
    say(node, 'aria-valuetext', spoken(desk, site, layer));
    say(node, 'aria-disabled', isShut(desk, site, layer));
    node.classList.toggle('fd-dropped', isDropped(desk, layer));
  }
  const error = exact?.errors[layer] ?? sums[layer].joint;
  say(nodes.errors[layer], 'style', `--error: ${Math.sqrt(Math.min(1, error)).toFixed(4)}`);
}

/** @param {Desk} desk @param {number} layer */
export function paintLock({nodes, value}, layer) {
  const locked = value.locked[layer];
  const lock = nodes.locks[layer];
  say(lock, 'aria-pressed', locked);
  say(lock, 'aria-label', `${locked ? 'unlock' : 'lock'} layer ${layer}`);
  say(lock, 'title', `${locked ? 'Unlock' : 'Lock'} layer ${layer}`);
  for (const site of SITES) nodes.faders[site][layer].classList.toggle('fd-locked', locked);
}

/** @param {Desk} desk */
export function paintTotals({bank, exact, nodes, sums}) {
  const totals = exact ?? forecast(bank, sums);
  say(nodes.forecast, 'data-exact', exact !== null);
  for (const figure of FIGURES) {
    const {number} = nodes.figures[figure.key];
    write(number, figure.show(totals[figure.key]));
    say(number, 'data-value', totals[figure.key]);
  }
}

/** Which site is heard alone: said in words, and the other lane dimmed. @param {Desk} desk */
export function paintSolo(desk) {
  for (const site of SITES) {
    say(desk.nodes.solos[site], 'aria-pressed', desk.solo === site);
    desk.nodes.lanes[site].classList.toggle('fd-silent', isSilent(desk, site));
  }
}

/** What the figures are a part of. @param {Desk} desk */
export function paintDense({bank, nodes}) {
  const all = forecast(bank, bank.layers.map((it, layer) => layerSums(bank, layer, it.dense[0], it.dense[1])));
  for (const figure of FIGURES) write(nodes.figures[figure.key].of, figure.of(all, bank));
}

/** The numbers of the fader under the pointer; a hint where there is none. @param {Desk} desk */
export function paintDetail(desk) {
  const line = desk.nodes.detail;
  line.classList.toggle('fd-idle', !desk.pointed);
  if (!desk.pointed) {
    write(line, desk.solo ? ALONE[desk.solo] : IDLE);
    return;
  }
  const {site, layer} = desk.pointed;
  const parts = isDropped(desk, layer) ? droppedWords(desk, site, layer) : widthWords(desk, site, layer);
  const name = make('b', '', {}, `Layer ${layer}, ${wordsOf(desk.bank, site).short}`);
  line.replaceChildren(name, ...parts.map((words) => make('span', '', {}, words)));
}

/** @param {Desk} desk @param {Site} site @param {number} layer */
function droppedWords(desk, site, layer) {
  const [heads, channels] = desk.bank.layers[layer].dense;
  return [
    'dropped whole',
    `predicted error ${percent(desk.sums[layer].joint)}`,
    `saves ${count(layerParameters(desk.bank, layer, heads, channels))} parameters`,
    wayBack(desk, site, layer),
    ...(desk.value.locked[layer] ? ['locked'] : []),
  ];
}

/** @param {Desk} desk @param {Site} site @param {number} layer */
function widthWords(desk, site, layer) {
  const {bank, sums, value} = desk;
  const [heads, channels] = bank.layers[layer].dense;
  const uncut = site === 'attention'
    ? layerParameters(bank, layer, heads, value.channels[layer])
    : layerParameters(bank, layer, value.heads[layer], channels);
  return [
    keptWords(desk, site, layer),
    `predicted error ${percent(sums[layer][site])}, whole layer ${percent(sums[layer].joint)}`,
    `saves ${count(Math.max(0, uncut - sums[layer].parameters))} parameters`,
    ...(value.locked[layer] ? ['locked'] : []),
    ...pinWords(bank, site, layer),
    ...stepWords(bank, site, layer),
  ];
}

/** Points at a fader, or at none. @param {Desk} desk @param {Place | null} next */
export function point(desk, next) {
  const {nodes, pointed} = desk;
  if (next?.site === pointed?.site && next?.layer === pointed?.layer) return;
  if (pointed) nodes.numbers[pointed.layer]?.parentElement?.classList.remove('fd-pointed');
  desk.pointed = next;
  if (next) nodes.numbers[next.layer].parentElement?.classList.add('fd-pointed');
  paintDetail(desk);
}

/** The tools, as they fit the selected fader. @param {Desk} desk */
export function paintTools(desk) {
  const {bank, value} = desk;
  const {site, layer} = desk.selected;
  const words = wordsOf(bank, site);
  const {name, number, of, auto, copy, lock} = desk.nodes.tools;
  const shut = isShut(desk, site, layer);
  name.textContent = `Layer ${layer}, ${words.short}`;
  of.textContent = `of ${whole.format(dense(bank, site, layer))} ${words.unit}`;
  number.setAttribute('aria-label', `Layer ${layer} ${words.title}: kept, as a number or a percentage`);
  if (document.activeElement !== number) paintNumber(desk);
  number.disabled = shut;
  auto.disabled = shut || !desk.automatic || isAutomatic(desk, site, layer);
  copy.disabled = isSilent(desk, site) || !leftToCopy(desk, site, layer);
  lock.textContent = value.locked[layer] ? 'Unlock' : 'Lock';
  lock.setAttribute('aria-pressed', String(value.locked[layer]));
}

/** The count in the box for it. @param {Desk} desk */
export function paintNumber(desk) {
  const {site, layer} = desk.selected;
  const {number} = desk.nodes.tools;
  number.value = whole.format(countsOf(desk, site)[layer]);
  number.removeAttribute('aria-invalid');
}

/** Marks the fader that the tools are for; on a touch screen it alone has a handle. @param {Desk} desk */
export function paintSelected({nodes, root, selected}) {
  root.querySelector('.fd-chosen')?.classList.remove('fd-chosen');
  nodes.faders[selected.site][selected.layer]?.classList.add('fd-chosen');
}
