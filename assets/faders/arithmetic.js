// Sizes and errors, as slimllm counts them (budget.layer_cost, planning.forecast): a test compares the two. Pure.
/** @import {Bank, Figures, Layer, Site, Sums} from './types' */

/** @param {number} x @param {number} low @param {number} high */
export const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

/** The smallest feasible head count and the largest, or the same for channels.
 * @param {Bank} bank @param {Site} site @param {number} layer */
export function limits(bank, site, layer) {
  const it = bank.layers[layer];
  return site === 'attention' ? [it.heads[0], it.heads[it.heads.length - 1]] : [it.low, it.high];
}

/** The units of the whole layer. @param {Bank} bank @param {Site} site @param {number} layer */
export function dense(bank, site, layer) {
  return bank.layers[layer].dense[site === 'attention' ? 0 : 1];
}

/** The feasible count nearest to `wanted`.
 * @param {Bank} bank @param {Site} site @param {number} layer @param {number} wanted */
export function snap(bank, site, layer, wanted) {
  const it = bank.layers[layer];
  if (site === 'attention') {
    return it.heads.reduce((best, h) => (Math.abs(h - wanted) <= Math.abs(best - wanted) ? h : best));
  }
  if (wanted >= it.high) return it.high;
  const down = clamp(Math.floor(wanted / bank.align) * bank.align, it.low, it.high);
  const up = clamp(down + bank.align, it.low, it.high);
  return wanted - down < up - wanted ? down : up;
}

/** The feasible count so many `steps` above `now`, or below.
 * @param {Bank} bank @param {Site} site @param {number} layer @param {number} now @param {number} steps */
export function stepped(bank, site, layer, now, steps) {
  const it = bank.layers[layer];
  if (site === 'attention') return it.heads[clamp(it.heads.indexOf(now) + steps, 0, it.heads.length - 1)];
  const base = steps > 0 ? Math.floor(now / bank.align) : Math.ceil(now / bank.align);
  return clamp((base + steps) * bank.align, it.low, it.high);
}

/** The place of an attention width among its steps. @param {Layer} it @param {number} heads */
const stepOf = (it, heads) => Math.floor((heads * it.steps) / it.dense[0]);

/** @param {Bank} bank @param {number} layer @param {number} heads @param {number} channels */
export function layerParameters(bank, layer, heads, channels) {
  if (!heads && !channels) return 0;
  const it = bank.layers[layer];
  const [base, stepCost, channelCost] = it.cost;
  let total = base + stepOf(it, heads) * stepCost + channels * channelCost;
  if (heads < it.dense[0]) total += it.bias[0];
  if (channels < it.dense[1]) total += it.bias[1];
  return total;
}

/** @param {Bank} bank @param {Layer} it @param {number} heads */
function groupsKept(bank, it, heads) {
  if (!heads) return 0;
  return bank.unit === 'kv-group' ? stepOf(it, heads) : it.groups;
}

/** @param {Layer} it @param {number} heads */
function attentionError(it, heads) {
  return heads ? it.attention[it.heads.indexOf(heads)] ?? 0 : it.dropped[0];
}

/** Between the sampled widths on a straight line.
 * @param {Bank} bank @param {Layer} it @param {number} channels */
function mlpError(bank, it, channels) {
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

/** What a layer adds to the forecast at these widths.
 * @param {Bank} bank @param {number} layer @param {number} heads @param {number} channels */
export function layerSums(bank, layer, heads, channels) {
  const it = bank.layers[layer];
  const attention = attentionError(it, heads);
  const mlp = mlpError(bank, it, channels);
  const energy = it.energy[0] + it.energy[1];
  return {
    parameters: layerParameters(bank, layer, heads, channels),
    groups: groupsKept(bank, it, heads),
    attention,
    mlp,
    joint: energy > 0 ? (it.energy[0] * attention + it.energy[1] * mlp) / energy : 0,
  };
}

/** The whole model's numbers, as planning.forecast gives them.
 * @param {Bank} bank @param {Sums[]} layers @returns {Figures} */
export function forecast(bank, layers) {
  /** @param {(layer: Sums) => number} pick */
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
