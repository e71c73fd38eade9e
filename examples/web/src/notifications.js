// Tells the user of answers that end while nobody looks: asks for permission, and registers this browser as a device.
//
// A hidden page that still follows an answer is a viewer, so the service tells no device, and the page shows the
// notification itself. Of an answer that no page follows, the service tells the devices by FCM. Either way the service
// worker has shown it in the end, and opens the chat when it is clicked.
import {
  connectFirestoreEmulator,
  deleteDoc,
  doc,
  getFirestore,
  serverTimestamp,
  setDoc,
} from '@firebase/firestore/lite';
import { getMessaging, getToken } from '@firebase/messaging';

const TITLES = { completed: 'Your answer is ready', incomplete: 'Your answer could not be finished', failed: 'Your answer could not be finished' };

export class Notifications {
  constructor(app, config, storage = localStorage) {
    this.app = app;
    this.config = config;
    this.storage = storage;
    this.user = null;
    this.listening = null; // the stand-in's stream
  }

  /** Whether the service tells devices, and this browser can be one. */
  get possible() {
    return Boolean(this.config.push) && 'Notification' in window && 'serviceWorker' in navigator;
  }

  /** Whether this browser is registered for the user. */
  get on() {
    return this.possible && Notification.permission === 'granted' && this.device !== null;
  }

  get device() {
    return this.user && this.storage.getItem(this.key);
  }

  get key() {
    return `holdfast/${this.user}/device`;
  }

  /** Registers this browser again if it is on: tokens change, and one that is old is taken for one of nobody's. */
  async signedIn(user) {
    this.user = user;
    if (this.on) await this.register();
  }

  /** Asks the user, which browsers want to be done on a click alone. */
  async ask() {
    const permission = await Notification.requestPermission();
    if (permission !== 'granted') throw new Error('the browser has them blocked for this page');
    this.storage.setItem(this.key, this.device ?? crypto.randomUUID());
    await this.register();
  }

  async off() {
    if (!this.device) return;
    this.listening?.close();
    const registered = this.document();
    this.storage.removeItem(this.key);
    await deleteDoc(registered);
  }

  /** Shows the end of an answer that this page has followed, unless it is seen. */
  async ended(turn) {
    if (!this.on || !document.hidden || !TITLES[turn.state]) return;
    const registration = await navigator.serviceWorker.ready;
    const data = { chatId: turn.chat, messageId: turn.id, generationId: turn.generation, state: turn.state };
    await registration.showNotification(TITLES[turn.state], { tag: turn.chat, data, icon: '/icon.svg' });
  }

  /** Calls `open(chat)` when the user clicks a notification. */
  onOpen(open) {
    navigator.serviceWorker?.addEventListener('message', ({ data }) => {
      if (data?.open) open(data.open);
    });
  }

  async register() {
    // The worker needs the app's settings before it gets its first push, so they are a part of its address.
    const settings = new URLSearchParams(this.config.firebase);
    await navigator.serviceWorker.register(`/notifications.js?${settings}`);
    const registration = await navigator.serviceWorker.ready;
    const token = this.config.push.vapidKey ? await this.fcmToken(registration) : await this.localToken(registration);
    await setDoc(this.document(), { token, platform: 'web', createdAt: serverTimestamp() });
  }

  document() {
    const firestore = getFirestore(this.app);
    const { emulator } = this.config.push;
    if (emulator && !this.connected) {
      const { hostname, port } = new URL(emulator);
      connectFirestoreEmulator(firestore, hostname, Number(port));
      this.connected = true;
    }
    return doc(firestore, `users/${this.user}/holdfastDevices/${this.device}`);
  }

  fcmToken(serviceWorkerRegistration) {
    const { vapidKey } = this.config.push;
    return getToken(getMessaging(this.app), { vapidKey, serviceWorkerRegistration });
  }

  /** A token of local/push.py, which stands in for FCM, and hands to the worker what comes while the page is hidden. */
  async localToken(registration) {
    const { token } = await (await fetch('/push', { method: 'POST' })).json();
    this.listening?.close();
    this.listening = new EventSource(`/push/${token}`);
    this.listening.addEventListener('message', ({ data }) => {
      if (document.hidden) registration.active.postMessage({ pushed: JSON.parse(data) });
    });
    return token;
  }
}
