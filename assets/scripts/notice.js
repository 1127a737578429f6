// Gradio runs this once, when the notice appears, with `element, trigger, props, watch`.
// The tabs of one browser show one session. Each says to the others how often the session has been acted on; one that has seen less looks again.
const box = /** @type {HTMLElement} */ (element.querySelector('.notice'));
const others = new BroadcastChannel('slimllm');
let known = null; // what this page was told last
let read = -1; // the notice that was put away: by the number of acts at which it was told

function draw() {
  const shown = known.words && known.since !== read ? known.words : '';
  box.hidden = !shown;
  box.dataset.kind = known.kind;
  const words = box.querySelector('p');
  if (words?.textContent === shown) return;
  box.replaceChildren();
  if (!shown) return;
  const line = document.createElement('p');
  line.textContent = shown;
  const close = document.createElement('button');
  close.type = 'button';
  close.textContent = '×';
  close.setAttribute('aria-label', 'Put this notice away');
  close.addEventListener('click', () => {
    read = known.since;
    draw();
  });
  box.append(line, close);
}

function accept() {
  const told = props.value;
  if (!told) return;
  if (told.gone) {
    if (known) location.reload(); // the server was started anew, or has let go of this page
    return;
  }
  known = told;
  draw();
  others.postMessage({session: told.session, acts: told.acts});
}

others.addEventListener('message', ({data}) => {
  if (known && data.session === known.session && data.acts > known.acts) trigger('look', {});
});
document.addEventListener('visibilitychange', () => {
  if (known && document.visibilityState === 'visible') trigger('look', {});
});
window.addEventListener('pageshow', (event) => {
  if (known && event.persisted) trigger('look', {});
});
watch('value', accept);
accept();
