import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';

import { HoldfastError, resumingFetch } from 'holdfast-client';

import { bytesOf, chance, framesOfWire, PLACE, send, serveAnswer, serving, stream, WIRES } from './service.js';

const ROUNDS = 40;
const NO_DELAY = { delay: () => 0 };
const CHAT = WIRES['chat completions'];

const post = (fetch, url, init) => fetch(url, { method: 'POST', body: '{}', ...init });

for (const [name, wire] of Object.entries(WIRES)) {
  test(`${name}: an answer that breaks at any bytes comes whole and once`, async (t) => {
    const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32));
    t.diagnostic(`seed ${seed}`);
    const random = chance(seed);
    const frames = framesOfWire(wire, 30);
    let breaks = 0;
    for (let round = 0; round < ROUNDS; round += 1) {
      const times = 1 + Math.floor(random() * 4);
      const service = await serveAnswer(t, wire, frames, {
        broken: (number, length) => (number <= times ? Math.floor(random() * length) : undefined),
        size: () => Math.floor(random() * 40),
      });
      const said = await (await post(resumingFetch(NO_DELAY), service.url + wire.path)).text();
      assert.equal(unpinged(said), unpinged(frames.join('') + wire.end));
      breaks += service.calls.length - 1;
    }
    assert.ok(breaks > ROUNDS / 2, `${breaks} breaks`);
  });

  test(`${name}: a frame may be cut between any two bytes`, async (t) => {
    const frames = framesOfWire(wire, 6);
    const whole = bytesOf(frames.join('') + wire.end);
    for (let at = 1; at < whole.length; at += 1) {
      const pieces = [whole.subarray(0, at), whole.subarray(at)];
      const fetch = resumingFetch({ ...NO_DELAY, retries: 0, fetch: async () => responseOf(pieces) });
      assert.equal(await (await post(fetch, `http://service${wire.path}`)).text(), frames.join('') + wire.end);
    }
  });

  if (wire === WIRES.gemini) continue; // its events have no numbers
  test(`${name}: what the service sends again is not said again`, async (t) => {
    const frames = framesOfWire(wire, 10);
    const { url } = await serving(t, ({ after }, response, number) => {
      stream(response);
      const again = frames.slice(Math.max(0, after - 3)).join('');
      if (number === 1) send(response, bytesOf(frames.slice(0, 6).join('')), { broken: true });
      else send(response, bytesOf(again + wire.end));
    });
    const said = await (await post(resumingFetch(NO_DELAY), url + wire.path)).text();
    assert.equal(unpinged(said), unpinged(frames.join('') + wire.end));
  });
}

/** Without the keep-alives that are events, which a break may repeat. */
function unpinged(text) {
  return text.replaceAll(WIRES.messages.quiet, '');
}

function responseOf(pieces) {
  const body = new ReadableStream({
    start(controller) {
      pieces.forEach((piece) => controller.enqueue(piece));
      controller.close();
    },
  });
  return new Response(body, { headers: { 'Content-Type': 'text/event-stream', Location: PLACE } });
}

test('a stream that ends in order without its end mark is gone on with', async (t) => {
  const frames = framesOfWire(CHAT, 10);
  const { url, calls } = await serving(t, ({ after }, response, number) => {
    stream(response);
    send(response, bytesOf(number === 1 ? frames.slice(0, 4).join('') : frames.slice(after).join('') + CHAT.end));
  });
  assert.equal(await (await post(resumingFetch(NO_DELAY), url)).text(), frames.join('') + CHAT.end);
  assert.equal(calls.length, 2);
});

const ERRORS = {
  'chat completions': (code) => `data: {"error":{"message":"It goes on.","code":"${code}"}}\n\n`,
  messages: (code) => `event: error\ndata: {"type":"error","error":{"message":"x","details":{"error_code":"${code}"}}}\n\n`,
  gemini: (code) => `data: {"error":{"code":504,"message":"x","details":[{"reason":"${code}","metadata":{}}]}}\n\n`,
};

for (const [name, error] of Object.entries(ERRORS)) {
  const wire = WIRES[name];
  for (const code of ['still_running', 'unavailable']) {
    test(`${name}: a response that ends as ${code} is not the answer's end`, async (t) => {
      const frames = framesOfWire(wire, 10);
      const { url, calls } = await serving(t, ({ after }, response, number) => {
        stream(response);
        const some = frames.slice(after, after + 4).join('');
        send(response, bytesOf(number < 3 ? some + error(code) : frames.slice(after).join('') + wire.end));
      });
      const fetch = resumingFetch({ retries: 0, delay: () => assert.fail('nothing failed') });
      assert.equal(await (await post(fetch, url + wire.path)).text(), frames.join('') + wire.end);
      assert.equal(calls.length, 3);
    });
  }

  test(`${name}: the error that ends an answer reaches the SDK as it is, and nothing is asked again`, async (t) => {
    const frames = [...framesOfWire(wire, 3), error('upstream_disconnected')].join('');
    const { url, calls } = await serving(t, (_, response) => {
      stream(response);
      send(response, bytesOf(frames), { broken: name === 'gemini' });
    });
    assert.equal(await (await post(resumingFetch(NO_DELAY), url + wire.path)).text(), frames);
    assert.equal(calls.length, 1);
  });
}

