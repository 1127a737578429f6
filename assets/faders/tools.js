// What can be done to the selected fader beside dragging it; solo; undo and redo by keys.

const MOST_PAUSE = 350; // ms between the two presses of a double one
const NEAR = 6; // px
const LATE = 1500; // ms after which an undo that nobody answered is given up

/** A row of tools for the fader last used, so that hands without a keyboard reach everything, too. */
function tools() {
  const button = (name, label, title, act) => {
    const node = make('button', 'fd-tool', {type: 'button', 'data-tool': name, title}, label);
    node.addEventListener('click', () => act(selected.site, selected.layer));
    return node;
  };
  const number = make('input', 'fd-type', {
    type: 'text', inputmode: 'decimal', autocomplete: 'off', 'data-testid': 'fader-number', maxlength: '9',
  });
  number.addEventListener('keydown', typing);
  number.addEventListener('change', () => typed(number.value));
  nodes.tools = {
    name: make('b', 'fd-selected'),
    number,
    of: make('span', 'fd-number-of'),
    auto: button('automatic', 'Automatic', 'Back to the width that the rules give (A, or double-click)', setAutomatic),
    copy: button('copy', 'Copy to the right', 'The same share for every layer after this one (C)', copyRight),
    lock: button('lock', 'Lock', 'Keep this layer as it is (L)', (_, layer) => toggleLock(layer)),
  };
  const {name, of, auto, copy, lock} = nodes.tools;
  return make('div', 'fd-tools', {role: 'group', 'aria-label': 'The selected fader'},
    name, make('label', 'fd-typed', {}, 'keeps', number, of), auto, copy, lock);
}

function paintTools() {
  const {site, layer} = selected;
  const words = wordsOf(site);
  const {name, number, of, auto, copy, lock} = nodes.tools;
  const shut = isShut(site, layer);
  name.textContent = `Layer ${layer}, ${words.short}`;
  of.textContent = `of ${whole.format(dense(site, layer))} ${words.unit}`;
  number.setAttribute('aria-label', `Layer ${layer} ${words.title}: kept, as a number or a percentage`);
  if (document.activeElement !== number) {
    number.value = whole.format(value[words.key][layer]);
    number.removeAttribute('aria-invalid');
  }
  number.disabled = shut;
  auto.disabled = shut || !automatic || isAutomatic(site, layer);
  copy.disabled = (solo !== '' && solo !== site) || !leftToCopy(site, layer);
  lock.textContent = value.locked[layer] ? 'Unlock' : 'Lock';
  lock.setAttribute('aria-pressed', String(value.locked[layer]));
}

function select(next) {
  selected = next;
  paintSelected();
  paintTools();
}

/** Marks the fader that the tools are for; on a touch screen it alone has a handle. */
function paintSelected() {
  root.querySelector('.fd-chosen')?.classList.remove('fd-chosen');
  nodes.faders[selected.site][selected.layer]?.classList.add('fd-chosen');
}

// Numbers ------------------------------------------------------------------------------------------------

/** A digit pressed on a fader begins a number in its box. */
function typeFrom(digit) {
  const {number} = nodes.tools;
  if (number.disabled) return;
  number.focus();
  number.value = digit;
}

function typing(event) {
  const {number} = nodes.tools;
  const {site, layer} = selected;
  if (event.key === 'Enter') {
    if (typed(number.value)) focusFader(site, layer);
  } else if (event.key === 'Escape') {
    number.value = whole.format(value[WORDS[site].key][layer]);
    number.removeAttribute('aria-invalid');
    focusFader(site, layer);
  } else return;
  event.preventDefault();
}

/** Takes 512, 1,024 or 75 %; whether that was a number. */
function typed(written) {
  const {site, layer} = selected;
  const found = /^\s*(\d[\d,]*(?:\.\d+)?)\s*(%?)\s*$/.exec(written);
  nodes.tools.number.toggleAttribute('aria-invalid', !found);
  if (!found) return false;
  const number = Number(found[1].replaceAll(',', ''));
  set(site, layer, snap(site, layer, found[2] ? (number / 100) * dense(site, layer) : number));
  release();
  paintTools();
  return true;
}

