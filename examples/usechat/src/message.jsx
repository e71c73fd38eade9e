// One message: its parts in their order, and for an answer its state.
import { isToolUIPart } from 'ai';

const STATES = {
  streaming: 'Writing',
  completed: 'Complete',
  stopped: 'Stopped',
  incomplete: 'Incomplete: it broke off',
  failed: 'Failed',
};

/** `again` asks for another answer, or is null where there can be none now. */
export function Message({ message, live, decide, again }) {
  const { id, role, parts, metadata = {} } = message;
  const shown = parts.map((part, at) => (
    <Part key={at} part={part} live={live && at === parts.length - 1} decide={decide} />
  ));
  if (role === 'user') return <li className="question"><h3 className="unseen">You asked</h3>{shown}</li>;
  const tokens = tokensOf(metadata.usage);
  return (
    <li>
      <article className="answer" data-id={id} data-state={metadata.state} aria-busy={live}>
        <h3 className="unseen">Answer</h3>
        {shown}
        <footer>
          <span className="state">{STATES[metadata.state]}</span>
          {tokens !== undefined && <span>{tokens.toLocaleString('en')} tokens</span>}
          {metadata.generationId && <span title={metadata.generationId}>{metadata.generationId.slice(0, 8)}</span>}
          {again && (
            <button type="button" onClick={() => again({ messageId: id })}>
              {['failed', 'incomplete'].includes(metadata.state) ? 'Try again' : 'Answer anew'}
            </button>
          )}
        </footer>
      </article>
    </li>
  );
}

function Part({ part, live, decide }) {
  if (isToolUIPart(part)) return <ToolCall part={part} decide={decide} />;
  switch (part.type) {
    case 'text':
      return <p className={live ? 'text live' : 'text'}>{part.text}</p>;
    case 'reasoning':
      return (
        <details className="reasoning" open={part.state === 'streaming'}>
          <summary>Reasoning</summary>
          <p className="text">{part.text}</p>
        </details>
      );
    case 'file':
      // A picture from elsewhere is a link: fetching it would tell its server what the answer says.
      if (part.url.startsWith('data:image/')) {
        return <img className="picture" src={part.url} alt={part.filename ?? 'Picture'} />;
      }
      return (
        <p className="file"><a href={part.url} download={part.filename ?? ''}>{part.filename ?? part.mediaType}</a></p>
      );
    case 'source-url':
      return <p className="source"><a href={part.url} rel="noreferrer" target="_blank">{part.title ?? part.url}</a></p>;
    default:
      return null; // a step's start
  }
}

function ToolCall({ part, decide }) {
  const name = part.type.slice('tool-'.length).replaceAll('_', ' ');
  const said = {
    'input-streaming': 'is being written',
    'input-available': 'is written',
    'approval-requested': 'waits for you',
    'output-available': 'done',
    'output-error': part.errorText,
  }[part.state];
  return (
    <section className="tool" data-state={part.state} aria-label={`Tool call: ${name}`}>
      <p><strong>{name}</strong> <span className="hint">{said}</span></p>
      <p className="text">{part.input?.text}</p>
      {part.state === 'approval-requested' && (
        <div className="choice">
          <button className="primary" type="button" onClick={() => decide(part, true)}>Allow</button>
          <button type="button" onClick={() => decide(part, false)}>Deny</button>
        </div>
      )}
    </section>
  );
}

/** How long an answer is. Each model API has a name of its own for that. */
function tokensOf(usage) {
  return usage?.completion_tokens ?? usage?.output_tokens ?? usage?.candidatesTokenCount;
}
