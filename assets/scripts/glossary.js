// Marks the first use of each word of the field in every panel, and explains it to the pointer, the keyboard and
// screen readers. The words come as window.slimGlossary; what they mean stands in ui/look/glossary.py.
(() => {
  const TEXTS = '.html-container';
  const RATHER_LATER = '[data-testid="block-info"], .fd-label, .plotview';
  // where words are the model's own, or change while they are read, or belong to something to be pressed
  const LEAVE = 'a, button, input, textarea, select, code, kbd, svg, script, style, [contenteditable], '
    + '[role="listbox"], [role="status"], [aria-live], .term, .prompt, .answers, #tour';
  const DRAWN = '.plotview, .faders'; // panels whose own scripts write in them, many times a second
  const QUIET = 300; // milliseconds without a change before labels and pictures are read again

  const entries = new Map(); // form in lower case: {key, name, words}
  for (const [i, {name, forms, words}] of window.slimGlossary.entries()) {
    for (const form of forms) entries.set(form.toLowerCase(), {key: `term-${i}`, name, words});
  }
  const escaped = [...entries.keys()].sort((a, b) => b.length - a.length).map((f) => f.replace(/[^\w\s-]/g, '\\$&'));
  const FORMS = new RegExp(`(?<![\\w-])(?:${escaped.join('|')})(?![\\w-])`, 'gi');

  /** The words of the field in a text, each once, in order: [{entry, start, end}]. */
  function found(text, known = new Set()) {
    const list = [];
    for (const match of text.matchAll(FORMS)) {
      const entry = entries.get(match[0].toLowerCase());
      if (known.has(entry.key)) continue;
      known.add(entry.key);
      list.push({entry, start: match.index, end: match.index + match[0].length});
    }
    return list;
  }

  /** A word that can be walked onto: a term with its definition, flowing with the text around it. */
  function term(list, label) {
    const mark = document.createElement('dfn');
    mark.className = 'term';
    mark.textContent = label;
    mark.tabIndex = 0;
    describe(mark, list);
    return mark;
  }

  /** Ties an element to its explanations, for the tip as for screen readers. */
  function describe(element, list) {
    const keys = list.map((entry) => entry.key).join(' ');
    if (element.dataset.terms === keys) return;
    element.dataset.terms = keys;
    element.setAttribute('aria-describedby', keys);
  }

  // Panels of our own HTML: the word itself becomes the mark. -----------------------------------------------------

  function markText(panel) {
    const known = new Set([...panel.querySelectorAll('.term')].flatMap((t) => t.dataset.terms.split(' ')));
    const walker = document.createTreeWalker(panel, NodeFilter.SHOW_TEXT);
    const nodes = [];
    while (walker.nextNode()) {
      const node = /** @type {Text} */ (walker.currentNode);
      if (!node.parentElement?.closest(LEAVE)) nodes.push(node);
    }
    for (const node of nodes) {
      for (const {entry, start, end} of found(node.data, known).reverse()) {
        const rest = node.splitText(start);
        rest.splitText(end - start);
        rest.replaceWith(term([entry], rest.data));
      }
    }
  }

  // Labels belong to Gradio, which writes into them: they are marked as a whole, and no node is added. -------------

  function markLabel(label) {
    const list = found(label.textContent).map(({entry}) => entry);
    const control = label.dataset.testid && label.closest('.block')?.querySelector('input, textarea, [role="listbox"]');
    label.classList.toggle('term', list.length > 0);
    if (!list.length) return;
    if (label.tabIndex) label.tabIndex = 0;
    describe(label, list);
    if (control?.getAttribute('aria-describedby') !== label.dataset.terms) {
      control?.setAttribute('aria-describedby', label.dataset.terms);
    }
  }

  // Pictures cannot hold marks in their words, so they get one question mark for all of them. ----------------------

  function markPlot(box) {
    const svg = box.querySelector('.main-svg') ? [...box.querySelectorAll('svg text')].map((t) => t.textContent) : [];
    const list = found([box.querySelector('.pv-plot')?.getAttribute('aria-label'), ...svg].join(' · ')).map((f) => f.entry);
    const old = box.querySelector(':scope > .term');
    if (!list.length || !svg.length) return old?.remove();
    if (old) return describe(old, list);
    const mark = document.createElement('button');
    mark.type = 'button';
    mark.className = 'term term-all';
    mark.textContent = '?';
    describe(mark, list);
    mark.setAttribute('aria-label', 'Words in this picture');
    box.append(mark);
  }

  function markRest() {
    /** @type {NodeListOf<HTMLElement>} */
    const boxes = document.querySelectorAll(RATHER_LATER);
    for (const box of boxes) {
      if (box.offsetParent) (box.matches('.plotview') ? markPlot : markLabel)(box);
    }
  }

  /** Words are marked before they are painted: a line that came later would make the text jump. */
  function markNow(changes) {
    const panels = new Set(changes.map(({target}) => (target.closest ? target : target.parentElement)?.closest(TEXTS)));
    for (const panel of panels) if (panel && !panel.querySelector(DRAWN)) markText(panel);
  }

  // The tip ---------------------------------------------------------------------------------------------------

  const tip = document.createElement('div');
  tip.id = 'glossary';
  tip.setAttribute('role', 'tooltip');
  tip.hidden = true;
  let shown = null;

  /** Shows the tip of a word; one that the keys brought lets the pointer through to what it covers. */
  function show(target, byKey) {
    shown = target;
    tip.style.pointerEvents = byKey ? 'none' : '';
    const keys = new Set(target.dataset.terms.split(' '));
    const list = [...new Map([...entries.values()].map((e) => [e.key, e])).values()].filter((e) => keys.has(e.key));
    tip.replaceChildren(...list.map(({name, words}) => {
      const line = document.createElement('p');
      const strong = document.createElement('b');
      strong.textContent = name;
      line.append(strong, ` ${words}`);
      return line;
    }));
    tip.hidden = false;
    const at = target.getBoundingClientRect();
    const left = Math.min(at.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const below = at.bottom + 8 + tip.offsetHeight < innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below ? at.bottom + 4 : Math.max(8, at.top - tip.offsetHeight - 4)}px`;
  }

  function hide() {
    tip.hidden = true;
    shown = null;
  }

  const termOf = (event) => event.target.closest?.('.term[data-terms]');

  /** Leaving the word for its tip keeps the tip, so that long ones can be read. */
  function left(event) {
    if (!shown || tip.contains(event.relatedTarget) || shown.contains(event.relatedTarget)) return;
    if (document.activeElement !== shown) hide();
  }

  function start() {
    const hidden = document.createElement('div');
    hidden.hidden = true;
    for (const {key, name, words} of new Set(entries.values())) {
      if (hidden.querySelector(`#${key}`)) continue;
      const line = document.createElement('span');
      line.id = key;
      line.textContent = `${name}: ${words}`;
      hidden.append(line);
    }
    document.body.append(hidden, tip);
    for (const kind of ['mouseover', 'focusin', 'click']) {
      document.addEventListener(kind, (event) => termOf(event) && show(termOf(event), kind === 'focusin'));
    }
    // A word in a label explains itself: the cursor does not go on to the box, for that would close the explanation.
    document.addEventListener('click', (event) => termOf(event)?.closest('label') && event.preventDefault());
    document.addEventListener('mouseout', left);
    document.addEventListener('focusout', (event) => termOf(event) && hide());
    document.addEventListener('scroll', () => shown && hide(), true);
    document.addEventListener('keydown', (event) => event.key === 'Escape' && hide());
    let waiting = 0;
    const later = () => {
      clearTimeout(waiting);
      waiting = setTimeout(markRest, QUIET);
    };
    const observer = new MutationObserver((changes) => {
      markNow(changes);
      observer.takeRecords(); // our own marks
      if (changes.some(({target}) => !tip.contains(target))) later();
    });
    observer.observe(document.body, {childList: true, subtree: true, characterData: true});
    for (const panel of document.querySelectorAll(TEXTS)) markNow([{target: panel}]);
    later();
  }

  if (document.body) start();
  else document.addEventListener('DOMContentLoaded', start);
})();
