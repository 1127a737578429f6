// What Python sends.

function copyOf(given) {
  const n = bank.layers.length;
  return {
    heads: [...given.heads],
    channels: [...given.channels],
    locked: given.locked?.length === n ? given.locked.map(Boolean) : new Array(n).fill(false),
  };
}

/** What the hand did that Python had not heard of when it sent this: in the present gesture, and in releases under way. */
function unheard(given) {
  turn = Math.max(turn, given.turn ?? 0);
  sent = sent.filter((release) => release.turn > (given.turn ?? Infinity));
  return new Set([...fresh, ...sent.flatMap(({touched}) => [...touched])]);
}

/** Takes what Python sent; what it had not heard of yet stays as the hand left it. */
function accept(given = props.value) {
  const mine = value;
  const rebuilt = !nodes || props.bank !== text;
  if (!props.bank || !given?.heads) return empty();
  if (rebuilt) bank = JSON.parse(props.bank);
  if (given.heads.length !== bank.layers.length) return empty();
  text = props.bank;
  value = copyOf(given);
  automatic = given.auto ?? null;
  solo = given.solo ?? '';
  const touched = unheard(given);
  for (const name of touched) {
    const [what, layer] = name.split(' ');
    if (!mine || layer >= Math.min(mine.heads.length, bank.layers.length)) continue;
    if (what === 'lock') value.locked[layer] = mine.locked[layer];
    else {
      const {key} = WORDS[what];
      value[key][layer] = mine[key][layer] ? snap(what, Number(layer), mine[key][layer]) : 0;
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
  if (drag) drag.late = props.value; // what the hand says meanwhile takes its place there
  else {
    accept();
    if (sent.length) resend();
  }
});
accept();
