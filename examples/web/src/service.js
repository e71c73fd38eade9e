// Sign-in and calls to the service, all with Firebase's own packages.
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
  constructor({ apiUrl, firebase }) {
    const app = initializeApp(firebase);
    this.app = app;
    this.url = apiUrl;
    this.auth = initializeAuth(app, { persistence: [indexedDBLocalPersistence, browserLocalPersistence] });
    connectAuthEmulator(this.auth, location.origin, { disableWarnings: true });
    this.call = httpsCallableFromURL(getFunctions(app), `${apiUrl}/`);
  }

  onUser(changed) {
    onAuthStateChanged(this.auth, changed);
  }

  // The emulator accepts this instead of a signed custom token. A real app signs in as usual.
  signIn(name) {
    return signInWithCustomToken(this.auth, JSON.stringify({ uid: name }));
  }

  signOut() {
    return signOut(this.auth);
  }

  /** Gets a new token, even if the old one has not expired. */
  async renew() {
    await this.auth.currentUser.getIdToken(true);
  }

  async stop(generation) {
    try {
      await this.call({ stop: generation });
    } catch (error) {
      if (error.code !== 'functions/failed-precondition') throw error; // it has ended meanwhile
    }
  }

  /** The user's live answers, newest first, including those from other pages or devices. */
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
