// Local storage: each turn of a conversation, under its message's id, so that it survives a reload.
//
// Text and cursor are stored as one value. Whenever the page ends, they are consistent: an older text with its own, older
// cursor. If they were stored separately, text could be lost or repeated.

const LATER_MS = 250;

export class Kept {
  constructor(user, storage = localStorage) {
    this.prefix = `holdfast/${user}/`;
    this.storage = storage;
    this.waiting = new Map();
    addEventListener('pagehide', () => this.flush());
    document.addEventListener('visibilitychange', () => this.flush()); // on phones, often the last event before the page ends
  }

  get chat() {
    return this.storage.getItem(`${this.prefix}chat`) ?? this.newChat();
  }

  set chat(id) {
    this.storage.setItem(`${this.prefix}chat`, id);
  }

  newChat() {
    this.chat = crypto.randomUUID();
    return this.chat;
  }

  /** The turns of a chat, or all of them, oldest first. */
  turns(chat) {
    this.flush();
    return Object.keys(this.storage)
      .filter((key) => key.startsWith(`${this.prefix}turn/`))
      .map((key) => JSON.parse(this.storage.getItem(key)))
      .filter((turn) => !chat || turn.chat === chat)
      .sort((one, other) => one.at - other.at);
  }

  save(turn) {
    this.waiting.delete(turn.id);
    try {
      this.storage.setItem(`${this.prefix}turn/${turn.id}`, JSON.stringify(turn));
    } catch {
      // The storage is full. What is stored is older but consistent, and the service has the rest.
    }
  }

  /** Stores a turn on each piece of an answer, but at most every quarter of a second. */
  saveSoon(turn) {
    if (this.waiting.size === 0) setTimeout(() => this.flush(), LATER_MS);
    this.waiting.set(turn.id, turn);
  }

  flush() {
    for (const turn of [...this.waiting.values()]) this.save(turn);
  }

  forget(turn) {
    this.waiting.delete(turn.id);
    this.storage.removeItem(`${this.prefix}turn/${turn.id}`);
  }
}
