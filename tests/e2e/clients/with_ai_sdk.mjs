// The AI SDK.

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { isStepCount, jsonSchema, streamText, tool } from 'ai';

function asked({ url, token, question, demo, headers }) {
  const provider = createOpenAICompatible({ name: 'holdfast', baseURL: `${url}/v1`, apiKey: token, includeUsage: true });
  return {
    model: provider('demo'),
    prompt: question,
    headers,
    providerOptions: { holdfast: { demo } },
    onError: () => {}, // it is in the stream
  };
}

export async function* stream(order) {
  for await (const part of streamText(asked(order)).fullStream) {
    if (part.type === 'error') throw part.error;
    if (part.type === 'text-delta') yield part.text;
    if (part.type === 'finish') yield { output: part.totalUsage.outputTokens };
  }
}

export async function* loop(order) {
  const look_up = tool({
    inputSchema: jsonSchema({ type: 'object', properties: { text: { type: 'string' } } }),
    execute: ({ text }) => `found ${text.length}`,
  });
  yield await streamText({ ...asked(order), tools: { look_up }, stopWhen: isStepCount(4) }).text;
}
