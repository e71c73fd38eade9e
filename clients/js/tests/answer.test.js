import assert from 'node:assert/strict';
import { test } from 'node:test';

import { answer, HoldfastError } from 'holdfast-client';

const NO_DELAY = { delay: () => 0 };
const ANSWER = ['The ', 'sea ', 'is ', '🌊 ', 'wide.'];
const START = { type: 'start', id: 'g1', chatId: null, messageId: 'g1' };
const HEARTBEAT = { type: 'heartbeat' };
const NEVER = new Promise(() => {});

const event = (seq) => ({ seq, delta: ANSWER[seq - 1], event: { choices: [] } });
const result = (state = 'completed', seq = ANSWER.length) => ({ id: 'g1', state, seq, content: ANSWER.slice(0, seq).join('') });
const refusal = (code, details) => Object.assign(new Error(code), { code: `functions/${code}`, details });

/**
 * A callable as Firebase's SDK makes it. For each call `script(request)` gives the messages, and in the end a result, an
 * error, or nothing: a connection that breaks off leaves `data` pending.
 */
function callableOf(script) {
  const calls = [];
  const stream = async (request, { signal } = {}) => {
    calls.push(request);
    const { messages = [], end, hangs = false } = script(request, calls.length);
    const failed = end instanceof Error;
    const data = failed ? Promise.reject(end) : end ? Promise.resolve(end) : NEVER;
    async function* told() {
      for (const message of messages) yield message;
      if (hangs) await new Promise((_, reject) => signal.addEventListener('abort', () => reject(refusal('cancelled'))));
      if (failed) throw end;
    }
    return { stream: told(), data };
  };
  return Object.assign(async () => assert.fail('not unary'), { stream, calls });
}

/** The rest of the answer after what is asked for, `count` events of it, and then `end`. */
function rest({ after = 0 }, count = ANSWER.length, end = undefined) {
  const events = ANSWER.map((_, at) => event(at + 1)).slice(after, after + count);
  return { messages: [START, HEARTBEAT, ...events], end };
}

test('an answer is told as it grows, and then given', async () => {
  const callable = callableOf((request) => rest(request, 9, result()));
  const updates = [];
  const given = await answer(callable, { model: 'demo' }, { onUpdate: (update) => updates.push(update) });
  assert.deepEqual(given, result());
  assert.deepEqual(updates[0], { id: 'g1', seq: 0, delta: '', text: '' });
  assert.deepEqual(updates[2], { id: 'g1', seq: 2, delta: 'sea ', text: 'The sea ', event: { choices: [] } });
  assert.deepEqual(updates.map(({ seq }) => seq), [0, 1, 2, 3, 4, 5]);
});

const BREAKS = {
  'ends without a result': () => undefined,
  'ends with an error of the connection': () => refusal('internal'),
  'ends as unavailable': () => refusal('unavailable', { code: 'unavailable' }),
};

for (const [how, end] of Object.entries(BREAKS)) {
  test(`a connection that ${how} is gone on with after the last event`, async () => {
    const callable = callableOf((request, number) => rest(request, 2, number < 3 ? end() : result()));
    const updates = [];
    const broken = [];
    const given = await answer(callable, { model: 'demo', idempotencyKey: 'k' }, {
      ...NO_DELAY,
      retries: 1,
      onUpdate: (update) => updates.push(update),
      onBreak: (error, failures) => broken.push([error instanceof Error, failures]),
    });
    assert.equal(given.state, 'completed');
    assert.equal(updates.at(-1).text, ANSWER.join(''));
    assert.deepEqual(callable.calls, [
      { model: 'demo', idempotencyKey: 'k' },
      { resume: 'g1', after: 2 },
      { resume: 'g1', after: 4 },
    ]);
    assert.deepEqual(broken, [[true, 1], [true, 1]]);
  });
}

test('what comes again is not told again', async () => {
  const callable = callableOf((_, number) => rest({}, number === 1 ? 3 : 9, number === 1 ? undefined : result()));
  let text = '';
  await answer(callable, { model: 'demo' }, { ...NO_DELAY, onUpdate: ({ delta }) => (text += delta) });
  assert.equal(text, ANSWER.join(''));
});

test('asking again before the answer has an id is the same request, with a key', async () => {
  const callable = callableOf((request, number) => (number < 3 ? {} : rest(request, 9, result())));
  await answer(callable, { model: 'demo' }, NO_DELAY);
  const [first, second, third] = callable.calls;
  assert.match(first.idempotencyKey, /^[0-9a-f]{32}$/);
  assert.deepEqual([second, third], [first, first]);
});

