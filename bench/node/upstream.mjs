// The upstream as both peers call it.

export async function ask(question) {
  const response = await fetch(`${process.env.UPSTREAM_URL}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(question),
  });
  if (!response.ok) throw new Error(`the upstream said ${response.status}`);
  return response.body.pipeThrough(new TextDecoderStream());
}

/** The text of each event that has some. */
export async function* tokens(question) {
  let rest = '';
  for await (const piece of await ask(question)) {
    const events = (rest + piece).split('\n\n');
    rest = events.pop();
    for (const event of events) {
      if (event === 'data: [DONE]') return;
      const said = JSON.parse(event.slice('data: '.length)).choices[0]?.delta.content;
      if (said) yield said;
    }
  }
  throw new Error('the upstream broke off');
}
