// What a page does with the client package: bundled for test_client_package.py, and called in Chromium.

import { initializeApp } from '@firebase/app';
import * as firestore from '@firebase/firestore';
import { follow, resumingFetch } from 'holdfast-client';

const headersOf = ({ token, chat, id }) => ({
  'Authorization': `Bearer ${token}`,
  'Content-Type': 'application/json',
  'X-Chat-Id': chat,
  'X-Message-Id': id,
});

/** The text of an answer's stream. */
globalThis.streamed = async ({ url, body, resumes, ...asked }) => {
  const fetch = resumes ? resumingFetch() : globalThis.fetch;
  const init = { method: 'POST', headers: headersOf(asked), body: JSON.stringify({ ...body, stream: true }) };
  try {
    const whole = await (await fetch(`${url}/v1/chat/completions`, init)).text();
    const lines = whole.split('\n').filter((line) => line.startsWith('data: {'));
    const chunks = lines.map((line) => JSON.parse(line.slice('data: '.length)));
    return { text: chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join(''), done: whole.endsWith('[DONE]\n\n') };
  } catch (error) {
    return { error: error.name };
  }
};

/** The texts that a listener is told, and the message in the end. It asks once both listeners have answered. */
globalThis.followed = async ({ url, token, project, host, port, path, body, ...asked }) => {
  const db = firestore.getFirestore(initializeApp({ projectId: project, apiKey: 'none' }));
  firestore.connectFirestoreEmulator(db, host, port, { mockUserToken: token });
  const texts = [];
  const onUpdate = ({ text }) => {
    texts.push(text);
    if (texts.length === 2) {
      const init = { method: 'POST', headers: headersOf({ token, ...asked }), body: JSON.stringify({ ...body, stream: true }) };
      fetch(`${url}/v1/chat/completions`, init).then((response) => response.body.cancel());
    }
  };
  const { content, state } = await follow(firestore, db, path, { onUpdate });
  return { texts, content, state };
};
