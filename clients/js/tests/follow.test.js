import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { mock, test } from 'node:test';

import { follow, HoldfastError } from 'holdfast-client';

import { chance } from './service.js';

const PATH = 'users/alice/chats/c1/messages/m1';
const HEAD = 'head';

/** Firestore as an app sees it: documents, whose listeners are told of each change. */
class Firestore {
  documents = new Map();
  listeners = new Set();

  sdk = {
    doc: (db, path) => ({ db, path }),
    collection: (db, path) => ({ db, path, inner: true }),
    getDoc: async ({ db, path }) => db.snapshot(path),
    onSnapshot: ({ db, path, inner }, next, failed) => {
      const listener = { path, failed, tell: () => next(inner ? { docs: db.below(path) } : db.snapshot(path)) };
      db.listeners.add(listener);
      queueMicrotask(() => db.listeners.has(listener) && listener.tell());
      return () => db.listeners.delete(listener);
    },
  };

  snapshot(path) {
    const fields = this.documents.get(path);
    const id = path.split('/').at(-1);
    return { id, exists: () => fields !== undefined, data: () => fields && { ...fields }, get: (name) => fields?.[name] };
  }

  below(path) {
    const inside = [...this.documents.keys()].filter((each) => each.startsWith(`${path}/`));
    return inside.sort().map((each) => this.snapshot(each));
  }

  /** Writes all of these, or deletes those that are null, in one commit. */
  commit(changes) {
    for (const [path, fields] of Object.entries(changes)) {
      if (fields === null) this.documents.delete(path);
      else this.documents.set(path, { ...this.documents.get(path), ...fields });
    }
    for (const { path, tell } of [...this.listeners]) {
      if (Object.keys(changes).some((each) => each === path || each.startsWith(`${path}/`))) tell();
    }
  }
}

const journal = (segments) =>
  Object.fromEntries(
    Object.entries(segments).map(([id, [first, last, text, attempt = 1]]) => [
      `${PATH}/holdfastJournal/${id}`,
      { first, last, text, attempt },
    ]),
  );
const queued = { role: 'assistant', state: 'queued', content: '', finishedAt: null, generationId: 'g1' };
const ended = (content, more = {}) => ({ [PATH]: { ...queued, state: 'completed', content, finishedAt: 1, ...more } });
const settled = () => new Promise(setImmediate);

/** Follows, and gives what was told: the texts, each once. */
function following(db, options = {}) {
  const texts = [];
  const onUpdate = ({ text }) => texts.at(-1) !== text && texts.push(text);
  return { texts, followed: follow(db.sdk, db, PATH, { onUpdate, ...options }) };
}

test('the text grows as the journal does, and the message is given once it has ended', async () => {
  const db = new Firestore();
  const states = [];
  const { texts, followed } = following(db, {
    onUpdate: ({ text, message }) => states.push([message?.state, text]),
  });
  await settled();
  db.commit({ [PATH]: queued, ...journal({ head: [1, 0, '', 0] }) });
  db.commit({ ...journal({ head: [1, 2, 'The sea '] }), [PATH]: { state: 'streaming' } });
  db.commit(journal({ 1: [1, 2, 'The sea '], head: [3, 3, 'is '] }));
  db.commit({ ...journal({ head: [3, 4, 'is wide.'] }), ...ended('The sea is wide.') });
  const message = await followed;
  assert.equal(message.content, 'The sea is wide.');
  assert.deepEqual([states[0], states.at(-1)], [[undefined, ''], ['completed', 'The sea is wide.']]);
  assert.ok(states.some(([state, text]) => state === 'streaming' && text === 'The sea is '));
  assert.deepEqual(texts, []);
  assert.equal(db.listeners.size, 0);
});

