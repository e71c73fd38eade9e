// Follows an answer to its end: what the client package tells of it, as changes of a turn.
import { answer } from 'holdfast-client';

/**
 * Stops when `signal` is aborted. Can be called again for the same turn at any time, even after a reload.
 * Calls `changed(turn)` on each change, and `lost(turn)` when a connection broke and is about to be retried.
 */
export async function follow(service, turn, { signal, changed, lost }) {
  let seam = turn.seq > 0;
  const onUpdate = ({ id, seq, text, delta }) => {
    if (seam && delta) {
      turn.seams.push(turn.text.length);
      seam = false;
    }
    turn.generation = id;
    turn.request = null; // it has the whole conversation, which is too much to store
    turn.state = 'streaming';
    turn.text = text;
    turn.seq = seq;
    changed(turn);
  };
  const onBreak = () => {
    seam = turn.seq > 0;
    lost(turn);
  };
  const request = turn.generation ? { resume: turn.generation, after: turn.seq } : turn.request;
  const options = { text: turn.text, retries: Infinity, signal, onUpdate, onBreak };
  try {
    const { state, reason } = await answer(service.call, request, options);
    turn.state = state;
    turn.reason = reason;
  } catch (error) {
    if (signal.aborted) return;
    turn.state = error.details?.state ?? turn.state;
    turn.error = error.message.replace(/ \[\d+\]$/, ''); // the SDK appends an HTTP status, which is 0 in a stream
  }
  changed(turn);
}
