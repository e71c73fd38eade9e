// Trying again: how often, after which pause, and when a connection counts as broken.
import { HoldfastError } from './error.js';

const RETRIES = 10;
const SILENCE_MS = 45_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8_000;
const LONGEST_ASKED_MS = 60_000; // that the service may ask for with Retry-After

/** Counts the failures in a row of one answer's connections. */
export class Patience {
  failures = 0;

  /** @param {import('./index.d.ts').Patience} options */
  constructor({ retries = RETRIES, delay = pause, silence = SILENCE_MS }) {
    this.retries = retries;
    this.delay = delay;
    this.silence = silence;
  }

  progressed() {
    this.failures = 0;
  }

  /**
   * Counts a failure. Errors: `HoldfastError` if there were too many.
   * @param {unknown} cause
   */
  failed(cause) {
    this.failures += 1;
    if (this.failures <= this.retries) return;
    const words = `The connection failed ${this.failures} times in a row. The answer goes on: resume it later.`;
    throw new HoldfastError('connection_lost', words, { cause });
  }

  /**
   * Waits before the next try. Errors: the signal's reason.
   * @param {AbortSignal | undefined} signal
   * @param {number} [asked] the seconds that the service asked for
   */
  wait(signal, asked = 0) {
    const ms = Math.max(this.delay(this.failures), Math.min(1_000 * asked || 0, LONGEST_ASKED_MS));
    return /** @type {Promise<void>} */ (
      new Promise((over, aborted) => {
        const leave = () => {
          clearTimeout(timer);
          aborted(signal?.reason);
        };
        const timer = setTimeout(() => {
          signal?.removeEventListener('abort', leave);
          over();
        }, ms);
        if (signal?.aborted) leave();
        else signal?.addEventListener('abort', leave, { once: true });
      })
    );
  }
}

/** @param {number} failures */
function pause(failures) {
  return Math.min(FIRST_PAUSE_MS * 2 ** (failures - 1), LONGEST_PAUSE_MS) * (1 - Math.random() / 2);
}

/** One connection: hung up by the caller's signal, or after a silence. */
export class Connection {
  #hangUp = new AbortController();
  #silence;

  /**
   * @param {AbortSignal | undefined} signal
   * @param {number} silence milliseconds
   */
  constructor(signal, silence) {
    this.#silence = silence;
    this.signal = signal ? AbortSignal.any([signal, this.#hangUp.signal]) : this.#hangUp.signal;
  }

  /**
   * What the promise gives. Errors: its own; the signal's reason, at once; silence.
   * @template T
   * @param {Promise<T>} promise
   * @returns {Promise<T>}
   */
  async hear(promise) {
    const silent = () => this.#hangUp.abort(new Error(`Nothing came for ${this.#silence} ms.`));
    const timer = setTimeout(silent, this.#silence);
    let leave = () => {};
    try {
      return await Promise.race([
        promise,
        /** @type {Promise<never>} */ (
          new Promise((_, reject) => {
            leave = () => reject(this.signal.reason);
            if (this.signal.aborted) leave();
            else this.signal.addEventListener('abort', leave);
          })
        ),
      ]);
    } finally {
      clearTimeout(timer);
      this.signal.removeEventListener('abort', leave);
    }
  }

  close() {
    this.#hangUp.abort();
  }
}
