// The fader bank: these files in the order of SCRIPTS in ui/faders.py. Gradio runs them once, when the bank appears, with `element, trigger, props, watch`.
// Arithmetic mirrors slimllm (budget.layer_cost, planning.forecast); tests compare the two.
// Text from the model never becomes HTML here: every word is set with textContent.

const root = element.querySelector('.faders');
const SITES = ['attention', 'mlp'];
const WORDS = {
  attention: {title: 'Attention heads', short: 'attention', unit: 'heads', one: 'head', key: 'heads'},
  mlp: {title: 'MLP channels', short: 'MLP', unit: 'channels', one: 'channel', key: 'channels'},
};
const COLUMNS = {...WORDS.attention, title: 'Attention value columns', unit: 'value columns', one: 'value column'};
const MAX_COLUMN = 52; // px; wider faders look like bars of a chart, not like something to hold

let text = ''; // the bank as Python sent it, and
let bank = null; // what it says: see ui/faders.py
let value = null; // what the faders show
let nodes = null; // the DOM of the current bank
let sums = []; // per layer: {parameters, groups, attention, mlp, joint}
let dirty = new Set(); // layers to repaint in the next frame
let frame = 0;
let drag = null;
let pointed = null; // {site, layer} under the pointer or focused
let selected = {site: 'mlp', layer: 0}; // the fader that the tools are for: the last one focused
let automatic = null; // the widths that the rules alone would give
let solo = ''; // the one site whose cuts count
let exact = null; // Python's own figures, until something moves
let tapped = null; // the last press, for a double one
let finger = null; // a finger put on a fader: {id, x, y}; a tap if it is lifted there, else the page scrolls
let changed = false; // something moved since the last release, and
let fresh = new Set(); // what: 'attention 3', 'mlp 3' or 'lock 3'
let turn = 0; // the number of the last release: rises over all pages of this browser
let sent = []; // releases that Python has not answered yet: {turn, touched}
