// Server-sent events, as the service writes them: whole frames from bytes, and what a frame is to one who may resume.

/** Errors of this service after which the answer goes on elsewhere: a response has lasted as long as it may, or it is away. */
const RESUMABLE = ['still_running', 'unavailable'];
// These have a number too, unlike other APIs' end marks.
const LAST = ['response.completed', 'response.incomplete', 'response.failed'];

/**
 * Each frame as soon as its last byte has arrived, with its empty line. What is not a whole frame is left out.
 * @param {AsyncIterable<Uint8Array>} chunks
 */
export async function* framesOf(chunks) {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of chunks) {
    let from = Math.max(rest.length - 1, 0);
    rest += decoder.decode(chunk, { stream: true });
    for (let end; (end = rest.indexOf('\n\n', from)) !== -1; from = 0) {
      yield rest.slice(0, end + 2);
      rest = rest.slice(end + 2);
    }
  }
}

/**
 * What a frame is: an `event`; the `end` of the answer, an error or its end mark; the service's word to `resume` it, with
 * the `problem`; or neither (`quiet`), such as a keep-alive. `id` is the event's number, where the frame has it.
 * @param {string} frame
 * @param {boolean} bare whether events have no numbers
 * @returns {{ kind: 'event' | 'end' | 'resume' | 'quiet', id?: number, problem?: string }}
 */
export function read(frame, bare) {
  const lines = frame.split('\n'); // and at no other line end, such as those of Unicode that data may have
  const [id] = valuesOf('id: ', lines);
  const [name = ''] = valuesOf('event: ', lines);
  const data = valuesOf('data: ', lines);
  if (id !== undefined) return { kind: LAST.includes(name) ? 'end' : 'event', id: Number(id) };
  if (data.length === 0 || name === 'ping') return { kind: 'quiet' };
  const error = errorOf(data.join('\n'));
  if (RESUMABLE.includes(codeOf(error))) return { kind: 'resume', problem: error.message };
  return { kind: bare && !error ? 'event' : 'end' };
}

/**
 * @param {string} start
 * @param {string[]} lines
 */
function valuesOf(start, lines) {
  return lines.filter((line) => line.startsWith(start)).map((line) => line.slice(start.length));
}

/**
 * The error that an event without a number is. In a bare stream it is the upstream's own event nearly always.
 * @param {string} data
 * @returns {any}
 */
function errorOf(data) {
  if (!data.includes('"error"')) return undefined;
  try {
    return JSON.parse(data).error;
  } catch {
    return undefined;
  }
}

/**
 * The service's code, where each model API has it: Messages, Gemini, OpenAI's.
 * @param {any} error
 */
function codeOf(error) {
  return error?.details?.error_code ?? error?.details?.[0]?.reason ?? error?.code;
}
