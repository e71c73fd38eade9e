// Renders a turn and its state. Must not depend on connections.
import { isLive } from './turn.js';

const REASONS = {
  upstream_disconnected: 'the model’s server broke off',
  upstream_ended_early: 'the model’s server ended early',
  upstream_idle: 'the model’s server fell silent',
  deadline: 'it took too long',
  worker_lost: 'its worker was lost',
};

export const byId = (id) => document.getElementById(id);

export class TurnView {
  constructor(turn, { stop, again }) {
    this.turn = turn;
    this.element = byId('turn').content.firstElementChild.cloneNode(true);
    this.element.dataset.id = turn.id;
    this.text = this.part('.text');
    this.shown = 0; // how many characters of the text are in the page
    this.seams = 0;
    this.part('.question p').textContent = turn.question ?? 'Asked elsewhere';
    this.part('.question').classList.toggle('elsewhere', turn.question === null);
    this.part('.stop').addEventListener('click', () => stop(turn));
    this.part('.again').addEventListener('click', () => again(turn));
    this.due = false;
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  /**
   * Renders the turn. `line` is its connection: 'open', 'lost' or 'off'. Text is appended and never replaced, which is
   * cheap and keeps the selection.
   */
  draw(line) {
    const { turn } = this;
    const live = isLive(turn);
    this.drawText();
    this.element.dataset.state = turn.error && turn.state !== 'failed' ? 'refused' : turn.state;
    this.element.dataset.seq = turn.seq;
    this.element.classList.toggle('live', live && line === 'open');
    this.part('article').setAttribute('aria-busy', String(live));
    this.part('.state').textContent = stateOf(turn, line);
    this.part('.cursor').textContent = turn.seq ? `event ${turn.seq.toLocaleString('en')}` : '';
    const times = turn.seams.length;
    this.part('.went-on').textContent = times ? `went on ${times === 1 ? 'once' : `${times} times`}` : '';
    this.part('.stop').hidden = !live;
    this.part('.stop').disabled = line === 'off' || !turn.generation;
    this.part('.again').hidden = turn.error === null || turn.state === 'failed';
    this.part('.error').textContent = turn.error ?? '';
  }

  drawText() {
    const { text, seams } = this.turn;
    while (this.shown < text.length || this.seams < seams.length) {
      const seam = seams[this.seams];
      if (seam === this.shown) {
        this.text.append(seamMark());
        this.seams += 1;
      }
      const until = seams[this.seams] ?? text.length;
      const piece = text.slice(this.shown, until);
      if (this.text.lastChild instanceof Text) this.text.lastChild.appendData(piece);
      else this.text.append(piece);
      this.shown = until;
    }
  }
}

/** Marks a position in the text at which it was resumed. Has no text of its own. */
function seamMark() {
  const mark = document.createElement('i');
  mark.className = 'seam';
  mark.title = 'Went on here';
  mark.setAttribute('aria-hidden', 'true');
  return mark;
}

export function stateOf(turn, line) {
  if (turn.state === 'failed') return 'Failed';
  if (turn.error !== null) return 'Not answered';
  if (turn.state === 'completed') return 'Complete';
  if (turn.state === 'stopped') return 'Stopped';
  if (turn.state === 'incomplete') return `Incomplete: ${REASONS[turn.reason] ?? 'it broke off'}`;
  if (line === 'off') return 'Going on without you';
  if (line === 'lost') return 'Connection lost, trying again';
  if (turn.seq) return 'Writing';
  return turn.waits ? 'Queued' : 'Waiting for the first word';
}

/** The list of live answers: an entry for each generation, with its question if this page knows it. */
export function runningList(generations, turns, { open, stop }) {
  return generations.map((generation) => {
    const item = byId('running-item').content.firstElementChild.cloneNode(true);
    const turn = turns.find((each) => each.generation === generation.id || each.id === generation.messageId);
    const name = turn?.question ?? 'Asked elsewhere';
    item.dataset.generation = generation.id;
    item.querySelector('.name').textContent = name;
    const since = new Date(generation.createdAt).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
    const far = generation.state === 'queued' ? 'queued' : `event ${generation.lastSeq.toLocaleString('en')}`;
    item.querySelector('.about').textContent = `since ${since} · ${far}`;
    for (const [what, act] of Object.entries({ open, stop })) {
      const button = item.querySelector(`.${what}`);
      button.setAttribute('aria-label', `${button.textContent}: ${name}`);
      button.addEventListener('click', () => act(generation));
    }
    return item;
  });
}
