import { collection, doc, getDoc, onSnapshot, orderBy, query, serverTimestamp, updateDoc } from '@firebase/firestore';

/** Asks, and leaves at once: the answer goes on, and is followed at the message's path. */
export async function ask(url, token, chat, id, body) {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: {
      'Authorization': `Bearer ${token}`,
      'Content-Type': 'application/json',
      'X-Chat-Id': chat,
      'X-Message-Id': id,
    },
    body: JSON.stringify({ ...body, stream: true }),
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  await response.body.cancel();
}

/** Calls `show(text, message)` at each change, and gives the message, its text whole, when the answer has ended. */
export async function follow(db, path, show) {
  let message;
  let text = '';
  const stops = [];
  try {
    await new Promise((ended, failed) => {
      const onMessage = (snapshot) => {
        if (message && !snapshot.exists()) failed(new Error('The message was deleted.'));
        message = snapshot.data();
        show(text, message);
        if (message?.finishedAt) ended();
      };
      const onJournal = (snapshot) => {
        const head = snapshot.docs.find((segment) => segment.id === 'head');
        // A very large event is saved in several documents, which count once the head is past them.
        const saved = snapshot.docs.filter((segment) => segment.get('first') <= head?.get('last'));
        text = saved.map((segment) => segment.get('text')).join('');
        show(text, message);
      };
      stops.push(onSnapshot(doc(db, path), onMessage, failed));
      stops.push(onSnapshot(query(collection(db, path, 'holdfastJournal'), orderBy('first')), onJournal, failed));
    });
  } finally {
    stops.forEach((stop) => stop());
  }
  return { ...message, content: message.content + (await further(db, path, message, 'content')) };
}

/** What of one of the message's texts lies beyond the message's own document. */
async function further(db, path, message, field) {
  const parts = await Promise.all(message.parts.map((id) => getDoc(doc(db, path, 'holdfastParts', id))));
  return parts.filter((part) => part.get('field') === field).map((part) => part.get('text')).join('');
}

/** Asks for a stop. What there is of the answer is saved. */
export async function stop(db, message) {
  await updateDoc(doc(db, 'holdfastGenerations', message.generationId), { stopRequestedAt: serverTimestamp() });
}
