// What the modules of the fader bank speak of. Only the type check reads this file.

export type Site = 'attention' | 'mlp';

/** One fader. */
export interface Place {
  site: Site;
  layer: number;
}

/** How many units every layer keeps. */
export interface Widths {
  heads: number[];
  channels: number[];
}

/** What the faders show. */
export interface Value extends Widths {
  locked: boolean[];
}

/** What the figures of a forecast are called. */
export interface Figures {
  parameters: number;
  ratio: number;
  bytes: number;
  kv: number;
  flops: number;
  error: number;
}

/** Python's own figures, with the predicted error of every layer. */
export interface Exact extends Figures {
  errors: number[];
}

/** What Python sends: `value_of` in ui/page/faders.py. */
export interface Told extends Widths {
  locked?: boolean[];
  auto?: Widths;
  exact?: Exact;
  solo?: Site | '';
  turn?: number;
}

/** A layer's feasible widths, what they cost, and the errors predicted for them: `bank_facts` in ui/page/faders.py. */
export interface Layer {
  heads: number[]; // feasible counts
  low: number; // channels
  high: number;
  dense: [number, number]; // heads and channels of the whole layer
  groups: number;
  steps: number; // of attention
  cost: [number, number, number]; // parameters of the rest, of a step of attention, of a channel
  bias: [number, number]; // parameters that a cut adds in attention, in the MLP
  attention: number[]; // error at every feasible count
  mlp: number[]; // error at every width of the grid
  dropped: [number, number]; // errors where nothing stays
  energy: [number, number];
  grid: number; // which of the bank's grids
  weight: number; // 0 for the layer that changes its input least, 1 for the one that changes it most
  cosine: number;
  pins: Record<Site, [number, number]>; // how many units are protected, how many forced out
}

/** What the browser forecasts with: `bank_facts` in ui/page/faders.py. */
export interface Bank {
  layers: Layer[];
  grids: number[][];
  unit: 'query-head' | 'kv-group' | 'value-column';
  align: number;
  count: 'all' | 'decoder';
  outside: number;
  decoder: number;
  bytes: number; // per parameter
  head_size: number;
  hidden: number;
  vocab: number;
}

/** A layer's share of the forecast. */
export interface Sums {
  parameters: number;
  groups: number;
  attention: number;
  mlp: number;
  joint: number;
}

/** What Gradio gives a component of its own HTML. */
export interface Props {
  value: Told | null;
  bank?: string | null;
  caption?: string;
  placeholder?: string;
  forecast_id: string;
}

export type Trigger = (event: string, data: unknown) => void;
export type Watch = (names: string | string[], callback: () => void) => void;

/** Where a pointer is: in which column, and how high. */
export interface Spot {
  layer: number;
  share: number;
}

/** A fader in the hand. */
export interface Drag {
  site: Site;
  box: DOMRect; // of the lane, as it was when the drag began
  layer: number; // where it began
  last: Spot | null;
  moved: boolean;
  again: boolean; // the second press of two
  id: number; // of the pointer
  late: Told | null; // what Python sent meanwhile
  touch: boolean;
  offset: number; // a finger moves the handle from wherever it took it
  before: Widths;
}

/** A press, for a double one. */
export interface Press extends Place {
  time: number;
  x: number;
  y: number;
}

/** What was let go and told to Python: 'attention 3', 'mlp 3' or 'lock 3'. */
export interface Release {
  turn: number;
  touched: Set<string>;
}

/** The row of tools for the selected fader. */
export interface Tools {
  row: HTMLElement;
  name: HTMLElement;
  number: HTMLInputElement;
  of: HTMLElement;
  auto: HTMLButtonElement;
  copy: HTMLButtonElement;
  lock: HTMLButtonElement;
}

/** The elements of the current bank that are written in. */
export interface Nodes {
  faders: Record<Site, HTMLElement[]>;
  lanes: Record<string, HTMLElement>; // by site
  solos: Record<string, HTMLElement>; // by site
  numbers: HTMLElement[]; // of the layers
  locks: HTMLElement[];
  errors: HTMLElement[];
  figures: Record<string, {number: HTMLElement; of: HTMLElement}>;
  forecast: HTMLElement;
  detail: HTMLElement;
  strip: HTMLElement; // scrolls
  inner: HTMLElement; // what is in it
  tools: Tools;
}

/** One fader bank on a page: everything that changes. */
export interface Desk {
  root: HTMLElement;
  props: Props;
  trigger: Trigger;
  text: string; // the bank as Python sent it, empty where there is none; and
  bank: Bank; // what it says
  value: Value; // what the faders show
  nodes: Nodes;
  sums: Sums[]; // of every layer
  dirty: Set<number>; // layers to repaint in the next frame
  frame: number;
  drag: Drag | null;
  pointed: Place | null; // under the pointer or focused
  selected: Place; // what the tools are for: the fader last focused
  automatic: Widths | null; // what the rules alone would give
  solo: Site | ''; // the one site whose cuts count
  exact: Exact | null; // until something moves
  tapped: Press | null; // the last one
  finger: {id: number; x: number; y: number} | null; // put on a fader: a tap if it is lifted there, else the page scrolls
  changed: boolean; // something moved since the last release, and
  fresh: Set<string>; // what
  turn: number; // the number of the last release: rises over all pages of this browser
  sent: Release[]; // releases that Python has not answered yet
  journey: number; // steps of undo still to go: below zero back, above zero forth
  answer: number; // the timer of the step under way
}
