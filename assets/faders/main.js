// What Python sends.

function copyOf(given) {
  const n = bank.layers.length;
  return {
    heads: [...given.heads],
    channels: [...given.channels],
    locked: given.locked?.length === n ? given.locked.map(Boolean) : new Array(n).fill(false),
  };
}

/** Takes what Python sent; faders `touched` by a drag that has just ended keep what the hand gave them. */
function accept(touched = new Set()) {
  const mine = value;
  const given = props.value;
  const rebuilt = !nodes || props.bank !== text;
  if (!props.bank || !given?.heads) return empty();
  if (rebuilt) bank = JSON.parse(props.bank);
  if (given.heads.length !== bank.layers.length) return empty();
  text = props.bank;
  value = copyOf(given);
  automatic = given.auto ?? null;
  solo = given.solo ?? '';
  for (const name of touched) {
    const [site, layer] = name.split(' ');
    const kept = mine?.[WORDS[site].key][layer];
    if (kept !== undefined && layer < bank.layers.length) {
      value[WORDS[site].key][layer] = kept ? snap(site, Number(layer), kept) : 0;
    }
  }
  if (rebuilt) build();
  exact = touched.size || solo ? null : given.exact ?? null;
  sums = [];
  for (let layer = 0; layer < bank.layers.length; layer += 1) {
    recount(layer);
    paintLayer(layer);
    paintLock(layer);
  }
  if (pointed && pointed.layer >= bank.layers.length) pointed = null;
  if (selected.layer >= bank.layers.length) selected = {site: 'mlp', layer: 0};
  paintSolo();
  paintDense();
  paintTotals();
  paintDetail();
  paintTools();
  travelled();
}

function empty() {
  bank = value = nodes = pointed = null;
  text = '';
  root.replaceChildren(make('p', 'fd-empty', {}, props.placeholder ?? ''));
}

root.setAttribute('role', 'group');
root.setAttribute('aria-label', props.caption ?? '');
watch(['value', 'bank'], () => {
  if (drag) drag.late = true;
  else accept();
});
accept();
