// The service as the page sees it: who is signed in, and the calls. Everything goes through Firebase's own packages.
import { initializeApp } from '@firebase/app';
import {
  browserLocalPersistence,
  connectAuthEmulator,
  indexedDBLocalPersistence,
  initializeAuth,
  onAuthStateChanged,
  signInWithCustomToken,
  signOut,
} from '@firebase/auth';
import { getFunctions, httpsCallableFromURL } from '@firebase/functions';

export class Service {
  constructor({ apiUrl, project }) {
    const app = initializeApp({ apiKey: 'local', projectId: project });
    this.url = apiUrl;
    this.auth = initializeAuth(app, { persistence: [indexedDBLocalPersistence, browserLocalPersistence] });
    connectAuthEmulator(this.auth, location.origin, { disableWarnings: true });
    this.call = httpsCallableFromURL(getFunctions(app), `${apiUrl}/`);
  }

  onUser(changed) {
    onAuthStateChanged(this.auth, changed);
  }

  // An emulator takes this in place of a custom token that a server has signed. An app signs in as it always does.
  signIn(name) {
    return signInWithCustomToken(this.auth, JSON.stringify({ uid: name }));
  }

  signOut() {
    return signOut(this.auth);
  }

  /** Gets a new token, whatever the old one's clock says. */
  async renew() {
    await this.auth.currentUser.getIdToken(true);
  }

  /** An answer's messages as they come, and at last its result: `{ stream, data }`. */
  stream(asked, signal) {
    return this.call.stream(asked, { signal });
  }

  async stop(generation) {
    try {
      await this.call({ stop: generation });
    } catch (error) {
      if (error.code !== 'functions/failed-precondition') throw error; // it has ended by itself meanwhile
    }
  }

  /** The user's answers that are being written, newest first; also those that another page or device asked for. */
  async running() {
    const token = await this.auth.currentUser.getIdToken();
    const response = await fetch(`${this.url}/v1/generations?state=queued,streaming`, {
      headers: { Authorization: `Bearer ${token}` },
    });
    const body = await response.json();
    if (!response.ok) throw new Error(body.error.message);
    return body.data;
  }
}
