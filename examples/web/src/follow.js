// Follows an answer to its end over any number of connections: asks once, and then resumes from the cursor.
import { isLive } from './turn.js';

const SILENCE_MS = 45_000; // the service sends at least a heartbeat every 15 s
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8_000;
const PASSING = ['functions/unavailable', 'functions/deadline-exceeded', 'auth/network-request-failed'];

/**
 * Stops when `signal` is aborted. Can be called again for the same turn at any time, even after a reload.
 * Calls `changed(turn)` on each change, and `lost(turn)` when a connection broke and is about to be retried.
 */
export async function follow(service, turn, { signal, changed, lost }) {
  let pause = FIRST_PAUSE_MS;
  while (isLive(turn) && !signal.aborted) {
    const before = turn.seq;
    try {
      await oneConnection(service, turn, signal, changed);
      continue;
    } catch (error) {
      if (signal.aborted) return;
      if (!mayPass(error)) {
        turn.state = error.details?.state ?? turn.state;
        turn.error = error.message.replace(/ \[\d+\]$/, ''); // the SDK appends an HTTP status, which is 0 in a stream
        changed(turn);
        return;
      }
    }
    if (turn.seq > before) pause = FIRST_PAUSE_MS;
    lost(turn);
    await sleep(pause, signal);
    pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
  }
}

async function oneConnection(service, turn, signal, changed) {
  let seam = turn.seq > 0;
  const connection = new AbortController();
  const hangUp = () => connection.abort();
  signal.addEventListener('abort', hangUp);
  let silence = setTimeout(hangUp, SILENCE_MS);
  try {
    const { stream, data } = await service.stream(order(turn), connection.signal);
    data.catch(() => {}); // the loop throws the same error
    for await (const message of stream) {
      clearTimeout(silence);
      silence = setTimeout(hangUp, SILENCE_MS);
      if (message.type === 'start') {
        turn.generation = message.id;
        turn.request = null; // it has the whole conversation, which is too much to store
        turn.state = 'streaming';
      } else if (message.seq > turn.seq) {
        if (seam && message.delta) {
          turn.seams.push(turn.text.length);
          seam = false;
        }
        turn.text += message.delta;
        turn.seq = message.seq;
      }
      changed(turn);
    }
    // A stream that ends without a result leaves `data` pending for ever.
    const result = await Promise.race([data, undefined]);
    if (!result) throw new Error('The stream broke off.');
    turn.state = result.state;
    turn.reason = result.reason;
    changed(turn);
  } finally {
    clearTimeout(silence);
    signal.removeEventListener('abort', hangUp);
  }
}

function order(turn) {
  return turn.generation ? { resume: turn.generation, after: turn.seq } : turn.request;
}

/** Whether to retry. An error without details is not the service's: the connection broke, or it is a proxy's. */
function mayPass(error) {
  if (error.details?.state) return false; // the answer failed, not the call
  return PASSING.includes(error.code) || !error.details;
}

function sleep(ms, signal) {
  return new Promise((over) => {
    const timer = setTimeout(over, ms);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      over();
    });
  });
}
