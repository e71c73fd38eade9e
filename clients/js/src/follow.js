// The Firestore listener: one message and its journal, under the rules that the service ships.
//
// The journal is a log in segments. Each has `first` and `last`, the numbers of its events, and the `text` that they add;
// `head` is the open one. An event too large for one document has several with the same `first`.
import { HoldfastError } from './error.js';

const STALLED_MS = 60_000;

/** @type {typeof import('./index.d.ts').follow} */
export async function follow(sdk, db, path, options = {}) {
  const { onUpdate = () => {}, onStalled = () => {}, stalledAfter = STALLED_MS, signal } = options;
  signal?.throwIfAborted();
  /** @type {import('./index.d.ts').Message | undefined} */
  let message;
  let text = '';
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let timer;
  /** @type {(() => void)[]} */
  const stops = [() => clearInterval(timer)];
  await new Promise((ended, failed) => {
    /** @param {(snapshot: any) => void} take */
    const guarded = (take) => (/** @type {any} */ snapshot) => {
      try {
        clearInterval(timer);
        timer = setInterval(() => message && onStalled(message), stalledAfter);
        take(snapshot);
        onUpdate({ text: message ? text : '', message }); // the journal may be heard of first
        if (message?.finishedAt) ended(undefined);
      } catch (error) {
        failed(error);
      }
    };
    const onMessage = guarded((snapshot) => {
      if (message && !snapshot.exists()) throw new HoldfastError('deleted', `The message ${path} was deleted.`);
      message = snapshot.data();
    });
    const onJournal = guarded((snapshot) => {
      text = textOf(snapshot.docs.map(segmentOf)) ?? text;
    });
    const leave = () => failed(signal?.reason);
    signal?.addEventListener('abort', leave);
    stops.push(() => signal?.removeEventListener('abort', leave));
    stops.push(sdk.onSnapshot(sdk.doc(db, path), onMessage, failed));
    stops.push(sdk.onSnapshot(sdk.collection(db, `${path}/holdfastJournal`), onJournal, failed));
  }).finally(() => stops.forEach((stop) => stop()));
  return whole(sdk, db, path, /** @type {import('./index.d.ts').Message} */ (/** @type {unknown} */ (message)));
}

/** @typedef {{ id: string, first: number, last: number, attempt: number, text: string }} Segment */

/**
 * @param {any} document
 * @returns {Segment}
 */
function segmentOf(document) {
  const [first, last, attempt, text] = ['first', 'last', 'attempt', 'text'].map((name) => document.get(name));
  return { id: document.id, first, last, attempt, text };
}

/**
 * The text up to the head, or undefined where a part of the journal is not there, as in what a device had kept.
 *
 * An attempt that was lost while it wrote an event's documents leaves some of them. They count for nothing: they are not
 * below the head, or they are another attempt's than the first document with their number, which a successor overwrites.
 * @param {Segment[]} segments
 */
export function textOf(segments) {
  const head = segments.find(({ id }) => id === 'head');
  if (!head) return undefined;
  const sealed = segments.filter(({ id, first }) => id !== 'head' && first < head.first);
  sealed.sort((one, other) => one.first - other.first || (one.id < other.id ? -1 : 1));
  let text = '';
  let last = 0;
  let attempt = 0;
  for (const segment of [...sealed, head]) {
    if (segment.first > last + 1) return undefined;
    if (segment.first <= last && segment.attempt !== attempt) continue;
    text += segment.text;
    ({ last, attempt } = segment);
  }
  return text;
}

/**
 * The message with what of its texts lies beyond its own document. A part's `field` is the text's dotted path.
 * @param {import('./index.d.ts').FirestoreSdk} sdk
 * @param {any} db
 * @param {string} path
 * @param {import('./index.d.ts').Message} message
 */
async function whole(sdk, db, path, message) {
  const ids = message.parts ?? [];
  const parts = await Promise.all(ids.map((/** @type {string} */ id) => sdk.getDoc(sdk.doc(db, `${path}/holdfastParts/${id}`))));
  for (const part of parts) {
    const keys = part.get('field').split('.');
    const name = keys.pop();
    const holder = keys.reduce((/** @type {any} */ at, /** @type {string} */ key) => at?.[key], message);
    if (typeof holder?.[name] === 'string') holder[name] += part.get('text');
  }
  return message;
}
