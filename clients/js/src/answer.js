// The callable: one answer over any number of calls.
import { Connection, Patience } from './patience.js';

const LIVE = ['queued', 'streaming'];
const PASSING = ['functions/unavailable', 'functions/deadline-exceeded'];
const PASSING_IN_A_RESUMPTION = 'functions/resource-exhausted'; // the connection that broke may still count as a viewer

/** @type {typeof import('./index.d.ts').answer} */
export async function answer(callable, request, options = {}) {
  if (typeof callable?.stream !== 'function') {
    throw new TypeError("answer() needs a callable that has stream(): httpsCallableFromURL of a newer Firebase SDK.");
  }
  let { text = '', onUpdate = () => {} } = options;
  const updates = follow(callable, withKey(request), options);
  try {
    for (;;) {
      const { value, done } = await updates.next();
      if (done) return value;
      text += value.delta;
      onUpdate({ ...value, text });
    }
  } finally {
    await updates.return(/** @type {any} */ (undefined)); // where `onUpdate` threw, the connection is still open
  }
}

/**
 * What a request says again after a break must be the same request to the service.
 * @param {Record<string, unknown>} request
 */
function withKey(request) {
  if ('resume' in request || 'idempotencyKey' in request) return request;
  const key = crypto.getRandomValues(new Uint32Array(4)); // unlike randomUUID, it is there on a page without TLS
  return { ...request, idempotencyKey: Array.from(key, (word) => word.toString(16).padStart(8, '0')).join('') };
}

/**
 * The updates of an answer, without its whole text, and in the end its result.
 * @param {import('./index.d.ts').StreamingCallable} callable
 * @param {Record<string, any>} request
 * @param {import('./index.d.ts').AnswerOptions} options
 * @returns {AsyncGenerator<Omit<import('./index.d.ts').AnswerUpdate, 'text'>, import('./index.d.ts').AnswerResult>}
 */
async function* follow(callable, request, options) {
  const { signal, onBreak = () => {} } = options;
  const patience = new Patience(options);
  let id = request.resume;
  let seq = request.after ?? 0;
  for (;;) {
    signal?.throwIfAborted();
    const connection = new Connection(signal, patience.silence);
    const asked = id === undefined ? request : { resume: id, after: seq };
    const before = seq;
    /** @type {any} */
    let trouble;
    try {
      const { stream, data } = await connection.hear(callable.stream(asked, { signal: connection.signal }));
      data.catch(() => {}); // the stream fails with the same error
      const messages = stream[Symbol.asyncIterator]();
      for (;;) {
        const { value: message, done } = await connection.hear(messages.next());
        if (done) break;
        if (message.type === 'start') {
          id = message.id;
          yield { id, seq, delta: '' };
        } else if (message.seq > seq) {
          seq = message.seq;
          patience.progressed();
          yield { id, seq, delta: message.delta, event: message.event };
        }
      }
      const result = await Promise.race([data, undefined]); // where the connection broke off, `data` never settles
      if (result && !LIVE.includes(result.state)) return result;
      if (result && seq > before) continue; // a response has ended, and the answer has not
      trouble = new Error('The connection broke off.');
    } catch (error) {
      signal?.throwIfAborted();
      if (!mayPass(error, id !== undefined)) throw error;
      trouble = error;
    } finally {
      connection.close();
    }
    patience.failed(trouble);
    onBreak(trouble, patience.failures);
    await patience.wait(signal, trouble.details?.retryAfter);
  }
}

/**
 * Whether to try again. An error without details is not the service's: the connection broke, or it is a proxy's.
 * @param {any} error
 * @param {boolean} resumes
 */
function mayPass({ code, details }, resumes) {
  if (!details) return true;
  if (details.state) return false; // the answer failed, not the call
  return PASSING.includes(code) || (resumes && code === PASSING_IN_A_RESUMPTION);
}
