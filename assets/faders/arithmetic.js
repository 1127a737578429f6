// Sizes and errors, as slimllm counts them.

/** What a site's units are called; attention may lose value columns instead of heads. */
function wordsOf(site) {
  return site === 'attention' && bank.unit === 'value-column' ? COLUMNS : WORDS[site];
}

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

/** The smallest feasible head count and the largest, or the same for channels. */
function limits(site, layer) {
  const it = bank.layers[layer];
  return site === 'attention' ? [it.heads[0], it.heads[it.heads.length - 1]] : [it.low, it.high];
}

/** Whether pins, or the layer's own size, leave a fader no other width. */
function isFixed(site, layer) {
  const [low, high] = limits(site, layer);
  return low === high && value[WORDS[site].key][layer] === low;
}

/** Whether a hand may not move a fader at present. */
const isShut = (site, layer) => value.locked[layer] || (solo !== '' && solo !== site) || isFixed(site, layer);

function dense(site, layer) {
  return bank.layers[layer].dense[site === 'attention' ? 0 : 1];
}

/** The feasible count nearest to `wanted`. */
function snap(site, layer, wanted) {
  const it = bank.layers[layer];
  if (site === 'attention') {
    return it.heads.reduce((best, h) => (Math.abs(h - wanted) <= Math.abs(best - wanted) ? h : best));
  }
  if (wanted >= it.high) return it.high;
  const down = clamp(Math.floor(wanted / bank.align) * bank.align, it.low, it.high);
  const up = clamp(down + bank.align, it.low, it.high);
  return wanted - down < up - wanted ? down : up;
}

/** The feasible count `steps` above (or below) the current one. */
function stepped(site, layer, steps) {
  const it = bank.layers[layer];
  const now = value[WORDS[site].key][layer];
  if (isDropped(layer) && steps < 0) return 0;
  if (site === 'attention') {
    return it.heads[clamp(it.heads.indexOf(now) + steps, 0, it.heads.length - 1)];
  }
  const base = steps > 0 ? Math.floor(now / bank.align) : Math.ceil(now / bank.align);
  return clamp((base + steps) * bank.align, it.low, it.high);
}

/** The place of an attention width among its steps. */
const stepOf = (it, heads) => Math.floor((heads * it.steps) / it.dense[0]);

function layerParameters(layer, heads, channels) {
  if (!heads && !channels) return 0;
  const it = bank.layers[layer];
  const [base, stepCost, channelCost] = it.cost;
  let total = base + stepOf(it, heads) * stepCost + channels * channelCost;
  if (heads < it.dense[0]) total += it.bias[0];
  if (channels < it.dense[1]) total += it.bias[1];
  return total;
}

function groupsKept(it, heads) {
  if (!heads) return 0;
  return bank.unit === 'kv-group' ? stepOf(it, heads) : it.groups;
}

function attentionError(layer, heads) {
  const it = bank.layers[layer];
  return heads ? it.attention[it.heads.indexOf(heads)] ?? 0 : it.dropped[0];
}

/** Between the sampled widths on a straight line. */
function mlpError(layer, channels) {
  const it = bank.layers[layer];
  if (!channels) return it.dropped[1];
  const grid = bank.grids[it.grid];
  let low = 0;
  let high = grid.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (grid[middle] <= channels) low = middle;
    else high = middle;
  }
  if (channels >= grid[high]) return it.mlp[high];
  const share = (channels - grid[low]) / (grid[high] - grid[low]);
  return (1 - share) * it.mlp[low] + share * it.mlp[high];
}

function layerSums(layer, heads, channels) {
  const it = bank.layers[layer];
  const attention = attentionError(layer, heads);
  const mlp = mlpError(layer, channels);
  const energy = it.energy[0] + it.energy[1];
  return {
    parameters: layerParameters(layer, heads, channels),
    groups: groupsKept(it, heads),
    attention,
    mlp,
    joint: energy > 0 ? (it.energy[0] * attention + it.energy[1] * mlp) / energy : 0,
  };
}

/** A layer's sums as the faders stand; while one site is heard alone the other counts as whole. */
function sumsOf(layer) {
  const it = bank.layers[layer];
  const heads = value.heads[layer];
  const channels = value.channels[layer];
  if (!solo || isDropped(layer)) return layerSums(layer, heads, channels);
  return solo === 'attention' ? layerSums(layer, heads, it.dense[1]) : layerSums(layer, it.dense[0], channels);
}

/** The whole model's numbers, as planning.forecast gives them. */
function forecast(layers) {
  const sum = (pick) => layers.reduce((total, layer) => total + pick(layer), 0);
  const decoder = sum((layer) => layer.parameters);
  const parameters = bank.outside + decoder;
  const whole = bank.count === 'all' ? bank.outside + bank.decoder : bank.decoder;
  return {
    parameters,
    ratio: (bank.decoder - decoder) / whole,
    bytes: parameters * bank.bytes,
    kv: 2 * sum((layer) => layer.groups) * bank.head_size * bank.bytes,
    flops: 2 * (decoder + bank.hidden * bank.vocab),
    error: sum((layer) => layer.joint) / layers.length,
  };
}
