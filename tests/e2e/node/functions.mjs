// Firebase's functions as one user's app has them.

import { _addComponent, initializeApp } from '@firebase/app';
import { Component } from '@firebase/component';
import { getFunctions } from '@firebase/functions';

/** Functions for the user whose ID token it is; with null, for nobody. Sign-in itself is another SDK's matter. */
export function functionsOf(token) {
  const app = initializeApp({ projectId: 'demo-holdfast', apiKey: 'none' }, `app of ${token}`);
  if (token !== null) {
    const auth = { getToken: async () => ({ accessToken: token }) };
    _addComponent(app, new Component('auth-internal', () => auth, 'PRIVATE'));
  }
  return getFunctions(app);
}
