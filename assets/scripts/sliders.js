// Gradio (6.31) tells that a slider was let go only for the pointer; a key that has moved one lets it go, too.
document.addEventListener('keyup', (event) => {
  const target = /** @type {Element} */ (event.target);
  if (target.matches?.('input[type="range"]') && /^(Arrow|Page|Home|End)/.test(event.key)) {
    target.dispatchEvent(new PointerEvent('pointerup', {bubbles: true}));
  }
});
