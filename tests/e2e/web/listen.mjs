// Asks for an answer and follows it. A line for each change, and one for what it gave in the end.

import * as firestore from '@firebase/firestore';
import { follow } from 'holdfast-client';

import { firestoreOf, order, say } from './app.mjs';
import { ask, stop } from './asking.mjs';

const db = firestoreOf(order.token);
let shown = 0;

const message = await follow(firestore, db, order.path, {
  onUpdate: ({ text, message: known }) => {
    say({ text, state: known?.state ?? null });
    shown += 1;
    // Both listeners have answered that there is nothing yet.
    if (shown === 2) ask(order);
    if (known && order.stopAt !== null && text.length >= order.stopAt) {
      order.stopAt = null;
      stop(db, known);
    }
  },
});
say({ message });
await firestore.terminate(db);
