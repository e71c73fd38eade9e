// Asks for an answer and follows it. A line for each change, and one for what it gave in the end.

import { terminate } from '@firebase/firestore';

import { firestoreOf, order, say } from './app.mjs';
import { ask, follow, stop } from './follow.mjs';

const db = firestoreOf(order.token);
let shown = 0;

const message = await follow(db, order.path, (text, known) => {
  say({ text, state: known?.state ?? null });
  shown += 1;
  // Both listeners have answered that there is nothing yet.
  if (shown === 2) ask(order.url, order.token, order.chat, order.id, order.body);
  if (known && order.stopAt !== null && text.length >= order.stopAt) {
    order.stopAt = null;
    stop(db, known);
  }
});
say({ message });
await terminate(db);
