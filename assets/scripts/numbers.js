// Svelte (Gradio 6.31) writes a number box's value into it once more after each key, one task late. While "0."
// stands there, writing its value 0 takes the point away, and "0.5" typed fast on a busy page becomes 5. So
// a number is not written into a box that has the focus if the same number stands there.
const held = /** @type {PropertyDescriptor} */ (Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value'));

document.addEventListener('focusin', (event) => {
  const box = /** @type {HTMLInputElement} */ (event.target);
  if (!box.matches?.('input[type="number"]') || Object.hasOwn(box, 'value')) return;
  Object.defineProperty(box, 'value', {
    configurable: true,
    get: () => held.get?.call(box),
    set: (value) => {
      const stands = held.get?.call(box);
      const given = String(value ?? '');
      const same = given === stands || (given !== '' && stands !== '' && Number(given) === Number(stands));
      if (!same || document.activeElement !== box) held.set?.call(box, value);
    },
  });
});
