// What an app asks for beside following: an answer, and its stop.

import { doc, serverTimestamp, updateDoc } from '@firebase/firestore';

/** Asks, and leaves at once. */
export async function ask({ url, token, chat, id, body }) {
  const headers = { 'Authorization': `Bearer ${token}`, 'X-Chat-Id': chat, 'X-Message-Id': id };
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { ...headers, 'Content-Type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true }),
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  await response.body.cancel();
}

export async function stop(db, message) {
  await updateDoc(doc(db, 'holdfastGenerations', message.generationId), { stopRequestedAt: serverTimestamp() });
}
