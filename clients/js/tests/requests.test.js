// What resumingFetch asks for, and what it gives beside the body.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';

import { resumingFetch } from 'holdfast-client';

import { framesOfWire, PLACE, serveAnswer, serving, WIRES } from './service.js';

const NO_DELAY = { delay: () => 0 };
const CHAT = WIRES['chat completions'];

const post = (fetch, url, init) => fetch(url, { method: 'POST', body: '{}', ...init });

test('a resumption sends what the request did, and the headers that were renewed', async (t) => {
  const frames = framesOfWire(CHAT, 3);
  const { url, calls } = await serveAnswer(t, CHAT, frames, { broken: (number) => (number === 1 ? 100 : undefined) });
  const headers = { Authorization: 'Bearer old', 'X-Firebase-AppCheck': 'app', 'Content-Type': 'application/json' };
  const renewed = async () => ({ Authorization: 'Bearer new' });
  await (await post(resumingFetch({ ...NO_DELAY, headers: renewed }), `${url}/v1/chat/completions`, { headers })).text();
  const { method, url: path, headers: sent } = calls[1];
  assert.deepEqual([method, path, sent['last-event-id'], sent.accept], ['GET', PLACE, '1', 'text/event-stream']);
  assert.deepEqual([sent.authorization, sent['x-firebase-appcheck']], ['Bearer new', 'app']);
  assert.equal(sent['content-type'], undefined);
  assert.equal(calls[0].headers.authorization, 'Bearer old');
});

test('a Request may be given, with its headers and its signal', async (t) => {
  const frames = framesOfWire(CHAT, 3);
  const { url, calls } = await serveAnswer(t, CHAT, frames, { broken: (number) => (number === 1 ? 100 : undefined) });
  const request = new Request(url, { method: 'POST', body: '{}', headers: { Authorization: 'Bearer mine' } });
  assert.equal(await (await resumingFetch(NO_DELAY)(request)).text(), frames.join('') + CHAT.end);
  assert.equal(calls[1].headers.authorization, 'Bearer mine');
  const aborted = new Request(url, { signal: AbortSignal.abort() });
  await assert.rejects(resumingFetch()(aborted), { name: 'AbortError' });
});

test('the rest of a stream without numbers is asked for without them', async (t) => {
  const wire = WIRES.gemini;
  const frames = framesOfWire(wire, 3);
  const { url, calls } = await serveAnswer(t, wire, frames, { broken: (number) => (number === 1 ? 90 : undefined) });
  await (await post(resumingFetch(NO_DELAY), url + wire.path)).text();
  assert.equal(calls[1].url, `${PLACE}?bare_events=1`);
  assert.equal(calls[1].headers['last-event-id'], '1');
});

test('the response is the first one but for its body', async (t) => {
  const { url } = await serving(t, (_, response) => {
    const headers = { 'Content-Type': 'text/event-stream', 'Content-Encoding': 'gzip', Location: PLACE };
    response.writeHead(201, 'Made', headers).end(gzipSync(CHAT.end));
  });
  const response = await post(resumingFetch(), `${url}/v1/chat/completions`);
  assert.deepEqual([response.url, response.status, response.statusText], [`${url}/v1/chat/completions`, 201, 'Made']);
  assert.deepEqual([response.headers.get('Location'), response.headers.get('Content-Encoding')], [PLACE, null]);
  assert.equal(await response.text(), CHAT.end);
});

const OTHERS = {
  'a body that is not streamed': [200, { 'Content-Type': 'application/json', Location: PLACE }],
  'a refusal': [429, { 'Content-Type': 'text/event-stream', Location: PLACE }],
  'a stream of another service': [200, { 'Content-Type': 'text/event-stream' }],
  "useChat's": [200, { 'Content-Type': 'text/event-stream', Location: PLACE, 'x-vercel-ai-ui-message-stream': 'v1' }],
};

for (const [name, [status, headers]] of Object.entries(OTHERS)) {
  test(`${name} is passed through`, async () => {
    const theirs = new Response('data: {"a":1}\n\n', { status, headers });
    const fetch = resumingFetch({ fetch: async () => theirs });
    assert.equal(await post(fetch, 'http://service/'), theirs);
  });
}
