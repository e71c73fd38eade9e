import { httpsCallableFromURL } from '@firebase/functions';

const LIVE = ['queued', 'streaming'];
const PATIENCE = 5;

/**
 * Asks, and calls `show(text, id)` as the answer grows; comes back where it was when the connection breaks off. Gives
 * the result. With an `idempotencyKey`, or a `chatId` and a `messageId`, in `asked`, asking again is never a second answer.
 */
export async function answer(functions, url, asked, show, signal) {
  const call = httpsCallableFromURL(functions, url);
  let request = asked;
  let text = '';
  let failures = 0;
  for (;;) {
    let reason = new Error('The connection broke off.');
    try {
      const { stream, data } = await call.stream(request, { signal });
      data.catch(() => {}); // the stream says the same
      for await (const message of stream) {
        if (message.type === 'start') request = { resume: message.id, after: request.after ?? 0 };
        if (message.seq === undefined) continue; // the start, or a heartbeat
        text += message.delta;
        request.after = message.seq;
        failures = 0;
        show(text, request.resume);
      }
      const result = await Promise.race([data, null]); // where the connection broke off, `data` never settles
      if (result && !LIVE.includes(result.state)) return result;
      if (result) continue; // one response lasts 55 minutes at the most
    } catch (error) {
      // The server's errors have details; one without is the connection's.
      if (signal?.aborted || (error.details && error.code !== 'functions/unavailable')) throw error;
      reason = error;
    }
    failures += 1;
    if (failures > PATIENCE) throw reason;
    await new Promise((resolve) => setTimeout(resolve, 200 * 2 ** failures));
  }
}

/** Stops an answer, from anywhere. What there is of it is saved. */
export async function stop(functions, url, id) {
  const { data } = await httpsCallableFromURL(functions, url)({ stop: id });
  return data;
}
