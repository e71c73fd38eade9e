// What both scripts need: the order that the test writes to stdin, and Firestore as one user's app has it.

import { text } from 'node:stream/consumers';

import { initializeApp } from '@firebase/app';
import { connectFirestoreEmulator, getFirestore, setLogLevel } from '@firebase/firestore';

setLogLevel('silent');

export const order = JSON.parse(await text(process.stdin));

/** Firestore on the local stack, for the user whose ID token it is; with null, for nobody. */
export function firestoreOf(token) {
  const db = getFirestore(initializeApp({ projectId: order.project, apiKey: 'none' }, `app of ${token}`));
  connectFirestoreEmulator(db, order.host, order.port, token === null ? {} : { mockUserToken: token });
  return db;
}

export function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}