// Acts ---------------------------------------------------------------------------------------------------

/** Whether this press is the second of two in the same place. */
function pressedAgain(event, site, layer) {
  const before = tapped;
  tapped = {site, layer, time: event.timeStamp, x: event.clientX, y: event.clientY};
  const again = automatic && before?.site === site && before.layer === layer &&
    event.timeStamp - before.time < MOST_PAUSE && Math.hypot(event.clientX - before.x, event.clientY - before.y) < NEAR;
  if (again) tapped = null;
  return Boolean(again);
}

/** Back to what the rules alone give; of a layer that they drop nothing stays. */
function setAutomatic(site, layer) {
  if (!automatic) return;
  const [heads, channels] = [automatic.heads[layer], automatic.channels[layer]];
  if (!heads && !channels) {
    if (!value.locked[layer]) {
      value.heads[layer] = value.channels[layer] = 0;
      for (const name of SITES) fresh.add(`${name} ${layer}`);
      schedule(layer);
    }
  } else set(site, layer, snap(site, layer, site === 'attention' ? heads : channels));
  if (!drag) release();
}

/** Whether a fader stands where the rules alone would have it. */
function isAutomatic(site, layer) {
  const [heads, channels] = [automatic.heads[layer], automatic.channels[layer]];
  if (!heads && !channels) return value.heads[layer] === 0 && value.channels[layer] === 0;
  const {key} = WORDS[site];
  return value[key][layer] === snap(site, layer, automatic[key][layer]);
}

/** Gives every layer after this one the same share. */
function copyRight(site, layer) {
  const share = value[WORDS[site].key][layer] / dense(site, layer);
  for (let next = layer + 1; next < bank.layers.length; next += 1) setShare(site, next, share);
  release();
}

/** Whether a layer after this one has another share than it would get. */
function leftToCopy(site, layer) {
  const counts = value[WORDS[site].key];
  const share = counts[layer] / dense(site, layer);
  return counts.some((kept, next) => next > layer && !value.locked[next] && kept !== snap(site, next, share * dense(site, next)));
}

/** Gives the next layer the same share, and goes there. */
function copyOn(site, layer) {
  if (layer + 1 >= bank.layers.length) return;
  setShare(site, layer + 1, value[WORDS[site].key][layer] / dense(site, layer));
  focusFader(site, layer + 1);
}

/** Lets one site alone count, or both; Python is told, because the preview follows. */
function setSolo(site) {
  solo = site;
  exact = null;
  for (let layer = 0; layer < bank.layers.length; layer += 1) {
    recount(layer);
    paintLayer(layer);
  }
  paintSolo();
  paintTotals();
  paintDetail();
  paintTools();
  trigger('solo', {site});
}

// Undo and redo ------------------------------------------------------------------------------------------

let journey = 0; // steps still to go: below zero back, above zero forth
let answer = 0; // the timer of the step under way

/** Presses Undo or Redo as often as the keys were pressed, one after the other has been answered. */
function travel() {
  if (answer || !journey) return;
  const button = document.getElementById(journey < 0 ? 'tune-undo' : 'tune-redo');
  if (!button || button.disabled) {
    journey = 0;
    return;
  }
  journey -= Math.sign(journey);
  answer = setTimeout(travelled, LATE);
  button.click();
}

function travelled() {
  clearTimeout(answer);
  answer = 0;
  if (journey) setTimeout(travel);
}

const writes = (node) =>
  node?.isContentEditable || node?.matches?.('textarea, input:not([type=range], [type=checkbox], [type=radio])');

document.addEventListener('keydown', (event) => {
  const key = event.key.toLowerCase();
  if (!(event.ctrlKey || event.metaKey) || event.altKey || !['z', 'y'].includes(key)) return;
  if (!root.offsetParent || drag || writes(event.target)) return;
  event.preventDefault();
  journey += key === 'y' || event.shiftKey ? 1 : -1;
  travel();
});
