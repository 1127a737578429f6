// Numbers and states in words.

const whole = new Intl.NumberFormat('en-US');

/** Three or four significant digits with a fixed count of decimals, so that digits do not jump about. */
function scaled(number, units) {
  let i = 0;
  while (i < units.length - 1 && Math.abs(number) >= 999.95) {
    number /= 1000;
    i += 1;
  }
  const digits = Math.abs(number) >= 100 ? 1 : 2;
  return [i === 0 && Number.isInteger(number) ? whole.format(number) : number.toFixed(digits), units[i]];
}

function percent(share) {
  const hundred = share * 100;
  if (hundred === 0) return '0 %';
  if (Math.abs(hundred) < 0.01) return '< 0.01 %';
  return `${hundred.toFixed(Math.abs(hundred) < 1 ? 2 : 1)} %`;
}

const count = (number) => scaled(number, ['', 'k', 'M', 'B']).join(' ').trim();
const bytes = (number) => scaled(number / 1000, ['kB', 'MB', 'GB']).join(' ');

const IDLE = matchMedia('(pointer: coarse)').matches
  ? 'Tap a fader to see what it keeps, costs and saves; then drag its handle.'
  : 'Point at a fader to see what it keeps, costs and saves.';

const FIGURES = [
  {key: 'parameters', label: 'Parameters', show: count, of: (whole) => `of ${count(whole.parameters)}`},
  {
    key: 'ratio',
    label: 'Removed',
    show: percent,
    of: () => (bank.count === 'all' ? 'of the whole model' : 'of the layers'),
  },
  {
    key: 'bytes',
    label: 'Size',
    show: bytes,
    of: (whole) => `of ${bytes(whole.bytes)} at ${bank.bytes * 8} bits`,
  },
  {
    key: 'kv',
    label: 'KV cache per 1k tokens',
    show: (number) => bytes(number * 1000),
    of: (whole) => `of ${bytes(whole.kv * 1000)}`,
  },
  {
    key: 'flops',
    label: 'Compute per token',
    show: (number) => scaled(number / 1e6, ['MFLOP', 'GFLOP', 'TFLOP']).join(' '),
    of: (whole) => `of ${scaled(whole.flops / 1e6, ['MFLOP', 'GFLOP', 'TFLOP']).join(' ')}`,
  },
  {key: 'error', label: 'Predicted error', show: percent, of: () => 'mean of all layers'},
];

const ALONE = {
  attention: 'Attention alone counts in the figures and the preview; the MLP is taken as whole.',
  mlp: 'The MLP alone counts in the figures and the preview; attention is taken as whole.',
};

/** Why a fader cannot go all the way: what is protected or forced out on the map. */
function pinWords(site, layer) {
  const [low, high] = limits(site, layer);
  const [kept, cut] = bank.layers[layer].pins[site];
  const said = [];
  if (kept) said.push(`${whole.format(kept)} protected: at least ${whole.format(low)} stay`);
  if (cut) said.push(`${whole.format(cut)} forced out: at most ${whole.format(high)} stay`);
  return said;
}

/** How far one step goes. */
function stepWords(site, layer) {
  const it = bank.layers[layer];
  const step = site === 'mlp' ? bank.align : Math.round(it.dense[0] / it.steps);
  return step > 1 ? [`steps of ${step}`] : [];
}

const isDropped = (layer) => !value.heads[layer] && !value.channels[layer];

/** What brings a dropped layer back. */
const wayBack = (site, layer) =>
  isFixed(site, layer) ? 'forced out on Analyse; clear it there to bring it back' : 'move a fader to bring it back';

/** What a fader says to a screen reader. */
function spoken(site, layer) {
  const words = wordsOf(site);
  const kept = value[words.key][layer];
  if (isDropped(layer)) return `layer ${layer}: dropped whole, ${words.short} included; ${wayBack(site, layer)}`;
  const lock = [value.locked[layer] ? ', locked' : '', ...pinWords(site, layer).map((t) => `, ${t}`)].join('');
  return (
    `layer ${layer} ${words.short}: ${whole.format(kept)} of ${whole.format(dense(site, layer))} ` +
    `${words.unit} kept, predicted error ${percent(sums[layer][site])}${lock}`
  );
}
