// A `fetch` whose streams outlive their connections.
//
// The service numbers a stream's events with `id:`, and sends the rest of it at the response's `Location`, after the event
// that `Last-Event-ID` names. Gemini's clients take no `id:`, so there an event's number is its place.
import { HoldfastError } from './error.js';
import { Connection, Patience } from './patience.js';
import { framesOf, read } from './sse.js';

const PASSING = [408, 425, 429];
const OF_THE_FIRST_BODY = ['Content-Type', 'Content-Length'];
const OF_THE_FIRST_CODING = ['Content-Encoding', 'Content-Length'];

/** @type {typeof import('./index.d.ts').resumingFetch} */
export function resumingFetch(options = {}) {
  const { fetch = globalThis.fetch, headers: renewed = () => ({}) } = options;

  return async (input, init) => {
    const asked = input instanceof Request ? input : undefined;
    const left = new AbortController(); // of one who reads no more
    const theirs = init?.signal ?? asked?.signal;
    const signal = theirs ? AbortSignal.any([theirs, left.signal]) : left.signal;
    const patience = new Patience(options);
    const connection = new Connection(signal, patience.silence);
    const response = await fetch(input, { ...init, signal: connection.signal });
    if (!resumable(response)) return response;

    const askedUrl = asked?.url ?? String(input);
    const bare = isBare(askedUrl);
    const place = new URL(response.headers.get('Location') ?? '', response.url || askedUrl);
    if (bare) place.searchParams.set('bare_events', '1');

    /** @param {number} last the number of the last event that came @param {Connection} connection */
    async function resume(last, connection) {
      const headers = new Headers(init?.headers ?? asked?.headers);
      OF_THE_FIRST_BODY.forEach((name) => headers.delete(name));
      new Headers(await renewed()).forEach((value, name) => headers.set(name, value));
      headers.set('Accept', 'text/event-stream');
      headers.set('Last-Event-ID', String(last));
      return fetch(place, { headers, cache: 'no-store', signal: connection.signal });
    }

    const frames = followed({ response, connection }, resume, bare, patience, signal);
    const encoder = new TextEncoder();
    const body = new ReadableStream({
      async pull(controller) {
        const { value, done } = await frames.next();
        if (done) controller.close();
        else controller.enqueue(encoder.encode(value));
      },
      cancel: (reason) => left.abort(reason),
    });
    return resumed(body, response);
  };
}

/**
 * A stream that this package can go on with. The AI SDK's own protocol has no numbers, and its own way of coming back.
 * @param {Response} response
 */
function resumable({ ok, headers }) {
  const streamed = headers.get('Content-Type')?.startsWith('text/event-stream');
  return ok && streamed && headers.has('Location') && !headers.has('x-vercel-ai-ui-message-stream');
}

/**
 * Whether the service sends its events without numbers.
 * @param {string} url
 */
function isBare(url) {
  return /:streamGenerateContent\b|[?&]bare_events=(1|true)\b/.test(url);
}

/**
 * The first response, with the body of them all.
 * @param {ReadableStream} body
 * @param {Response} first
 */
function resumed(body, { status, statusText, headers, url }) {
  const response = new Response(body, { status, statusText, headers });
  OF_THE_FIRST_CODING.forEach((name) => response.headers.delete(name));
  return Object.defineProperty(response, 'url', { value: url });
}

/**
 * All frames of an answer, over any number of connections. Errors: `HoldfastError`, the signal's reason.
 * @param {{ response: Response, connection: Connection }} first
 * @param {(last: number, connection: Connection) => Promise<Response>} resume
 * @param {boolean} bare
 * @param {Patience} patience
 * @param {AbortSignal} signal
 */
async function* followed(first, resume, bare, patience, signal) {
  let { connection } = first;
  /** @type {Response | undefined} */
  let response = first.response;
  let last = 0;
  for (;;) {
    const before = last;
    /** @type {any} */
    let trouble = new Error('The connection broke off.');
    let isOver = false; // this response, in order
    try {
      response ??= await connection.hear(resume(last, connection));
      if (!response.ok) throw await refusal(response);
      for await (const frame of framesOf(chunksOf(response, connection))) {
        const { kind, id = last + 1, problem } = read(frame, bare);
        if (kind === 'resume') {
          trouble = new Error(problem);
          isOver = true;
          break;
        }
        if (kind === 'event') {
          if (id <= last) continue;
          last = id;
          patience.progressed();
        }
        yield frame;
        if (kind === 'end') return;
      }
      if (bare && !isOver) return; // there is no other end mark than the body's end
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof HoldfastError) throw error;
      trouble = error;
    } finally {
      connection.close();
    }
    if (!isOver || last === before) {
      patience.failed(trouble);
      await patience.wait(signal, trouble.retryAfter);
    }
    response = undefined;
    connection = new Connection(signal, patience.silence);
  }
}

/**
 * @param {Response} response
 * @param {Connection} connection
 */
async function* chunksOf(response, connection) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  for (;;) {
    const { value, done } = await connection.hear(reader.read());
    if (done) return;
    yield value;
  }
}

/**
 * Why an answer is not resumed now (an Error with `retryAfter` in seconds) or can't be (`HoldfastError`).
 * @param {Response} response
 */
async function refusal(response) {
  const { status, headers } = response;
  const said = await response.json().catch(() => undefined);
  const words = `The answer can't be resumed: status ${status}. ${said?.error?.message ?? ''}`.trim();
  if (status < 500 && !PASSING.includes(status)) return new HoldfastError('refused', words, { status });
  return Object.assign(new Error(words), { retryAfter: Number(headers.get('Retry-After')) });
}
