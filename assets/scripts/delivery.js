// Every event of this page reaches the server once, and its answer reaches the page, however bad the connection is.
//
// Gradio posts each event as a request of its own. Here they go one at a time, in the order in which they were made, and carry a number. One that
// gets no answer is sent again under the same number: the server (ui/server/delivery.py) then does nothing twice, and tells the answer that it has. So no
// answer overtakes another, and whoever is asked something knows that every answer before it has arrived.
(() => {
  const ask = window.fetch.bind(window);
  const OURS = /\/gradio_api\/run\/[^/]+\/?$/;
  const PATIENCE = 15000; // ms without an answer after which a request is sent again
  const PAUSES = [100, 200, 400, 800, 1600, 3200, 6400]; // ms between two tries; after the last one Gradio says that the connection is lost
  const page = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
  let number = 0;
  /** @type {Promise<unknown>} */
  let before = Promise.resolve(); // settles when the request before has its answer

  const pause = (ms) => new Promise((done) => setTimeout(done, ms));

  /** The whole answer of the server itself; an error where there is none, or where another program answers in its place. */
  async function once(url, options) {
    const given = new AbortController();
    const timer = setTimeout(() => given.abort(), PATIENCE);
    try {
      const answer = await ask(url, {...options, signal: given.signal});
      const body = await answer.arrayBuffer();
      const ours = answer.headers.has('x-slimllm-answer');
      if (!ours && (answer.ok || answer.status >= 500)) throw new TypeError(`Answered with ${answer.status}`);
      // Chromium takes an answer that broke off within its head, or right behind it, for a whole one.
      const said = answer.headers.get('content-length');
      const packed = answer.headers.has('content-encoding');
      if (said !== null && !packed && body.byteLength !== Number(said)) throw new TypeError('The answer broke off');
      return new Response(body, {status: answer.status, headers: answer.headers});
    } finally {
      clearTimeout(timer);
    }
  }

  async function deliver(url, options) {
    number += 1;
    const headers = new Headers(options.headers);
    headers.set('x-slimllm-event', `${page} ${number}`);
    const marked = {...options, headers};
    for (const ms of PAUSES) {
      try {
        return await once(url, marked);
      } catch {
        await pause(ms);
      }
    }
    return once(url, marked);
  }

  window.fetch = (url, options) => {
    if (options?.method !== 'POST' || !OURS.test(new URL(String(url), location.href).pathname)) return ask(url, options);
    const answer = before.then(() => deliver(url, options));
    before = answer.catch(() => {});
    return answer;
  };
})();
