// What changes is drawn, counted and told once a frame.

/** Writes only what is new: every write makes the browser look at the styles of a whole column again. */
function say(node, name, now) {
  if (node.getAttribute(name) !== String(now)) node.setAttribute(name, now);
}

function write(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

function recount(layer) {
  sums[layer] = sumsOf(layer);
}

function paintLayer(layer) {
  for (const site of SITES) {
    const node = nodes.faders[site][layer];
    const kept = value[WORDS[site].key][layer];
    const now = String(kept);
    if (node.getAttribute('aria-valuenow') !== now) {
      node.style.setProperty('--kept', kept / dense(site, layer));
      node.setAttribute('aria-valuenow', now);
    }
    say(node, 'aria-valuemin', Math.min(kept, limits(site, layer)[0]));
    say(node, 'aria-valuetext', spoken(site, layer));
    say(node, 'aria-disabled', isShut(site, layer));
    node.classList.toggle('fd-dropped', isDropped(layer));
  }
  const error = exact?.errors[layer] ?? sums[layer].joint;
  say(nodes.errors[layer], 'style', `--error: ${Math.sqrt(Math.min(1, error)).toFixed(4)}`);
}

function paintLock(layer) {
  const locked = value.locked[layer];
  const lock = nodes.locks[layer];
  say(lock, 'aria-pressed', locked);
  say(lock, 'aria-label', `${locked ? 'unlock' : 'lock'} layer ${layer}`);
  say(lock, 'title', `${locked ? 'Unlock' : 'Lock'} layer ${layer}`);
  for (const site of SITES) nodes.faders[site][layer].classList.toggle('fd-locked', locked);
}

function paintTotals() {
  const totals = exact ?? forecast(sums);
  say(nodes.forecast, 'data-exact', exact !== null);
  for (const figure of FIGURES) {
    const {number} = nodes.figures[figure.key];
    write(number, figure.show(totals[figure.key]));
    say(number, 'data-value', totals[figure.key]);
  }
}

/** Which site is heard alone: said in words, and the other lane dimmed. */
function paintSolo() {
  for (const site of SITES) {
    say(nodes.solos[site], 'aria-pressed', solo === site);
    nodes.lanes[site].classList.toggle('fd-silent', solo !== '' && solo !== site);
  }
}

function paintDense() {
  const all = forecast(bank.layers.map((it, layer) => layerSums(layer, it.dense[0], it.dense[1])));
  for (const figure of FIGURES) write(nodes.figures[figure.key].of, figure.of(all));
}

/** The numbers of the fader under the pointer; a hint where there is none. */
function paintDetail() {
  const line = nodes.detail;
  if (!pointed) {
    write(line, solo ? ALONE[solo] : IDLE);
    line.classList.add('fd-idle');
    return;
  }
  const {site, layer} = pointed;
  const words = wordsOf(site);
  const kept = value[words.key][layer];
  const [heads, channels] = bank.layers[layer].dense;
  const without = site === 'attention' ? [heads, value.channels[layer]] : [value.heads[layer], channels];
  const saved = layerParameters(layer, ...without) - sums[layer].parameters;
  const all = [heads, channels];
  const parts = isDropped(layer) ? [
    'dropped whole',
    `predicted error ${percent(sums[layer].joint)}`,
    `saves ${count(layerParameters(layer, ...all))} parameters`,
    wayBack(site, layer),
  ] : [
    `${whole.format(kept)} of ${whole.format(dense(site, layer))} ${words.unit} kept`,
    `predicted error ${percent(sums[layer][site])}, whole layer ${percent(sums[layer].joint)}`,
    `saves ${count(Math.max(0, saved))} parameters`,
  ];
  if (value.locked[layer]) parts.push('locked');
  if (!isDropped(layer)) parts.push(...pinWords(site, layer), ...stepWords(site, layer));
  line.classList.remove('fd-idle');
  line.replaceChildren(make('b', '', {}, `Layer ${layer}, ${words.short}`), ...parts.map((t) => make('span', '', {}, t)));
}

function point(next) {
  if (next?.site === pointed?.site && next?.layer === pointed?.layer) return;
  if (pointed) nodes.numbers[pointed.layer]?.parentElement.classList.remove('fd-pointed');
  pointed = next;
  if (pointed) nodes.numbers[pointed.layer].parentElement.classList.add('fd-pointed');
  paintDetail();
}

/** One frame: everything that moved is drawn, counted and told to the app once, however many events came. */
function tick() {
  frame = 0;
  if (!dirty.size) return;
  for (const layer of dirty) recount(layer);
  for (const layer of dirty) paintLayer(layer);
  dirty.clear();
  paintTotals();
  paintDetail();
  paintTools();
  send('input');
}

/** A new object each time: Gradio compares by identity and would not see a change inside the old one. */
function send(event) {
  const touched = [...new Set([...fresh, ...sent.flatMap((release) => [...release.touched])])];
  const copy = {heads: [...value.heads], channels: [...value.channels], locked: [...value.locked], turn, touched};
  props.value = copy;
  trigger(event, copy);
}

function schedule(layer) {
  dirty.add(layer);
  if (!changed) trigger('grasp', null);
  changed = true;
  exact = null;
  if (!frame) frame = requestAnimationFrame(tick);
}

function flush() {
  if (frame) cancelAnimationFrame(frame);
  tick();
}

function release() {
  flush();
  if (!changed) return;
  changed = false;
  turn = Math.max(turn + 1, Date.now());
  sent.push({turn, touched: fresh});
  fresh = new Set();
  send('release');
}

/** Releases once more what Python had not heard of: its own answer is what Gradio would send now. */
function resend() {
  fresh = new Set([...fresh, ...sent.flatMap(({touched}) => [...touched])]);
  sent = [];
  changed = true;
  release();
}
