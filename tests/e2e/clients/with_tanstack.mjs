// TanStack AI.

import { chat, toolDefinition } from '@tanstack/ai';
import { openaiCompatibleText } from '@tanstack/ai-openai/compatible';

async function* heard({ url, token, question, demo, headers }, tools = []) {
  const adapter = openaiCompatibleText('demo', { baseURL: `${url}/v1`, apiKey: token, defaultHeaders: headers });
  const messages = [{ role: 'user', content: question }];
  for await (const event of chat({ adapter, messages, tools, modelOptions: { demo } })) {
    if (event.type === 'RUN_ERROR') throw new Error(event.message);
    yield event;
  }
}

export async function* stream(order) {
  for await (const event of heard(order)) {
    if (event.type === 'TEXT_MESSAGE_CONTENT') yield event.delta;
    if (event.type === 'RUN_FINISHED') yield { output: event.usage.completionTokens };
  }
}

export async function* loop(order) {
  const inputSchema = { type: 'object', properties: { text: { type: 'string' } }, required: ['text'] };
  const look_up = toolDefinition({ name: 'look_up', description: 'Looks up.', inputSchema }).server(
    ({ text }) => `found ${text.length}`,
  );
  let said = '';
  for await (const event of heard(order, [look_up])) {
    if (event.type === 'TEXT_MESSAGE_CONTENT') said += event.delta;
  }
  yield said;
}