test('a connection whose response has ended in a word to resume is closed', async (t) => {
  let closed;
  const { url } = await serving(t, (_, response, number) => {
    stream(response);
    if (number === 1) closed = once(response, 'close');
    response.write(number === 1 ? CHAT.frame(1, 'word') + ERRORS['chat completions']('still_running') : CHAT.end);
  });
  await (await post(resumingFetch(), url)).text();
  await closed;
});

test('a service that only says that it goes on is a failure in the end', async (t) => {
  const { url, calls } = await serving(t, (_, response) => {
    stream(response);
    send(response, bytesOf(ERRORS['chat completions']('still_running')));
  });
  const response = await post(resumingFetch({ ...NO_DELAY, retries: 2 }), url);
  await assert.rejects(response.text(), { code: 'connection_lost' });
  assert.equal(calls.length, 3);
});

test('after so many failures in a row it gives up, and says why', async (t) => {
  const waits = [];
  const { url, calls } = await serving(t, ({ after }, response) => {
    stream(response);
    const one = after < 4 ? CHAT.frame(after + 1, 'word') : '';
    send(response, bytesOf(one), { broken: true });
  });
  const fetch = resumingFetch({ retries: 3, delay: (failures) => waits.push(failures) * 0 });
  const error = await (await post(fetch, url)).text().catch((failure) => failure);
  assert.ok(error instanceof HoldfastError);
  assert.equal(error.code, 'connection_lost');
  assert.ok(error.cause instanceof Error);
  assert.deepEqual(waits, [1, 1, 1, 1, 2, 3]); // progress starts the count anew
  assert.equal(calls.length, 4 + 3);
});

test('an answer that can not be resumed is an error at once', async (t) => {
  const { url, calls } = await serving(t, (_, response, number) => {
    if (number > 1) {
      response.writeHead(404, { 'Content-Type': 'application/json' });
      response.end('{"error": {"message": "There is no such generation."}}');
      return;
    }
    stream(response);
    send(response, bytesOf(CHAT.frame(1, 'word')), { broken: true });
  });
  const response = await post(resumingFetch(NO_DELAY), url);
  const message = "The answer can't be resumed: status 404. There is no such generation.";
  await assert.rejects(response.text(), { name: 'HoldfastError', code: 'refused', status: 404, message });
  assert.equal(calls.length, 2);
});

test('a service that is away is asked again, when it says', async (t) => {
  const frames = framesOfWire(CHAT, 5);
  const { url, calls } = await serving(t, ({ after }, response, number) => {
    if (number === 2 || number === 3) {
      response.writeHead(number === 2 ? 503 : 429, number === 2 ? { 'Retry-After': '1' } : {});
      response.end('<html>');
      return;
    }
    stream(response);
    send(response, bytesOf(frames.slice(after).join('') + (number === 1 ? '' : CHAT.end)), { broken: number === 1 });
  });
  const started = performance.now();
  assert.equal(await (await post(resumingFetch(NO_DELAY), url)).text(), frames.join('') + CHAT.end);
  assert.equal(calls.length, 4);
  assert.ok(performance.now() - started >= 990);
});

test('a connection that falls silent is broken', async (t) => {
  const frames = framesOfWire(CHAT, 6);
  const { url, calls } = await serving(t, ({ after }, response, number) => {
    if (number === 2) return; // not even a status
    stream(response);
    if (number === 1) response.write(frames.slice(0, 3).join(''));
    else send(response, bytesOf(frames.slice(after).join('') + CHAT.end));
  });
  const response = await post(resumingFetch({ ...NO_DELAY, silence: 1500 }), url);
  assert.equal(await response.text(), frames.join('') + CHAT.end);
  assert.equal(calls.length, 3);
});

/** A service whose connections `how` leaves without an end: open, or broken and then refusing. */
function unending(t, how) {
  return serving(t, (_, response, number) => {
    if (how === 'resuming' && number > 1) return;
    stream(response);
    response.write(CHAT.frame(1, 'word'), () => {
      if (how !== 'reading') response.destroy();
    });
  });
}

for (const how of ['reading', 'waiting', 'resuming']) {
  test(`an abort amid ${how} ends it at once, with the signal's reason`, async (t) => {
    const leaving = new AbortController();
    const delay = () => {
      assert.notEqual(how, 'reading', 'an abort is no failure');
      if (how === 'waiting') setImmediate(() => leaving.abort());
      return how === 'waiting' ? 3_600_000 : 0;
    };
    const service = await unending(t, how);
    const response = await post(resumingFetch({ delay }), service.url, { signal: leaving.signal });
    const reader = response.body.getReader();
    await reader.read();
    const next = reader.read();
    while (how === 'resuming' && service.calls.length < 2) await new Promise(setImmediate);
    if (how !== 'waiting') leaving.abort();
    await assert.rejects(next, { name: 'AbortError' });
  });
}

test('a reader that cancels the body closes the connection', async (t) => {
  let closed;
  const { url } = await serving(t, (_, response) => {
    stream(response);
    closed = once(response, 'close');
    response.write(CHAT.frame(1, 'word'));
  });
  const response = await post(resumingFetch(NO_DELAY), url);
  const reader = response.body.getReader();
  await reader.read();
  const next = reader.read();
  await reader.cancel();
  assert.equal((await next).done, true);
  await closed;
});
