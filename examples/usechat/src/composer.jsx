// Asking: a text, files, and what the demo upstream is to do.
import { useRef } from 'react';

import { config } from './service.js';

const FILES_BYTES = 1 << 20; // all that is sent is kept in local storage, which is small

// What the local stack's demo upstream can play. A fault happens once, so that another try succeeds.
const DEMO = {
  answers: {},
  'thinks first': { reasoning: 60 },
  'wants to save a note': { tool_calls: 1 },
  'breaks off': { fault: { kind: 'break', at: 20, times: 1 } },
  refuses: { fault: { kind: 'refuse', status: 400, times: 1 } },
};

/** `blocked`: nothing can be asked now. `note` says why, if it is the connection. */
export function Composer({ busy, blocked, note, send, stop }) {
  const form = useRef(null);

  function submit(event) {
    event.preventDefault();
    const fields = new FormData(form.current);
    const text = fields.get('question').trim();
    if (!text || busy || blocked) return;
    const { files } = form.current.elements.files;
    send({ text, files, metadata: config.model === 'demo' ? { options: optionsOf(fields) } : undefined });
    form.current.elements.question.value = '';
    form.current.elements.files.value = '';
  }

  function keyDown(event) {
    if (event.key !== 'Enter' || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    form.current.requestSubmit();
  }

  function limit({ target }) {
    const bytes = [...target.files].reduce((sum, file) => sum + file.size, 0);
    target.setCustomValidity(bytes > FILES_BYTES ? 'Files of at most 1 MiB, all together.' : '');
    target.reportValidity();
  }

  return (
    <form ref={form} className="composer" aria-label="Ask" onSubmit={submit}>
      {note && <p className="banner">{note}</p>}
      <div className="inner">
        <label className="unseen" htmlFor="question">Your question</label>
        <textarea id="question" name="question" rows={1} required maxLength={4000} placeholder="Ask something"
          autoFocus onKeyDown={keyDown} />
        {busy
          ? <button type="button" onClick={stop}>Stop</button>
          : <button className="primary" type="submit" disabled={blocked}>Ask</button>}
        <details>
          <summary>{config.model === 'demo' ? 'Files, and what the model does' : 'Files'}</summary>
          <div className="fields">
            <label>
              Files <input type="file" name="files" multiple accept="image/*,application/pdf" onChange={limit} />
            </label>
            {config.model === 'demo' && (
              <>
                <label>
                  The model
                  <select name="does">{Object.keys(DEMO).map((each) => <option key={each}>{each}</option>)}</select>
                </label>
                <label>Tokens <input type="number" name="tokens" min={1} max={20000} defaultValue={300} /></label>
                <label>A second <input type="number" name="rate" min={1} max={5000} defaultValue={40} /></label>
              </>
            )}
          </div>
        </details>
      </div>
    </form>
  );
}

/** Fields of the model's own API, as the demo upstream takes them. */
function optionsOf(fields) {
  return {
    max_tokens: Number(fields.get('tokens')) || 300,
    demo: { rate: Number(fields.get('rate')) || 40, ...DEMO[fields.get('does')] },
  };
}
