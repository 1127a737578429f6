// No answer is lost. Gradio (6.31) answers all events of a page through one stream, and its server ends the stream when
// nothing more is asked for. What is asked just then, the browser takes for asked on the old stream, and nobody ever
// opens a new one: the answer waits for the next press of a button. So the end of a stream is kept from Gradio's
// client as long as it waits for an answer, and the stream goes on with the next one.
(() => {
  const ask = window.fetch.bind(window);
  const END = '"msg":"close_stream"';
  const COMPLETED = '"msg":"process_completed"';
  const waiting = new Set(); // events that Gradio's client waits for
  const early = new Set(); // events that were answered before the client knew their number
  const LONGEST = 1000; // ms that the client takes to see that a stream has ended
  let ending = null; // settles when the client has seen that the last stream has ended

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

  function streamed(source) {
    return new ReadableStream({
      async pull(controller) {
        const {value, done} = await source.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel: () => source.return(),
    }).pipeThrough(new TextEncoderStream());
  }

  window.fetch = async (...given) => {
    const path = new URL(given[0]?.url ?? given[0], location.href).pathname;
    const answer = await ask(...given);
    if (path.endsWith('/queue/join') && answer.ok) {
      asked((await answer.clone().json()).event_id);
      await ending;
    }
    if (!path.endsWith('/queue/data') || !answer.ok || !answer.body) return answer;
    const signal = given[1]?.signal ?? given[0].signal;
    return new Response(streamed(patient(answer, () => ask(...given), signal)), answer);
  };
})();
