// `useChat`'s own state and transport, in the version that the order names, without a page around it.

import { text } from 'node:stream/consumers';

export const order = JSON.parse(await text(process.stdin));

const { Chat } = await import(`chat${order.version}`);
export const sdk = await import(`ai${order.version}`);

export function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

/** A chat as an app makes it. `more` are further options of `Chat`'s, `body` what the transport adds to each request. */
export function chatOf({ id = order.chat, messages = [], body = order.body, ...more } = {}) {
  const transport = new sdk.DefaultChatTransport({
    api: `${order.url}/api/chat`,
    headers: async () => ({ Authorization: `Bearer ${order.token}` }),
    body,
  });
  return new Chat({ id, messages, transport, onError() {}, ...more });
}

/** The answer to `order.what` goes no further than so many tokens until it is let go: what is done amid it is. */
export async function hold(at) {
  const body = JSON.stringify({ text: order.what, at });
  const response = await fetch(`${order.upstream}/demo/hold`, { method: 'POST', body });
  if (!response.ok) throw new Error(await response.text());
}

export async function letGo() {
  await fetch(`${order.upstream}/demo/hold`, { method: 'DELETE' });
}

export const textOf = (message) => message.parts.filter((part) => part.type === 'text').map((part) => part.text).join('');

/** Waits until `met` is true, at most half a minute. */
export async function until(met) {
  for (const end = Date.now() + 30_000; !met(); ) {
    if (Date.now() > end) throw new Error('waited in vain');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
