// Local storage: each chat's messages, and the key of the request with which they were last sent.
//
// Nothing of a running answer is kept, since the service has it. An app would keep the same in Firestore: see the
// README.

export class Kept {
  constructor(user, storage = localStorage) {
    this.prefix = `holdfast/usechat/${user}/`;
    this.storage = storage;
  }

  get chat() {
    return this.storage.getItem(`${this.prefix}chat`) ?? this.newChat();
  }

  newChat() {
    const chat = crypto.randomUUID();
    this.storage.setItem(`${this.prefix}chat`, chat);
    return chat;
  }

  read(chat) {
    return JSON.parse(this.storage.getItem(this.prefix + chat)) ?? { messages: [], key: null };
  }

  save(chat, messages, key) {
    this.storage.setItem(this.prefix + chat, JSON.stringify({ messages, key }));
  }

  addNote(text) {
    const notes = [...(JSON.parse(this.storage.getItem(`${this.prefix}notes`)) ?? []), text];
    this.storage.setItem(`${this.prefix}notes`, JSON.stringify(notes));
    return notes.length;
  }
}
