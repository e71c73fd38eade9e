// Sign-in with Firebase's own package, and what the page asks of Holdfast beside the chat itself.
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

export const config = await (await fetch('/config.json')).json();
export const api = `${config.apiUrl}/api/chat`;

const app = initializeApp(config.firebase);
const auth = initializeAuth(app, { persistence: [indexedDBLocalPersistence, browserLocalPersistence] });
connectAuthEmulator(auth, location.origin, { disableWarnings: true });

export const onUser = (changed) => onAuthStateChanged(auth, changed);

// The emulator accepts this instead of a signed custom token. A real app signs in as usual.
export const signIn = (name) => signInWithCustomToken(auth, JSON.stringify({ uid: name }));

export const leave = () => signOut(auth);

/** The headers of each request: the token is renewed before it ends. */
export async function headers() {
  return { Authorization: `Bearer ${await auth.currentUser.getIdToken()}` };
}

/** Ends the chat's running answer. What there is of it is saved. The SDK's own `stop` only closes the connection. */
export async function stop(chat) {
  const response = await fetch(`${api}/${encodeURIComponent(chat)}/stop`, { method: 'POST', headers: await headers() });
  if (!response.ok) throw new Error(await response.text());
}