test('a response that has lasted as long as it may is followed by the next one at once', async () => {
  const callable = callableOf((request, number) => rest(request, 2, number < 3 ? result('streaming', 2 * number) : result()));
  const options = { retries: 0, delay: () => assert.fail('nothing failed'), onBreak: () => assert.fail('nothing broke') };
  assert.equal((await answer(callable, { model: 'demo' }, options)).state, 'completed');
  assert.equal(callable.calls.length, 3);
});

test('an app that has kept text and cursor goes on there', async () => {
  const callable = callableOf((request) => rest(request, 9, result()));
  const texts = [];
  const kept = { text: 'The sea ', onUpdate: ({ text }) => texts.push(text) };
  await answer(callable, { resume: 'g1', after: 2 }, kept);
  assert.deepEqual(callable.calls, [{ resume: 'g1', after: 2 }]);
  assert.deepEqual([texts[0], texts.at(-1)], ['The sea ', ANSWER.join('')]);
});

const REFUSALS = {
  'a refused request': refusal('invalid-argument', { code: 'invalid_request' }),
  'a user with too many answers': refusal('resource-exhausted', { code: 'too_many_generations' }),
  'an answer that failed': refusal('unavailable', { code: 'overloaded', state: 'failed' }),
};

for (const [name, error] of Object.entries(REFUSALS)) {
  test(`${name} is the SDK's error, at once`, async () => {
    const callable = callableOf(() => ({ end: error }));
    await assert.rejects(answer(callable, { model: 'demo' }, NO_DELAY), error);
    assert.equal(callable.calls.length, 1);
  });
}

test('a user with too many open streams is let in again once the broken one is gone', async () => {
  const full = refusal('resource-exhausted', { code: 'too_many_viewers' });
  const callable = callableOf((request, number) => (number === 2 ? { end: full } : rest(request, 3, number > 2 && result())));
  assert.equal((await answer(callable, { model: 'demo' }, NO_DELAY)).state, 'completed');
});

test('after so many failures in a row it gives up, and says why', async () => {
  const lost = refusal('internal');
  const failures = [];
  const callable = callableOf((request, number) => (number === 1 ? rest(request, 3) : { end: lost }));
  const told = (_, failed) => failures.push(failed);
  const error = await answer(callable, { model: 'demo' }, { ...NO_DELAY, retries: 3, onBreak: told }).catch((each) => each);
  assert.ok(error instanceof HoldfastError);
  assert.equal(error.code, 'connection_lost');
  assert.equal(error.cause, lost);
  assert.deepEqual(failures, [1, 2, 3]);
});

test('a connection that falls silent is broken', async () => {
  const callable = callableOf((request, number) => ({ ...rest(request, 3, number > 1 && result()), hangs: number === 1 }));
  let why;
  const told = { silence: 20, onBreak: (error) => (why = error) };
  assert.equal((await answer(callable, { model: 'demo' }, { ...NO_DELAY, ...told })).state, 'completed');
  assert.equal(why.message, 'Nothing came for 20 ms.');
});

for (const amid of ['a stream', 'a break', 'a pause', 'nothing yet']) {
  test(`an abort amid ${amid} ends it at once, with the signal's reason`, async () => {
    const leaving = new AbortController();
    const reason = new Error('left');
    let broken = 0;
    const callable = callableOf((request) => ({ ...rest(request, 3), hangs: amid === 'a stream' }));
    const asking = answer(callable, { model: 'demo' }, {
      signal: leaving.signal,
      delay: () => 3_600_000,
      onUpdate: ({ seq }) => amid === 'a stream' && seq === 3 && setImmediate(() => leaving.abort(reason)),
      onBreak: () => {
        broken += 1;
        if (amid === 'a break') leaving.abort(reason);
        setImmediate(() => leaving.abort(reason));
      },
    });
    if (amid === 'nothing yet') leaving.abort(reason);
    await assert.rejects(asking, reason);
    assert.equal(broken, amid === 'a pause' || amid === 'a break' ? 1 : 0);
    assert.ok(callable.calls.length <= 1);
  });
}

for (const name of ['onUpdate', 'onBreak']) {
  test(`an error of ${name} is the app's, and hangs up`, async () => {
    let signal;
    const callable = callableOf((request) => rest(request, 2));
    const spied = { stream: (data, options) => callable.stream(data, ({ signal } = options)) };
    const wrong = new TypeError('wrong');
    const told = { [name]: () => { throw wrong; } };
    await assert.rejects(answer(spied, { model: 'demo' }, { ...NO_DELAY, ...told }), wrong);
    assert.equal(callable.calls.length, 1);
    assert.ok(signal.aborted);
  });
}

test('an SDK without streams is named', async () => {
  await assert.rejects(answer(async () => {}, {}), { name: 'TypeError', message: /stream\(\)/ });
});
