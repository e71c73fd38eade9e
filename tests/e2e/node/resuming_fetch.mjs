/**
 * A `fetch` for any SDK that streams OpenAI's chat completions: where the connection breaks off, the answer goes on after
 * the last event that came, and the SDK does not notice. `patience` is how often in a row it may fail.
 */
export function resumingFetch(patience = 5) {
  return async (url, init) => {
    const response = await fetch(url, init);
    const place = response.headers.get('Location');
    const streamed = response.headers.get('Content-Type')?.startsWith('text/event-stream');
    if (!response.ok || !streamed || place === null) return response;
    const events = followed(response, new URL(place, response.url), init, patience);
    const encoder = new TextEncoder();
    const body = new ReadableStream({
      async pull(controller) {
        const { value, done } = await events.next();
        if (done) controller.close();
        else controller.enqueue(encoder.encode(value));
      },
      cancel: () => response.body.cancel().catch(() => {}),
    });
    return new Response(body, { status: response.status, headers: response.headers });
  };
}

async function* followed(response, place, init, patience) {
  const headers = new Headers(init.headers); // of the user and his app, which are asked for again
  headers.set('Accept', 'text/event-stream');
  headers.delete('Content-Type');
  let last = 0;
  for (let failures = 0; ; ) {
    try {
      for await (const event of eventsOf(response)) {
        const id = /^id: (\d+)$/m.exec(event);
        if (!id && event.includes('"still_running"')) break; // one response lasts 55 minutes at the most
        yield event;
        if (!id) return; // [DONE], or an error
        last = Number(id[1]);
        failures = 0;
      }
    } catch (error) {
      if (init.signal?.aborted || failures >= patience) throw error;
    }
    failures += 1;
    await new Promise((resolve) => setTimeout(resolve, 200 * 2 ** failures));
    headers.set('Last-Event-ID', String(last));
    response = await fetch(place, { headers, signal: init.signal }).catch(() => Response.error());
  }
}

async function* eventsOf(response) {
  if (!response.ok) throw new Error(`The answer can't be resumed: status ${response.status}.`);
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + decoder.decode(value, { stream: true })).split('\n\n');
    rest = events.pop();
    for (const event of events) yield `${event}\n\n`;
  }
}
