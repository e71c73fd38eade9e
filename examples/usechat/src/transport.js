// How a chat comes back, whatever became of the page, the tab or the network.
//
// What runs is asked for by GET, which the SDK does by itself, and is told again from its start. Where nothing runs,
// the question may have been answered meanwhile, or may never have arrived. So it is sent once more, under the key that
// it was sent with: the service then tells the answer that there is, and starts one only where there is none.
import { DefaultChatTransport, lastAssistantMessageIsCompleteWithToolCalls } from 'ai';

import { api, config, headers } from './service.js';
import { tools } from './tools.js';

/** The metadata of a request that is sent once more. */
export const AGAIN = 'again';

export class Transport extends DefaultChatTransport {
  constructor(chat, kept) {
    super({ api, headers, prepareSendMessagesRequest: (request) => this.prepare(request) });
    this.kept = kept;
    this.key = kept.read(chat).key; // of the request whose answer is shown
    this.returning = false; // whether the last request was to come back, rather than to ask
    this.onReturn = () => {};
  }

  prepare({ id, messages, headers, trigger, messageId, requestMetadata }) {
    const sent = requestMetadata === AGAIN ? this.kept.read(id) : { messages, key: crypto.randomUUID() };
    this.kept.save(id, sent.messages, sent.key); // before it is sent, so that a reload finds it
    this.key = sent.key;
    this.returning = false;
    const { options } = sent.messages.findLast((message) => message.role === 'user').metadata ?? {};
    return {
      headers: { ...headers, 'Idempotency-Key': sent.key },
      body: { id, messages: sent.messages, trigger, messageId, model: config.model, tools, options },
    };
  }

  async reconnectToStream(options) {
    this.returning = true;
    const stream = await super.reconnectToStream(options);
    if (!this.returning) {
      await stream?.cancel(); // something was asked meanwhile
      return null;
    }
    this.onReturn(stream !== null);
    return stream;
  }
}

/** Whether the answer is still being written, or was when the connection broke. */
export function isLive(message) {
  return message?.role === 'assistant' && (message.metadata?.state ?? 'streaming') === 'streaming';
}

/** The messages without the part of an answer that is live, since all of it is told again. */
export function settled(messages) {
  const last = messages.at(-1);
  if (!isLive(last)) return messages;
  const parts = last.parts.slice(0, Math.max(0, last.parts.findLastIndex((part) => part.type === 'step-start')));
  const earlier = { ...last, parts, metadata: { ...last.metadata, state: 'completed' } };
  return [...messages.slice(0, -1), ...(parts.length ? [earlier] : [])];
}

/** Whether it is the model's turn: after a question, or after the results of tools. */
export function isUnanswered(messages) {
  return messages.at(-1)?.role === 'user' || lastAssistantMessageIsCompleteWithToolCalls({ messages });
}
