// How apps in TypeScript use the client package: checked, and not run.

import Anthropic from '@anthropic-ai/sdk';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { getFunctions, httpsCallableFromURL } from '@firebase/functions';
import { answer, HoldfastError, resumingFetch, type AnswerResult } from 'holdfast-client';
import OpenAI from 'openai';

const fetch = resumingFetch({ retries: 3, delay: (failures) => 100 * failures, headers: async () => ({ Authorization: '' }) });
export const clients = [
  new OpenAI({ apiKey: '', fetch }),
  new Anthropic({ apiKey: '', fetch }),
  createOpenAICompatible({ name: 'holdfast', baseURL: '', fetch }),
];

const call = httpsCallableFromURL(getFunctions(), 'https://service');
export async function asked(signal: AbortSignal): Promise<AnswerResult['state'] | undefined> {
  try {
    const { state } = await answer(call, { model: 'demo' }, { signal, onUpdate: ({ text, seq }) => text.at(seq) });
    return state;
  } catch (error) {
    if (error instanceof HoldfastError && error.code === 'refused') return undefined;
    throw error;
  }
}

// @ts-expect-error: milliseconds are a number
resumingFetch({ silence: '45 s' });
// @ts-expect-error: not a callable
void answer(getFunctions(), { model: 'demo' });