test('a journal that is heard of before its message is shown with it', async () => {
  const db = new Firestore();
  const shown = [];
  const { followed } = following(db, { onUpdate: ({ text, message }) => shown.push([message?.state, text]) });
  await settled();
  db.commit(journal({ head: [1, 2, 'The sea '] }));
  db.commit({ [PATH]: { ...queued, state: 'streaming' } });
  db.commit(ended('The sea '));
  await followed;
  assert.ok(shown.every(([state, text]) => state || text === ''));
  assert.ok(shown.some(([state, text]) => state === 'streaming' && text === 'The sea '));
});

const LARGE = { 3: [3, 3, 'L1 ', 2], '3.001': [3, 3, 'L2 ', 2], '3.002': [3, 3, 'L3 ', 2] };
const JOURNALS = {
  'an event of several documents': [{ 1: [1, 2, 'a '], ...LARGE, head: [4, 4, 'z', 2] }, 'a L1 L2 L3 z'],
  'one whose documents come before the head': [{ 1: [1, 2, 'a '], '3.001': LARGE['3.001'], head: [1, 2, 'a '] }, 'a '],
  'more documents of a lost attempt than of its successor': [
    { 1: [1, 2, 'a '], 3: LARGE[3], '3.001': LARGE['3.001'], '3.002': [3, 3, 'old', 1], head: [4, 3, '', 2] },
    'a L1 L2 ',
  ],
  'documents of a lost attempt where its successor has a small event': [
    { 1: [1, 2, 'a '], 3: [3, 9, 'b ', 2], '3.001': [3, 3, 'old', 1], '4.001': [4, 4, 'old', 1], head: [10, 10, 'z', 2] },
    'a b z',
  ],
  'documents of a lost attempt where its successor has the head': [
    { 1: [1, 2, 'a '], '3.001': [3, 3, 'old', 1], head: [3, 4, 'z', 2] },
    'a z',
  ],
  'segments from 9 to 10': [{ 1: [1, 8, 'a '], 9: [9, 9, 'b '], 10: [10, 11, 'c '], head: [12, 12, 'z'] }, 'a b c z'],
};

for (const [name, [segments, text]] of Object.entries(JOURNALS)) {
  test(`${name}: its text is that of the events`, async () => {
    const db = new Firestore();
    db.commit({ [PATH]: queued, ...journal(segments) });
    const { texts, followed } = following(db);
    await settled();
    assert.equal(texts.at(-1), text);
    db.commit(ended(text));
    await followed;
  });
}

test('a journal in any segments, with what lost attempts left, has the text of its events', async (t) => {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32));
  t.diagnostic(`seed ${seed}`);
  const random = chance(seed);
  const upTo = (count) => Math.floor(random() * count);
  for (let round = 0; round < 200; round += 1) {
    const segments = {};
    let [attempt, last, text, shown] = [1, 0, '', ''];
    for (let count = upTo(8); count >= 0; count -= 1) {
      const first = last + 1;
      if (random() < 0.5) {
        for (let seq = first; seq <= first + upTo(3); seq += 1) {
          for (let part = 1; part <= 1 + upTo(3); part += 1) segments[`${seq}.00${part}`] = [seq, seq, 'lost', attempt];
        }
        attempt += 1;
      }
      const parts = random() < 0.4 ? 1 + upTo(3) : 0;
      last = parts ? first : first + upTo(5);
      for (let part = 0; part <= parts; part += 1) {
        const id = part === 0 ? first : `${first}.00${part}`;
        segments[id] = [first, last, `${id} `, attempt];
        text += segments[id][2];
      }
      shown = text;
    }
    segments[HEAD] = [last + 1, last + 1, 'open', attempt];
    const db = new Firestore();
    db.commit({ [PATH]: queued, ...journal(segments) });
    const { texts, followed } = following(db);
    await settled();
    assert.equal(texts.at(-1), `${shown}open`, JSON.stringify(segments));
    db.commit(ended(''));
    await followed;
  }
});

test('what a device has kept of a journal, with a gap in it, is no text', async () => {
  const db = new Firestore();
  db.commit({ [PATH]: queued, ...journal({ head: [9, 9, 'end'] }) });
  const { texts, followed } = following(db);
  await settled();
  db.commit(journal({ 1: [1, 8, 'all to the '] }));
  db.commit({ [`${PATH}/holdfastJournal/1`]: null });
  assert.deepEqual(texts, ['', 'all to the end']);
  db.commit(ended(''));
  await followed;
});

