// Presenter mode: large type, no controls, keys to step. The button or Shift+P enters it, Escape leaves it; nothing is sent
// to the server but what the buttons behind it would send.
(() => {
  const STEPS = {ArrowRight: 1, PageDown: 1, ' ': 1, ArrowLeft: -1, PageUp: -1};
  const root = document.documentElement;
  const on = () => root.classList.contains('presenting');

  function turn(to) {
    root.classList.toggle('presenting', to);
    const hint = document.getElementById('present-hint') ?? document.createElement('p');
    hint.id = 'present-hint';
    hint.setAttribute('role', 'status');
    hint.textContent = to ? '← → step · Esc leaves' : '';
    document.body.append(hint);
    window.dispatchEvent(new Event('resize'));
    document.dispatchEvent(new CustomEvent('slim:presenting'));
    scrollTo(0, 0);
  }

  /** One step on or back: through the tour while it is open, else through the tabs. */
  function step(by) {
    const tour = document.getElementById(by > 0 ? 'tour-onward' : 'tour-back');
    if (tour) tour.click(); // hidden, but there
    else {
      /** @type {NodeListOf<HTMLElement>} */
      const found = document.querySelectorAll('#tabs [role="tab"]');
      const tabs = [...found].filter((tab) => tab.offsetParent);
      const at = tabs.findIndex((tab) => tab.getAttribute('aria-selected') === 'true');
      tabs[Math.min(tabs.length - 1, Math.max(0, at + by))]?.click();
    }
    scrollTo(0, 0);
  }

  /** The element that an event happened to; it may also be the document. */
  const targetOf = (event) => /** @type {Element} */ (event.target);

  /** Whether the keys belong to what has the focus. */
  const typing = (event) => event.ctrlKey || event.metaKey || event.altKey
    || targetOf(event).matches?.('input, textarea, select, [contenteditable], [role="slider"], [role="listbox"], .pv-plot');

  document.addEventListener('click', (event) => {
    if (targetOf(event).closest?.('#present-start')) turn(true);
  });
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && on()) turn(false);
    else if (typing(event)) return;
    else if (on() && event.key in STEPS && !(event.key === ' ' && targetOf(event).matches('button'))) {
      event.preventDefault();
      step(STEPS[event.key]);
    } else if (event.shiftKey && event.key.toLowerCase() === 'p') turn(!on());
  });
})();
