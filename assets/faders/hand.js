// The pointer and the keys.

function set(site, layer, kept) {
  const counts = value[WORDS[site].key];
  if (isShut(site, layer) || counts[layer] === kept) return;
  if (isDropped(layer)) revive(layer);
  counts[layer] = kept;
  fresh.add(`${site} ${layer}`);
  schedule(layer);
}

/** A dropped layer comes back whole; the hand then takes its share of one site. */
function revive(layer) {
  for (const site of SITES) {
    [, value[WORDS[site].key][layer]] = limits(site, layer);
    fresh.add(`${site} ${layer}`);
  }
}

function setShare(site, layer, share) {
  set(site, layer, snap(site, layer, share * dense(site, layer)));
}

function toggleLock(layer) {
  value.locked[layer] = !value.locked[layer];
  fresh.add(`lock ${layer}`);
  changed = true;
  paintLock(layer);
  paintLayer(layer);
  paintDetail();
  paintTools();
  send('input');
  release();
}

/** The column and height of a pointer event, in a lane measured when the drag began. */
function where(event, box) {
  const n = bank.layers.length;
  const layer = clamp(Math.floor(((event.clientX - box.left) / box.width) * n), 0, n - 1);
  return {layer, share: clamp(1 - (event.clientY - box.top) / box.height, 0, 1)};
}

/** Columns that a fast pointer jumped over get the heights on the straight line between. */
function paintTo(event) {
  const {site, box} = drag;
  const to = where(event, box);
  if (event.shiftKey || drag.touch) to.layer = drag.layer;
  if (drag.touch) to.share = clamp(to.share + drag.offset, 0, 1);
  const from = drag.last ?? to;
  const span = Math.abs(to.layer - from.layer);
  for (let i = span ? 1 : 0; i <= span; i += 1) {
    const part = span ? i / span : 1;
    const layer = Math.round(from.layer + part * (to.layer - from.layer));
    setShare(site, layer, from.share + part * (to.share - from.share));
  }
  drag.last = to;
  drag.moved = true;
  point({site, layer: to.layer});
}

/** A finger on a fader scrolls the page, for all we know: lifted in the same place it selects the fader, whose handle can
 * then be dragged. A second tap goes back to what the rules give. */
function tap(event, site, row) {
  const {layer} = where(event, row.getBoundingClientRect());
  focusFader(site, layer);
  if (pressedAgain(event, site, layer)) setAutomatic(site, layer);
}

function begin(event, site, row) {
  if (event.button !== 0 || drag) return;
  const touch = event.pointerType === 'touch';
  finger = touch && !event.target.closest('.fd-handle') ? {id: event.pointerId, x: event.clientX, y: event.clientY} : null;
  if (finger) return;
  release();
  const box = row.getBoundingClientRect();
  const at = where(event, box);
  const kept = value[WORDS[site].key][at.layer] / dense(site, at.layer);
  drag = {
    site, box, layer: at.layer, last: null, moved: false, id: event.pointerId, late: null,
    touch, offset: kept - at.share, // a finger moves the handle from wherever it took it
    before: {heads: [...value.heads], channels: [...value.channels]},
  };
  row.setPointerCapture(event.pointerId);
  row.classList.add('fd-dragging');
  focusFader(site, at.layer);
  drag.again = !touch && pressedAgain(event, site, at.layer);
  if (drag.again) {
    setAutomatic(site, at.layer);
    event.preventDefault();
    return;
  }
  if (!touch) paintTo(event);
  event.preventDefault();
}

function finish(row) {
  row.classList.remove('fd-dragging');
  const {late} = drag;
  flush();
  drag = null;
  if (late) accept(late);
  if (late && sent.length) resend();
  else release();
}

/** Puts back what the drag changed: the browser took the gesture, or Escape was pressed. */
function abandon(row) {
  for (const site of SITES) {
    const key = WORDS[site].key;
    drag.before[key].forEach((kept, layer) => {
      if (value[key][layer] !== kept) {
        value[key][layer] = kept;
        schedule(layer);
      }
    });
  }
  fresh.clear();
  finish(row);
}

function listen(row, site) {
  const mine = (event) => drag && drag.site === site && drag.id === event.pointerId;
  row.addEventListener('pointerdown', (event) => begin(event, site, row));
  row.addEventListener('pointermove', (event) => {
    if (mine(event)) {
      if (!drag.again) paintTo(event);
    } else if (!drag) point({site, layer: where(event, row.getBoundingClientRect()).layer});
  });
  row.addEventListener('pointerup', (event) => {
    if (finger?.id === event.pointerId) {
      if (Math.hypot(event.clientX - finger.x, event.clientY - finger.y) < NEAR) tap(event, site, row);
      finger = null;
    }
    if (!mine(event)) return;
    if (!drag.moved && !drag.again) paintTo(event);
    finish(row);
  });
  row.addEventListener('pointercancel', (event) => {
    finger = null;
    if (mine(event)) abandon(row);
  });
  row.addEventListener('pointerleave', () => !drag && point(null));
  row.addEventListener('keydown', (event) => (drag ? event.key === 'Escape' && abandon(row) : press(event, site)));
  row.addEventListener('keyup', () => !drag && release());
  row.addEventListener('focusin', (event) => {
    const at = {site, layer: Number(event.target.dataset.layer)};
    select(at);
    if (!drag) point(at);
  });
  row.addEventListener('focusout', () => {
    if (drag) return;
    release();
    point(null);
  });
}


const STEPS = {ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10};
const SIDES = {ArrowLeft: -1, ArrowRight: 1};
const LETTERS = {
  l: (_, layer) => toggleLock(layer),
  a: setAutomatic,
  c: copyRight,
  s: (site) => setSolo(solo === site ? '' : site),
};

function press(event, site) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const layer = Number(event.target.dataset.layer);
  const [low, high] = limits(site, layer);
  const letter = LETTERS[event.key.toLowerCase()];
  if (event.key === 'ArrowRight' && event.shiftKey) copyOn(site, layer);
  else if (event.key in STEPS) set(site, layer, stepped(site, layer, STEPS[event.key]));
  else if (event.key in SIDES) focusFader(site, clamp(layer + SIDES[event.key], 0, bank.layers.length - 1));
  else if (event.key === 'Home') set(site, layer, low);
  else if (event.key === 'End') set(site, layer, high);
  else if (letter) letter(site, layer);
  else if (/^[0-9]$/.test(event.key)) typeFrom(event.key);
  else return;
  event.preventDefault();
}

/** One tab stop per lane: the fader last used. */
function focusFader(site, layer) {
  for (const node of nodes.faders[site]) if (node.tabIndex === 0) node.tabIndex = -1;
  nodes.faders[site][layer].tabIndex = 0;
  nodes.faders[site][layer].focus({preventScroll: drag !== null});
}
