// A service in miniature, over real HTTP: a streamed answer, whose connections break as a test says.
import { createServer } from 'node:http';

export const PLACE = '/v1/generations/g1';

/** An event as each wire writes it; the text has characters of one to four bytes. */
export const WIRES = {
  'chat completions': {
    path: '/v1/chat/completions',
    frame: (seq, text) => `id: ${seq}\ndata: {"choices":[{"delta":{"content":"${text}"}}]}\n\n`,
    quiet: ': keep-alive\n',
    end: 'data: [DONE]\n\n',
  },
  messages: {
    path: '/v1/messages',
    frame: (seq, text) => `id: ${seq}\nevent: content_block_delta\ndata: {"delta":{"text":"${text}"}}\n\n`,
    quiet: 'event: ping\ndata: {"type":"ping"}\n\n',
    end: 'event: message_stop\ndata: {"type":"message_stop"}\n\n',
  },
  responses: {
    path: '/v1/responses',
    frame: (seq, text) => `id: ${seq}\nevent: response.output_text.delta\ndata: {"delta":"${text}"}\n\n`,
    quiet: ': keep-alive\n',
    end: 'id: 1000\nevent: response.completed\ndata: {"type":"response.completed"}\n\n',
  },
  gemini: {
    path: '/v1beta/models/demo:streamGenerateContent?alt=sse',
    frame: (seq, text) => `data: {"candidates":[{"content":{"parts":[{"text":"${text}"}]}}]}\n\n`,
    quiet: '\n',
    end: '',
  },
};

const WORDS = ['sea', 'größer', '海は', '🌊', 'a b', 'a\u2028id: 99\u2029event: ping\u0085data: [DONE]'];

export function framesOfWire({ frame, quiet }, count) {
  const texts = Array.from({ length: count }, (_, at) => `${WORDS[at % WORDS.length]} ${at + 1}`);
  return texts.map((text, at) => (at % 7 === 3 ? quiet : '') + frame(at + 1, text));
}

/** Numbers from 0 to 1, the same ones for the same seed. */
export function chance(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/**
 * Serves requests with `answer(request, response, number)`, of which it gives the URL and, in `calls`, what they were.
 * `t` is the test, after which it is closed.
 */
export async function serving(t, answer) {
  const calls = [];
  const server = createServer((request, response) => {
    const { method, url, headers } = request;
    calls.push({ method, url, headers });
    answer({ method, url, headers, after: Number(headers['last-event-id'] ?? 0) }, response, calls.length);
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, calls };
}

export function stream(response, status = 200) {
  response.writeHead(status, { 'Content-Type': 'text/event-stream; charset=utf-8', Location: PLACE });
  response.flushHeaders();
}

/** Sends bytes in pieces of the sizes that `size()` gives, and ends: in order, or `broken`, in the middle of its body. */
export async function send(response, bytes, { size = () => bytes.length, broken = false } = {}) {
  for (let at = 0; at < bytes.length; ) {
    const piece = bytes.subarray(at, at + Math.max(1, size()));
    at += piece.length;
    await new Promise((sent) => response.write(piece, sent));
    await new Promise(setImmediate); // so that pieces arrive one by one
  }
  if (broken) response.destroy();
  else response.end();
}

export const bytesOf = (text) => new TextEncoder().encode(text);

/** Serves an answer from where it is asked for; `broken(number, bytes)`: after how many bytes to break, or undefined. */
export function serveAnswer(t, wire, frames, { broken = () => undefined, size } = {}) {
  return serving(t, ({ after }, response, number) => {
    stream(response);
    const bytes = bytesOf(frames.slice(after).join('') + wire.end);
    const at = broken(number, bytes.length);
    send(response, at === undefined ? bytes : bytes.subarray(0, at), { size, broken: at !== undefined });
  });
}
