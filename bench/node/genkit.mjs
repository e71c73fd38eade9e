// Genkit's durable streaming as its documentation has it: a flow behind an Express handler with a FirestoreStreamManager.
// The flow asks the upstream and streams each token it reads.

import { expressHandler } from '@genkit-ai/express';
import { FirestoreStreamManager } from '@genkit-ai/firebase/beta';
import express from 'express';
import { initializeApp } from 'firebase-admin/app';
import { genkit, z } from 'genkit/beta';

import { tokens } from './upstream.mjs';

initializeApp({ projectId: process.env.GOOGLE_CLOUD_PROJECT });
const answer = genkit({}).defineFlow(
  { name: 'answer', inputSchema: z.any(), outputSchema: z.string(), streamSchema: z.string() },
  async (question, { sendChunk }) => {
    for await (const token of tokens(question)) sendChunk(token);
    return 'whole';
  },
);

const app = express();
app.use(express.json({ limit: '10mb' }));
app.post('/answer', expressHandler(answer, { streamManager: new FirestoreStreamManager({ collection: 'streams' }) }));
const server = app.listen(Number(process.env.PORT), '127.0.0.1', () => console.log(`ready ${server.address().port}`));
