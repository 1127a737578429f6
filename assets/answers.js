// No answer is lost, and none overtakes another. Gradio (6.31) answers all events of a page through one stream.
//
// Its server ends the stream when nothing more is asked for. What is asked just then, the browser takes for asked on
// the old stream, and nobody ever opens a new one: the answer waits for the next press of a button. So the end of a
// stream is kept from Gradio's client as long as it waits for an answer, and the stream goes on with the next one.
//
// A short answer that was made after a long one can be sent before it, and then the page would go back to what was.
// So an answer waits for those with lower numbers (`Screen.refresh` gives them) as long as any may still come.
(() => {
  const ask = window.fetch.bind(window);
  const END = '"msg":"close_stream"';
  const COMPLETED = '"msg":"process_completed"';
  const NUMBER = /"data":\["answer (\d+)"/;
  const LONGEST = 1000; // ms that the client takes to see that a stream has ended
  const PATIENCE = 10000; // ms that an answer waits for one before it while something else is asked for
  const waiting = new Set(); // events that Gradio's client waits for
  const early = new Set(); // events that were answered before the client knew their number
  let asking = 0; // questions that are on their way
  let ending = null; // settles when the client has seen that the last stream has ended
  let last = 0; // the number of the last answer that was passed on

  function asked(event) {
    if (event && !early.delete(event)) waiting.add(event);
  }

  function answered(message) {
    const event = /"event_id":"(\w+)"/.exec(message)?.[1];
    if (event && !waiting.delete(event)) early.add(event);
  }

  /** The messages of a stream as they come: each ends with an empty line. */
  async function* messages(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const whole = (rest + part.value).split('\n\n');
      rest = whole.pop();
      for (const message of whole) yield `${message}\n\n`;
    }
    if (rest) yield rest;
  }

  /** The messages of this stream, and of the ones after it while an answer is missing. */
  async function* patient(answer, again, signal) {
    for (let next = answer; next; ) {
      const now = next;
      next = null;
      for await (const message of messages(now)) {
        if (message.includes(COMPLETED)) answered(message);
        if (message.includes(END) && waiting.size) {
          next = await again();
          break;
        }
        if (message.includes(END)) ending = seen(signal);
        yield message;
      }
    }
  }

  /** The client breaks a stream off as soon as it sees its end. */
  const seen = (signal) => new Promise((done) => {
    signal?.addEventListener('abort', done, {once: true});
    setTimeout(done, LONGEST);
  });

  /** A stream of these messages, in which numbered answers stand in the order in which they were made. */
  function ordered(source) {
    const held = new Map(); // answers that came before an earlier one, by number
    let deadline = null;

    function pass(controller, number, message) {
      if (number) last = number === 1 ? 1 : Math.max(last, number); // a page drawn anew counts anew
      controller.enqueue(message);
    }

    function release(controller, all) {
      const lost = !waiting.size && !asking; // whatever is missing will not come
      const numbers = [...held.keys()].sort((a, b) => a - b);
      for (const number of numbers) {
        if (!all && !lost && number > last + 1) return;
        pass(controller, number, held.get(number));
        held.delete(number);
      }
      clearTimeout(deadline);
      deadline = null;
    }

    return new ReadableStream({
      async start(controller) {
        for await (const message of source) {
          const number = message.includes(COMPLETED) ? Number(NUMBER.exec(message)?.[1]) : NaN;
          if (number > last + 1) {
            held.set(number, message);
            deadline ??= setTimeout(release, PATIENCE, controller, true);
          } else {
            if (message.includes(END)) release(controller, true);
            pass(controller, number, message);
          }
          if (held.size) release(controller, false);
        }
        release(controller, true);
        controller.close();
      },
      cancel() {
        clearTimeout(deadline);
        source.return();
      },
    }).pipeThrough(new TextEncoderStream());
  }

  async function join(given) {
    asking += 1;
    try {
      const answer = await ask(...given);
      if (answer.ok) asked((await answer.clone().json()).event_id);
      return answer;
    } finally {
      asking -= 1;
    }
  }

  window.fetch = async (...given) => {
    const path = new URL(given[0]?.url ?? given[0], location.href).pathname;
    if (path.endsWith('/queue/join')) {
      const joined = await join(given);
      if (joined.ok) await ending;
      return joined;
    }
    const answer = await ask(...given);
    if (!path.endsWith('/queue/data') || !answer.ok || !answer.body) return answer;
    const signal = given[1]?.signal ?? given[0].signal;
    return new Response(ordered(patient(answer, () => ask(...given), signal)), answer);
  };
})();
