// Tells about the token of a passage that the pointer or the keys are on. The words come ready from Python.
/** @type {() => NodeListOf<HTMLElement>} */
const tokens = () => element.querySelectorAll('.tk[data-i]');
/** @type {() => NodeListOf<HTMLElement>} */
const selected = () => element.querySelectorAll('.tk[aria-selected="true"]');

/** Shows what each model made of this token, and makes it the one that Tab comes back to. */
function tell(token) {
  const box = /** @type {HTMLElement} */ (element.querySelector('.tk-box'));
  const says = JSON.parse(box.dataset.says ?? '');
  const fields = says[Number(token.dataset.i)];
  element.querySelectorAll('.tk-detail [data-field]').forEach((cell, k) => { cell.textContent = fields[k]; });
  for (const other of selected()) {
    other.setAttribute('aria-selected', 'false');
    other.tabIndex = -1;
  }
  token.setAttribute('aria-selected', 'true');
  token.tabIndex = 0;
}

const token = (event) => event.target.closest?.('.tk[data-i]');
element.addEventListener('pointerover', (event) => { if (token(event)) tell(token(event)); });
element.addEventListener('focusin', (event) => { if (token(event)) tell(token(event)); });
element.addEventListener('click', (event) => token(event)?.focus());
element.addEventListener('keydown', (event) => {
  const all = [...tokens()];
  const place = all.indexOf(token(event));
  const to = {ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: all.length - 1}[event.key];
  if (place < 0 || to === undefined || !all[to]) return;
  event.preventDefault();
  all[to].focus();
});
