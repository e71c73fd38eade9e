// Firebase's functions as one user's app has them.

import { _addComponent, initializeApp } from '@firebase/app';
import { CustomProvider, initializeAppCheck } from '@firebase/app-check';
import { Component } from '@firebase/component';
import { getFunctions } from '@firebase/functions';

/**
 * Functions for the user whose ID token it is; with null, for nobody. Sign-in itself is another SDK's matter. With
 * `appToken`, App Check is set up, and that is its token.
 */
export function functionsOf(token, appToken = null) {
  const config = { projectId: 'demo-holdfast', apiKey: 'none', appId: '1:1:web:1' };
  const app = initializeApp(config, `app ${appToken} of ${token}`);
  if (appToken !== null) {
    const expireTimeMillis = Date.now() + 3_600_000;
    const provider = new CustomProvider({ getToken: async () => ({ token: appToken, expireTimeMillis }) });
    initializeAppCheck(app, { provider });
  }
  if (token !== null) {
    const auth = { getToken: async () => ({ accessToken: token }) };
    _addComponent(app, new Component('auth-internal', () => auth, 'PRIVATE'));
  }
  return getFunctions(app);
}
