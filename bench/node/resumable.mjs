// resumable-stream as its documentation has it: POST /{id} makes the stream, GET /{id} resumes it from its beginning.

import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

import express from 'express';
import { createResumableStreamContext } from 'resumable-stream';

import { ask } from './upstream.mjs';

const streams = createResumableStreamContext({ waitUntil: null });
const app = express();
app.use(express.json({ limit: '10mb' }));

app.post('/:id', async (request, response) => {
  const upstream = await ask(request.body);
  await send(response, await streams.createNewResumableStream(request.params.id, () => upstream));
});

app.get('/:id', async (request, response) => {
  const stream = await streams.resumeExistingStream(request.params.id);
  if (stream) await send(response, stream);
  else response.status(stream === null ? 422 : 404).end();
});

async function send(response, stream) {
  response.writeHead(200, { 'Content-Type': 'text/event-stream' });
  response.flushHeaders();
  await pipeline(Readable.fromWeb(stream), response).catch(() => {}); // the client left; the stream goes on
}

const server = app.listen(Number(process.env.PORT), '127.0.0.1', () => console.log(`ready ${server.address().port}`));
