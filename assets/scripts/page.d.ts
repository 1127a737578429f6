// What the scripts find on the page. Only the type check reads this file.

interface Window {
  gradio_config?: {root?: string};
  Plotly: any; // plotly.js
  slimGlossary: {name: string; forms: string[]; words: string}[]; // these two by ui/look/theme.py
  slimSwaps?: Record<string, string>;
  slimPick: {attach: Function}; // plotpick.js
  slimPlot: {mount: Function}; // plotview.js
  slimSave: {buttons: Function; csv: Function}; // plotsave.js
}

// What Gradio gives to scripts that it runs when a component appears.
declare const element: HTMLElement;
declare const props: {value: any};
declare function trigger(event: string, data: unknown): void;
declare function watch(names: string | string[], callback: () => void): void;
