// One chat: `useChat`, and what is to be done when the page, the tab or the network comes back.
import { useEffect, useState, useSyncExternalStore } from 'react';
import { useChat } from '@ai-sdk/react';
import { isToolUIPart, lastAssistantMessageIsCompleteWithToolCalls } from 'ai';

import { Composer } from './composer.jsx';
import { Message } from './message.jsx';
import { stop } from './service.js';
import { run } from './tools.js';
import { AGAIN, isLive, isUnanswered, settled, Transport } from './transport.js';

const RETRY_MS = 1_000;
const FRAME_MS = 50; // the page is drawn at most this often, because tokens arrive faster

export function Conversation({ id, kept }) {
  const [transport] = useState(() => new Transport(id, kept));
  const [initial] = useState(() => kept.read(id).messages);
  const [due, setDue] = useState(false); // the question is to be sent once more
  const [problem, setProblem] = useState('');
  const online = useOnline();
  const chat = useChat({
    id,
    transport,
    messages: initial,
    resume: true,
    throttle: FRAME_MS,
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
    onFinish({ message, messages }) {
      if (isLive(message) || kept.read(id).key !== transport.key) return;
      try {
        kept.save(id, messages, transport.key);
      } catch {
        // The storage is full. The question is in it, and the service has the answer.
      }
    },
  });
  const { messages, status, error, setMessages, sendMessage, resumeStream, regenerate, addToolOutput } = chat;
  const last = messages.at(-1);
  const busy = status === 'submitted' || status === 'streaming';
  const cut = status === 'error' && (error instanceof TypeError || isLive(last));
  const waiting = last?.role === 'assistant' && last.parts.some(isWaiting);
  const unanswered = isUnanswered(messages);

  transport.onReturn = (runs) => {
    setMessages(settled);
    setDue(!runs && isUnanswered(kept.read(id).messages));
  };
  useEffect(() => {
    if (!due || status !== 'ready') return;
    setDue(false);
    sendMessage(undefined, { metadata: AGAIN });
  }, [due, status]);

  // A broken connection is a new one soon.
  useEffect(() => {
    if (!cut || !online) return undefined;
    const timer = setTimeout(resumeStream, RETRY_MS);
    return () => clearTimeout(timer);
  }, [cut, online, error]);

  // Without a network the page hangs up, rather than wait for what will never come.
  useEffect(() => {
    if (online) return undefined;
    chat.stop();
    return () => void resumeStream();
  }, [online]);

  // Another tab has sent something: show it, and follow its answer.
  useEffect(() => {
    if (busy) return undefined;
    const look = () => {
      const there = kept.read(id);
      if (there.key === transport.key) return;
      transport.key = there.key;
      setMessages(there.messages);
      resumeStream();
    };
    look();
    addEventListener('storage', look);
    return () => removeEventListener('storage', look);
  }, [busy]);

  useFollowing(messages);

  async function end() {
    setProblem('');
    await stop(id).catch((why) => setProblem(`It could not be stopped: ${why.message}`));
  }

  function decide(part, allowed) {
    const call = { tool: part.type.slice('tool-'.length), toolCallId: part.toolCallId };
    const without = (errorText) => addToolOutput({ ...call, state: 'output-error', errorText });
    if (!allowed) return without('The user denied this tool call.');
    try {
      return addToolOutput({ ...call, output: run(call.tool, part.input, kept) });
    } catch (why) {
      return without(why.message);
    }
  }

  const failed = status === 'error' && !cut ? error.message : problem;
  const state = stateOf({ status, cut, online, waiting });
  return (
    <>
      <p className="unseen" role="status">{state}</p>
      <main className="chat" data-status={status}>
        <h2 className="unseen">Conversation</h2>
        {messages.length === 0 && <p className="empty">Ask something, and reload the page while it answers.</p>}
        <ol>
          {messages.map((message) => (
            <Message key={message.id} message={message} live={busy && message === last} decide={decide}
              again={message === last && !busy && !waiting && !unanswered && online ? regenerate : null} />
          ))}
        </ol>
        {status === 'submitted' && last?.role === 'user' && <p className="hint thinking">Waiting for the first word</p>}
        {failed && <p className="error" role="alert">{failed}</p>}
        {status === 'error' && !cut && (transport.returning || unanswered) && (
          <button type="button" onClick={() => (transport.returning ? resumeStream() : sendMessage())}>
            Try again
          </button>
        )}
      </main>
      <Composer busy={busy} blocked={waiting || cut || !online} note={noteOf(cut, online)} send={sendMessage}
        stop={end} />
    </>
  );
}

/** Whether a part is a call that the user has to decide on. */
function isWaiting(part) {
  return isToolUIPart(part) && part.state === 'approval-requested';
}

function stateOf({ status, cut, online, waiting }) {
  if (!online) return 'There is no network.';
  if (cut) return 'Connection lost, trying again.';
  if (waiting) return 'The model asks for your approval.';
  return { submitted: 'Waiting for the first word.', streaming: 'Writing.', error: 'Failed.', ready: 'Ready.' }[status];
}

function noteOf(cut, online) {
  if (!online) return 'There is no network. The answer goes on being written.';
  return cut ? 'The connection is lost. Trying again.' : '';
}

function useOnline() {
  const subscribe = (changed) => {
    addEventListener('online', changed);
    addEventListener('offline', changed);
    return () => {
      removeEventListener('online', changed);
      removeEventListener('offline', changed);
    };
  };
  return useSyncExternalStore(subscribe, () => navigator.onLine);
}

/** Keeps the end of the page in view while the text grows, unless the user has scrolled away from it. */
function useFollowing(messages) {
  const [following, setFollowing] = useState(true);
  useEffect(() => {
    const page = document.documentElement;
    const look = () => setFollowing(page.scrollHeight - page.clientHeight - page.scrollTop < 160);
    addEventListener('scroll', look);
    return () => removeEventListener('scroll', look);
  }, []);
  useEffect(() => {
    const follow = () => following && scrollTo(0, document.documentElement.scrollHeight);
    follow();
    addEventListener('resize', follow); // a phone was rotated, or its keyboard opened
    return () => removeEventListener('resize', follow);
  }, [messages, following]);
}
