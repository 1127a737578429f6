// Tells what the faders' arithmetic makes of cases that come, as JSON, on the standard input.
import {readFileSync} from 'node:fs';
import {forecast, layerSums, snap, stepped} from '../../assets/faders/arithmetic.js';

const cases = JSON.parse(readFileSync(0, 'utf8'));
const told = cases.map(({bank, plans, between, wishes, steps}) => ({
  plans: plans.map(({heads, channels}) => {
    const layers = bank.layers.map((_, layer) => layerSums(bank, layer, heads[layer], channels[layer]));
    return {layers, whole: forecast(bank, layers)};
  }),
  between: between.map(([layer, channels]) => layerSums(bank, layer, bank.layers[layer].heads[0], channels).mlp),
  wishes: wishes.map(([site, layer, wanted]) => snap(bank, site, layer, wanted)),
  steps: steps.map(([site, layer, now, by]) => stepped(bank, site, layer, now, by)),
}));
process.stdout.write(JSON.stringify(told));
