import assert from 'node:assert/strict';
import { mock, test } from 'node:test';

import { Patience } from '../src/patience.js';

/** How long it waits after so many failures, where the service asked for so many seconds. */
async function waits(failures, asked) {
  mock.timers.enable({ apis: ['setTimeout'] });
  try {
    const patience = new Patience({});
    for (let count = 0; count < failures; count += 1) patience.failed(new Error());
    let over = false;
    patience.wait(undefined, asked).then(() => (over = true));
    let ms = 0;
    for (; !over; ms += 1) {
      mock.timers.tick(1);
      await Promise.resolve();
    }
    return ms;
  } finally {
    mock.timers.reset();
  }
}

test('pauses double from half a second to eight, less up to a half', async () => {
  for (const [failures, longest] of [[1, 500], [2, 1_000], [3, 2_000], [5, 8_000], [10, 8_000]]) {
    const ms = await waits(failures);
    assert.ok(ms >= longest / 2 - 1 && ms <= longest + 2, `${failures}: ${ms}`);
  }
});

test('what the service asks for is waited for, up to a minute', async () => {
  assert.equal(Math.round((await waits(1, 20)) / 100), 200);
  assert.equal(Math.round((await waits(1, 3_600)) / 100), 600);
  assert.ok((await waits(1, NaN)) <= 502);
});

test('the default is ten failures in a row', () => {
  const patience = new Patience({});
  for (let count = 0; count < 10; count += 1) patience.failed(new Error());
  assert.throws(() => patience.failed(new Error()), { code: 'connection_lost' });
});
