// What a map of the report says under the pointer. Without this script the report is complete but silent.
/** @type {NodeListOf<HTMLElement>} */
const maps = document.querySelectorAll('[data-map]');
const tip = /** @type {HTMLElement} */ (document.getElementById('tip'));
for (const map of maps) {
  const {rows, cells, units, what, than, shades, kept} = JSON.parse(map.dataset.map ?? '');
  const [shade, stays] = [shades, kept].map((text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
  const image = /** @type {SVGElement} */ (map.querySelector('image'));
  const share = (part) => `${Math.round(100 * part)} %`;

  const words = (row, cell) => {
    const [first, last] = [cell, cell + 1].map((i) => Math.round((i * units) / cells));
    const [value, left] = [shade[row * cells + cell], stays[row * cells + cell] / 200];
    const name = last - first > 1 ? `${what}s ${first.toLocaleString()} to ${(last - 1).toLocaleString()}` : `${what} ${first.toLocaleString()}`;
    const worth = than === 'best' ? `${share(value / 200)} of the layer’s best` : `${(2 ** ((3 * value) / 200 - 1)).toFixed(1)} times the layer’s median`;
    const fate = left === 1 ? 'kept' : left === 0 ? 'removed' : `${share(left)} kept`;
    return `Layer ${row}, ${name}: ${worth}; ${fate}`;
  };

  map.addEventListener('pointermove', (event) => {
    const box = image.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    tip.hidden = x < 0 || x >= 1 || y < 0 || y >= 1;
    if (tip.hidden) return;
    tip.textContent = words(Math.floor(y * rows), Math.floor(x * cells));
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  });
  map.addEventListener('pointerleave', () => {
    tip.hidden = true;
  });
}
