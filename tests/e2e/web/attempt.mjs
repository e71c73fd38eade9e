// Tries what it is told to, as whom it is told to be. A line for each: `ok`, or the code of the error.

import * as firestore from '@firebase/firestore';

import { firestoreOf, order, say } from './app.mjs';

const actions = {
  get: (db, path) => firestore.getDocFromServer(firestore.doc(db, path)),
  list: (db, path) => firestore.getDocsFromServer(firestore.collection(db, path)),
  ordered: (db, path) => firestore.getDocsFromServer(firestore.query(firestore.collection(db, path), firestore.orderBy('first'))),
  owned: (db, path, owner) => firestore.getDocsFromServer(firestore.query(firestore.collection(db, path), firestore.where('owner', '==', owner))),
  group: (db, path) => firestore.getDocsFromServer(firestore.collectionGroup(db, path)),
  listen: (db, path) => listened(firestore.doc(db, path)),
  follow: (db, path) => listened(firestore.collection(db, path)),
  set: (db, path, data) => firestore.setDoc(firestore.doc(db, path), data),
  merge: (db, path, data) => firestore.setDoc(firestore.doc(db, path), data, { merge: true }),
  update: (db, path, data) => firestore.updateDoc(firestore.doc(db, path), data),
  delete: (db, path) => firestore.deleteDoc(firestore.doc(db, path)),
};

function listened(what) {
  return new Promise((heard, failed) => {
    const stop = firestore.onSnapshot(what, (snapshot) => { stop(); heard(snapshot); }, failed);
  });
}

/** The test's words for what JSON has none for. */
function value(given) {
  if (given === null || typeof given !== 'object') return given;
  if (given.$ === 'now') return firestore.serverTimestamp();
  if (given.$ === 'none') return firestore.deleteField();
  if (given.$ === 'seconds') return firestore.Timestamp.fromMillis(Date.now() + 1000 * given.from);
  return Object.fromEntries(Object.entries(given).map(([key, each]) => [key, value(each)]));
}

const apps = new Map();
for (const { as, action, path, data } of order.attempts) {
  if (!apps.has(as)) apps.set(as, firestoreOf(as));
  try {
    await actions[action](apps.get(as), path, value(data));
    say('ok');
  } catch (error) {
    say(error.code ?? String(error));
  }
}
await Promise.all([...apps.values()].map(firestore.terminate));
