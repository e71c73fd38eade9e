// OpenAI's SDK, with its `runTools`.

import OpenAI from 'openai';

function asked({ url, token, question, demo, headers }) {
  const { completions } = new OpenAI({ baseURL: `${url}/v1`, apiKey: token, defaultHeaders: headers }).chat;
  const body = { model: 'demo', messages: [{ role: 'user', content: question }], demo, stream: true };
  return { completions, body };
}

export async function* stream(order) {
  const { completions, body } = asked(order);
  for await (const chunk of await completions.create({ ...body, stream_options: { include_usage: true } })) {
    if (chunk.usage) yield { output: chunk.usage.completion_tokens };
    else yield chunk.choices[0].delta.content ?? '';
  }
}

export async function* loop(order) {
  const { completions, body } = asked(order);
  const look_up = {
    name: 'look_up',
    parameters: { type: 'object', properties: { text: { type: 'string' } } },
    parse: JSON.parse,
    function: ({ text }) => `found ${text.length}`,
  };
  yield await completions.runTools({ ...body, tools: [{ type: 'function', function: look_up }] }).finalContent();
}
