// A page that a proxy serves under an address which the program does not know of would stay blank: it says so.
(() => {
  const root = window.gradio_config?.root;
  if (!root) return;
  const known = new URL(root, location.href);
  if (known.host === location.host) return;
  const here = location.origin + location.pathname.replace(/\/$/, '');
  window.stop();
  const said = document.createElement('p');
  said.id = 'unknown-address';
  said.style.cssText = 'font: 16px/1.6 system-ui, sans-serif; max-width: 42em; margin: 15vh auto; padding: 0 24px';
  said.textContent = `This page is asked for at ${here}, but the program serves it at ${known.href.replace(/\/$/, '')}. `
    + `Open it there; or, if a proxy serves it here, start the program with --public-url ${here}`;
  document.documentElement.replaceChildren(document.createElement('head'), document.createElement('body'));
  document.body.append(said);
})();