test('texts beyond the message document are put where they belong', async () => {
  const db = new Firestore();
  const part = (field, text) => ({ field, text });
  db.commit({
    ...ended('a', { reasoning: 'r', toolCalls: [{ name: 't', arguments: 'x' }], parts: ['1-0', '1-1', '1-2', '1-3', '1-4', '1-5'] }),
    [`${PATH}/holdfastParts/1-0`]: part('content', 'b'),
    [`${PATH}/holdfastParts/1-1`]: part('content', 'c'),
    [`${PATH}/holdfastParts/1-2`]: part('toolCalls.0.arguments', 'y'),
    [`${PATH}/holdfastParts/1-3`]: part('reasoning', 's'),
    [`${PATH}/holdfastParts/1-4`]: part('gone.1.text', '?'),
    [`${PATH}/holdfastParts/1-5`]: part('toolCalls.0.gone', '?'),
  });
  const { content, reasoning, toolCalls } = await following(db).followed;
  assert.deepEqual([content, reasoning, toolCalls], ['abc', 'rs', [{ name: 't', arguments: 'xy' }]]);
});

test('a message that is deleted is an error', async () => {
  const db = new Firestore();
  db.commit({ [PATH]: queued });
  const { followed } = following(db);
  await settled();
  db.commit({ [PATH]: null });
  const error = await followed.catch((each) => each);
  assert.ok(error instanceof HoldfastError);
  assert.equal(error.code, 'deleted');
  assert.equal(db.listeners.size, 0);
});

for (const path of [PATH, `${PATH}/holdfastJournal`]) {
  test(`an error of the listener at ${path.split('/').at(-1)} is passed on`, async () => {
    const db = new Firestore();
    const { followed } = following(db);
    const denied = Object.assign(new Error('denied'), { code: 'permission-denied' });
    [...db.listeners].find((listener) => listener.path === path).failed(denied);
    await assert.rejects(followed, denied);
    assert.equal(db.listeners.size, 0);
  });
}

test("an error of onUpdate is the app's", async () => {
  const db = new Firestore();
  const wrong = new TypeError('wrong');
  await assert.rejects(following(db, { onUpdate: () => { throw wrong; } }).followed, wrong);
  assert.equal(db.listeners.size, 0);
});

test("an abort ends the listening, with the signal's reason", async () => {
  const db = new Firestore();
  const leaving = new AbortController();
  const { followed } = following(db, { signal: leaving.signal });
  await settled();
  assert.equal(db.listeners.size, 2);
  leaving.abort();
  await assert.rejects(followed, { name: 'AbortError' });
  assert.equal(db.listeners.size, 0);
  assert.equal(getEventListeners(leaving.signal, 'abort').length, 0);
  await assert.rejects(following(db, { signal: leaving.signal }).followed, { name: 'AbortError' });
});

test('an answer that does not change is told of once a minute, until it does', async () => {
  mock.timers.enable({ apis: ['setInterval'] });
  try {
    const db = new Firestore();
    const stalled = [];
    const { followed } = following(db, { onStalled: ({ generationId }) => stalled.push(generationId) });
    await settled();
    mock.timers.tick(60_000);
    assert.deepEqual(stalled, []); // nobody has asked yet
    db.commit({ [PATH]: queued, ...journal({ head: [1, 0, '', 0] }) });
    mock.timers.tick(59_999);
    db.commit(journal({ head: [1, 1, 'The '] }));
    mock.timers.tick(59_999);
    assert.deepEqual(stalled, []);
    mock.timers.tick(1);
    mock.timers.tick(60_000);
    assert.deepEqual(stalled, ['g1', 'g1']);
    db.commit(ended('The '));
    await followed;
    mock.timers.tick(600_000);
    assert.equal(stalled.length, 2);
  } finally {
    mock.timers.reset();
  }
});
