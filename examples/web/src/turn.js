// A question and the answer so far. Plain data, because it is stored as JSON.

export const ENDED = ['completed', 'stopped', 'incomplete', 'failed'];

/**
 * A new question, which waits for the answers before it in its chat, in whichever tab. `request` is repeated unchanged until
 * the service has sent the answer's id.
 */
export function asked(chat, question, request) {
  const id = crypto.randomUUID();
  return { ...blank(id, chat), question, request: { ...request, chatId: chat, messageId: id, turn: 'queue' } };
}

/** An answer from another page or device, which is resumed from its beginning. */
export function found(generation) {
  const turn = blank(generation.messageId, generation.chatId ?? generation.id);
  return { ...turn, generation: generation.id, at: Date.parse(generation.createdAt) };
}

function blank(id, chat) {
  return {
    id,
    chat,
    at: Date.now(),
    question: null,
    request: null,
    generation: null,
    state: 'queued',
    waits: false, // whether the service says that no worker has it yet
    reason: null,
    error: null,
    seq: 0, // the number of the last event whose text is in `text`: the cursor
    text: '',
    seams: [], // the positions in `text` at which it was resumed
  };
}

export function isLive(turn) {
  return !ENDED.includes(turn.state) && turn.error === null;
}

/** The conversation so far, in the model's format. */
export function messages(turns, question) {
  const said = turns.filter((turn) => turn.question !== null && turn.text !== '');
  return [
    ...said.flatMap((turn) => [
      { role: 'user', content: turn.question },
      { role: 'assistant', content: turn.text },
    ]),
    { role: 'user', content: question },
  ];
}
