// What a person can operate on the page as it stands, and what a person sees of it. Used by tests/walking.py; all is
// read from the live page, so that a new control is found by itself.
(() => {
  const CONTROLS = 'button, a[href], input, textarea, select, summary, [role="button"], [role="tab"], [role="slider"], '
    + '[role="combobox"], [role="radio"], [role="checkbox"], [role="switch"], [role="menuitem"], [contenteditable=""], '
    + '[contenteditable="true"], [tabindex]';
  const INSIDE = '[role="listbox"], [role="option"]'; // the list of a combobox: operated with its box
  const OWN = /^(html-|component-|modebar-|range_id|c\d+-|term-|$)/; // ids that are new at every start
  const LIFTED = '#glossary, .toast-wrap, .hoverlayer, .pv-voice'; // what opens above the page

  const id = (element) => (OWN.test(element.id) ? '' : element.id);

  /** The ids around an element that stay, the nearest first. */
  function homes(element) {
    const list = [];
    for (let at = element; at; at = at.parentElement) if (id(at)) list.push(id(at));
    return [...list, 'page'];
  }

  function kind(element) {
    const role = element.getAttribute('role');
    const type = element.matches('input') ? element.type : '';
    if (element.matches('.term')) return 'word';
    if (element.matches('.pv-plot')) return 'plot';
    if (element.matches('.tk')) return 'token';
    if (['checkbox', 'radio', 'range', 'number', 'file'].includes(type)) return type;
    if (['tab', 'slider', 'combobox'].includes(role)) return role;
    if (element.matches('select')) return 'select';
    if (element.matches('input, textarea')) return 'text';
    if (element.matches('.label-wrap, summary')) return 'fold';
    if (element.matches('.modebar-btn')) return 'modebar';
    if (element.matches('button, [role="button"], a[href]')) return 'button';
    return element.matches(CONTROLS) ? 'focusable' : 'row';
  }

  /** What tells an element from its neighbours of the same kind, as long as it lives. */
  function detail(element) {
    const {site, layer, tool, run, row, i} = element.dataset;
    const data = [site, layer, tool, run, row, i].filter((part) => part !== undefined).join(' ');
    const label = element.closest('label')?.textContent ?? '';
    if (element.matches('.icon-button')) return '';
    if (element.matches('input[data-testid]')) return element.dataset.testid;
    if (data || id(element)) return [element.dataset.do, data].filter(Boolean).join(' ');
    if (element.matches('.term, [role="tab"], .modebar-btn')) return element.textContent.trim() || element.dataset.title || '';
    if (element.matches('[type="radio"], [type="checkbox"]')) return label.trim();
    return element.getAttribute('aria-label') ?? element.textContent.trim();
  }

  const named = (element) => `${homes(element)[0]} | ${kind(element)} | ${detail(element)}`;

  const shown = (element) => element.getClientRects().length > 0 && getComputedStyle(element).visibility !== 'hidden';
  const pressable = (element) => getComputedStyle(element).cursor === 'pointer';

  /** Whether something that is no control looks as if it could be pressed. */
  const looks = (element) => pressable(element) && !pressable(element.parentElement) && !element.closest(`${CONTROLS}, ${INSIDE}`)
    && !element.matches('label') && !element.closest('label') && shown(element);

  /** Why an element is not to be seen: the word for what hides it, or the rule-bound ancestor that does. */
  function hidden(element) {
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (at.hidden || at.getAttribute('aria-hidden') === 'true') return 'meant';
      if (at.matches('[type="file"]') || at.style.display === 'none' || at.style.visibility === 'hidden') return 'meant';
      if (style.display === 'none' || style.visibility === 'hidden') {
        return `${at.tagName.toLowerCase()}${id(at) ? `#${id(at)}` : ''}.${[...at.classList].join('.')}`;
      }
    }
    return 'no size';
  }

  const skipped = (element) => (element.matches('svg, [role="listbox"], [aria-hidden="true"]')
    || (element.matches('[role="tabpanel"]') && !shown(element)) ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT);

  /** All controls under `root`, in the order of the page: [key, element]. */
  function found(root) {
    const list = [];
    const counts = new Map();
    if (skipped(root) === NodeFilter.FILTER_REJECT) return list;
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_ELEMENT, skipped);
    for (let element = root; element; element = walker.nextNode()) {
      if (!element.matches(CONTROLS) && !looks(element)) continue;
      const base = named(element);
      const nth = (counts.get(base) ?? 0) + 1;
      counts.set(base, nth);
      list.push([nth > 1 ? `${base} | ${nth}` : base, element]);
    }
    return list;
  }

  const roots = (selector) => [...document.querySelectorAll(selector)];

  /** [{key, kind, home, seen, hidden, disabled, roving}] of what stands under the selector. */
  function find(selector) {
    return roots(selector).flatMap(found).map(([key, element]) => ({
      key,
      kind: kind(element),
      homes: homes(element),
      hidden: shown(element) ? '' : hidden(element),
      disabled: element.matches(':disabled, [aria-disabled="true"]'),
      tabs: element.tabIndex >= 0,
      on: element.matches('[aria-selected="true"], .modebar-btn.active, :checked')
        || (!element.matches('[aria-pressed]') && Boolean(element.closest('[aria-current]'))),
      toggles: element.matches('[aria-pressed]'),
      itself: id(element),
      group: element.type === 'radio' ? element.name : '',
    }));
  }

  const known = new Map(); // key: element, of the last look

  function get(selector, key) {
    const old = known.get(key);
    if (old?.isConnected && key.startsWith(named(old))) return old; // a row may have become another run's
    known.clear();
    for (const [name, element] of roots(selector).flatMap(found)) known.set(name, element);
    return known.get(key);
  }

  async function frames(count) {
    for (let i = 0; i < count; i += 1) await new Promise(requestAnimationFrame);
  }

  const box = (element) => {
    const {left, top, width, height} = element.getBoundingClientRect();
    return {left, top, width, height, x: left + width / 2, y: top + height / 2};
  };

  const middle = (rect) => (rect ? {x: rect.left + rect.width / 2, y: rect.top + rect.height / 2} : {});

  /** Where a picture has something to point at: the middle of a map, or some of its marks, or of the ends of its lines. */
  function spots(plot) {
    if (plot.querySelector('.heatmaplayer image')) return [middle(plot.querySelector('.nsewdrag').getBoundingClientRect())];
    const some = (list) => [...new Set([0, 0.25, 0.5, 0.75, 1].map((part) => list[Math.round(part * (list.length - 1))]))];
    const marks = [...plot.querySelectorAll('.cartesianlayer path.point, .cartesianlayer .point path')];
    if (marks.length) return some(marks).map((mark) => middle(mark.getBoundingClientRect()));
    const line = plot.querySelector('.cartesianlayer .js-line');
    const ends = [...(line?.getAttribute('d') ?? '').matchAll(/[ML]([\d.-]+),([\d.-]+)/g)];
    return some(ends).filter(Boolean).map(([, x, y]) => {
      const at = new DOMPoint(Number(x), Number(y)).matrixTransform(line.getScreenCTM());
      return {x: at.x, y: at.y};
    });
  }

  /** The part of a box that the boxes around its element leave to be seen. */
  function unclipped(element, {left, top, width, height}) {
    let [right, bottom] = [Math.min(left + width, innerWidth), Math.min(top + height, innerHeight)];
    [left, top] = [Math.max(left, 0), Math.max(top, 0)];
    for (let at = element.parentElement; at; at = at.parentElement) {
      if (getComputedStyle(at).overflowX === 'visible' || at === document.body) continue;
      const around = at.getBoundingClientRect();
      [left, right] = [Math.max(left, around.left), Math.min(right, around.right)];
      [top, bottom] = [Math.max(top, around.top), Math.min(bottom, around.bottom)];
    }
    return {left, top, width: right - left, height: bottom - top};
  }

  /** Brings a control into the middle of the window; its box then, and the middle of what can be seen of it. */
  async function bring(selector, key) {
    const element = get(selector, key);
    if (!element) return null;
    const {top, left, width} = element.getBoundingClientRect();
    // A table that scrolls may hold its first column in place, over what scrolls to its edge.
    element.scrollIntoView({block: 'center', inline: width < innerWidth ? 'center' : 'nearest', behavior: 'instant'});
    const now = element.getBoundingClientRect();
    if (now.top !== top || now.left !== left) await frames(2); // what listens to scrolling has heard of it
    const found = {...box(element), ...middle(unclipped(element, box(element)))};
    if (element.matches('.pv-plot')) {
      const list = spots(element);
      Object.assign(found, list[0], {spots: list});
    }
    if (element.matches('.term')) Object.assign(found, middle(element.getClientRects()[0])); // it may run over two lines
    return found;
  }

  /** What lies over the middle of a control; empty where it lies free and can be seen. */
  function cover(selector, key, x, y) {
    const element = get(selector, key);
    if (!element) return 'it is gone';
    if (x < 0 || y < 0 || x > innerWidth || y > innerHeight) return 'it is outside of the window';
    const hit = document.elementFromPoint(x, y);
    if (!hit) return 'nothing';
    const mine = element.contains(hit) || hit.closest('label')?.contains(element) || element.closest('label')?.contains(hit);
    if (!mine) return `${hit.tagName.toLowerCase()}${hit.id ? `#${hit.id}` : ''}.${[...hit.classList].join('.')}`;
    let seen = 1;
    for (let at = element; at; at = at.parentElement) seen *= Number(getComputedStyle(at).opacity);
    return seen < 0.25 && !element.matches('[type="range"]') ? `it is as good as transparent (${seen})` : '';
  }

  /** The value that a person reads off a control. */
  function value(selector, key) {
    const element = get(selector, key);
    if (!element) return null;
    if (element.matches('[type="checkbox"], [type="radio"]')) return element.checked;
    if (element.matches('input, textarea, select')) return element.value;
    return element.getAttribute('aria-valuenow') ?? element.getAttribute('aria-selected');
  }

  /** [lowest, highest, step] of a box or slider that holds a number. */
  function bounds(selector, key) {
    const {min, max, step} = get(selector, key);
    return [min === '' ? -1e9 : Number(min), max === '' ? 1e9 : Number(max), Number(step) || 1];
  }

  /** Whether the keys reach something inside of what only the pointer can press. */
  const inner = (selector, key) => Boolean(get(selector, key).querySelector('button, a[href], [tabindex="0"]'));

  /** What a finger takes a fader by. */
  const handle = (selector, key) => box(get(selector, key).querySelector('.fd-handle') ?? get(selector, key));

  /** How many boxes of a group are ticked; none for a box that stands alone. */
  function ticked(selector, key) {
    const group = [...(get(selector, key).closest('fieldset')?.querySelectorAll('[type="checkbox"]') ?? [])];
    return group.length > 1 ? group.filter((one) => one.checked).length : null;
  }

  /** What a choice is called for the server. */
  const text = (selector, key) => get(selector, key).value;

  /** The key that leads to another entry of a native list; none where there is nothing else to choose. */
  function options(selector, key) {
    const select = get(selector, key);
    const free = [...select.options].map((option, i) => (option.disabled ? -1 : i)).filter((i) => i >= 0);
    if (free.some((i) => i > select.selectedIndex)) return 'ArrowDown';
    return free.some((i) => i < select.selectedIndex) ? 'ArrowUp' : '';
  }

  const focus = (selector, key) => get(selector, key)?.focus({focusVisible: true});

  /** All that can be seen of the page, as text: words, values, states, what is open, what is marked. */
  function look() {
    const parts = [document.documentElement.className, document.body.innerText];
    for (const element of document.querySelectorAll('input, textarea, select')) {
      parts.push(element.matches('[type="checkbox"], [type="radio"]') ? element.checked : element.value, element.disabled);
    }
    for (const element of document.querySelectorAll('button, [role="slider"], [role="option"], tr[aria-current], .tk')) {
      const of = ['aria-selected', 'aria-pressed', 'aria-expanded', 'aria-valuenow', 'aria-current', 'aria-disabled'];
      parts.push(element.disabled, element.matches('.modebar-btn') && element.className, ...of.map((name) => element.getAttribute(name)));
    }
    for (const element of document.querySelectorAll(LIFTED)) parts.push(element.hidden ? '' : element.textContent);
    for (const element of document.querySelectorAll('.pv-cursor, .select-outline')) parts.push(element.hidden, element.getAttribute('style'));
    for (const element of document.querySelectorAll('svg text, .xtick, .heatmaplayer image')) parts.push(element.textContent, element.getAttribute('transform'));
    for (const element of document.querySelectorAll('.icon-button, .label-wrap')) parts.push(element.innerHTML);
    return parts.join('\u0001');
  }

  /** Whether the one that has the focus shows it. */
  function ring() {
    const element = document.activeElement;
    const style = getComputedStyle(element);
    const inner = element.firstElementChild && getComputedStyle(element.firstElementChild);
    const marked = (s) => s && ((s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0) || s.boxShadow !== 'none');
    return Boolean(marked(style) || marked(inner) || marked(getComputedStyle(element.parentElement)));
  }

  /** The key of the one that has the focus, if it stands under the selector. */
  function focused(selector) {
    return roots(selector).flatMap(found).find(([, element]) => element === document.activeElement)?.[0] ?? '';
  }

  const opened = (selector, key) => document.getElementById(get(selector, key)?.getAttribute('aria-controls'));

  /** The entries of the list that a box has opened: their words and boxes. */
  function entries(selector, key) {
    const list = opened(selector, key);
    if (!list) return [];
    const frame = list.getBoundingClientRect();
    return [...list.querySelectorAll('[role="option"]')].map((option) => ({
      label: option.getAttribute('aria-label') ?? option.textContent.trim(),
      index: option.dataset.index,
      chosen: option.getAttribute('aria-selected') === 'true',
      ...box(option),
      inside: frame.left >= 0 && frame.top >= 0 && frame.right <= innerWidth + 1 && frame.bottom <= innerHeight + 1,
    }));
  }

  /** Scrolls the open list to an entry; its box, and what lies over it. */
  function entry(selector, key, index) {
    const option = opened(selector, key)?.querySelector(`[data-index="${index}"]`);
    if (!option) return null;
    option.scrollIntoView({block: 'nearest', behavior: 'instant'});
    const at = box(option);
    const hit = document.elementFromPoint(at.x, at.y);
    return {...at, free: option.contains(hit)};
  }

  // Questions to the server that are not answered yet.
  let asking = 0;
  const ask = window.fetch;
  window.fetch = async (...given) => {
    if (!/\/(run\/|queue\/join$)/.test(new URL(given[0]?.url ?? given[0], location.href).pathname)) return ask(...given);
    asking += 1;
    try {
      return await ask(...given);
    } finally {
      asking -= 1;
    }
  };

  const asked = () => asking;

  let before = '';
  let drawn = 0;
  new MutationObserver(() => { drawn += 1; }).observe(document, {subtree: true, childList: true, attributes: true, characterData: true});

  /** A number that changes with whatever is drawn or entered. */
  const moves = () => [drawn, document.activeElement?.value, document.activeElement?.checked].join();

  const walk = {
    find, bring, cover, value, ring, focused, entries, entry, look, bounds, text, ticked, frames, asked, inner, handle, options, focus,
    get: (selector, key) => get(selector, key) && true,
    /** Remembers the page as it is seen. */
    remember() { before = look(); },
    /** Settles as soon as the page looks another way than remembered: true; false after `patience` ms. */
    changed: (patience) => new Promise((done) => {
      const end = performance.now() + patience;
      let last = -1;
      let looks = 0;
      const again = () => {
        const now = moves();
        if ((now !== last || (looks += 1) % 8 === 0) && look() !== before) done(true);
        else if (performance.now() > end) done(false);
        else setTimeout(again, 15);
        last = now;
      };
      again();
    }),
    /** Settles once nothing was drawn for `quiet` ms, and nothing is on its way to the server or back. */
    still: (quiet, patience) => new Promise((done) => {
      const end = performance.now() + patience;
      let last = moves();
      let since = performance.now();
      const again = () => {
        const now = moves();
        if (now !== last || asking) [last, since] = [now, performance.now()];
        if (performance.now() - since > quiet || performance.now() > end) done(!asking);
        else setTimeout(again, 10);
      };
      requestAnimationFrame(again);
    }),
  };
  window.walk = walk;
})();
