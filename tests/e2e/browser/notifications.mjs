// Notifications of the web example. What must be true of it is said in tests/e2e/test_notifications.py.
export { Visitor } from './visitor.mjs';

/** One who has switched notifications on. `token` is the one that the page has got from FCM's stand-in. */
async function notified(visitor) {
  const me = await visitor({ permissions: ['notifications'] });
  me.page.on('request', (request) => {
    me.token = request.url().split('/push/')[1] ?? me.token;
  });
  await me.page.addInitScript(keep);
  await me.signIn();
  await me.page.getByRole('button', { name: 'Notify me' }).click();
  await me.page.getByRole('button', { name: 'Notify me', pressed: true }).waitFor();
  await me.page.getByText('You are told of answers that end while you do not look.').waitFor({ state: 'attached' });
  [me.worker] = me.page.context().serviceWorkers();
  await me.worker.evaluate(keep);
  return me;
}

/** Runs in the page, and in the service worker: keeps what is shown, since a headless Chromium soon forgets it. */
function keep() {
  if (!self.ServiceWorkerRegistration) return; // about:blank has none
  const { showNotification } = ServiceWorkerRegistration.prototype;
  self.seen = [];
  ServiceWorkerRegistration.prototype.showNotification = async function show(...given) {
    await showNotification.apply(this, given);
    self.seen.push(...(await this.getNotifications()));
  };
}

/** The notifications that a page or a service worker has shown, once there is one. */
async function shown(where) {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const all = await where.evaluate(() => self.seen.map(({ title, body, tag, data }) => ({ title, body, tag, data })));
    if (all.length > 0 || Date.now() > deadline) return all;
    await new Promise((over) => setTimeout(over, 50));
  }
}

/** Clicks the notification that was shown, in the service worker, since DevTools can't. */
function click(worker) {
  return worker.evaluate(() => {
    const event = new NotificationEvent('notificationclick', { notification: self.seen[0], cancelable: true });
    event.waitUntil = (done) => done.catch(() => {}); // a page may be focused only after a click that is real
    dispatchEvent(event);
  });
}

/** Playwright keeps every page visible, so the page is told that it is not. */
function hide(page, hidden = true) {
  return page.evaluate((is) => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => is });
    Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => (is ? 'hidden' : 'visible') });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
}

/** The answer ends while its tab is hidden, and still follows it. */
export async function hidden(visitor, order, say) {
  const me = await notified(visitor);
  await me.hold(order.question, 10);
  await me.ask(order.question, order.tokens, order.rate);
  await me.until(5);
  const chat = await me.page.evaluate((user) => localStorage.getItem(`holdfast/${user}/chat`), order.user);
  await hide(me.page);
  await me.letGo();
  await me.ended('completed');
  say({ chat, shown: await shown(me.page) });
}

/** The tab is hidden, and no page follows the answer: the user has begun another chat. */
export async function unfollowed(visitor, order, say) {
  const me = await notified(visitor);
  const chat = await me.page.evaluate((user) => localStorage.getItem(`holdfast/${user}/chat`), order.user);
  await me.hold(order.question, 10);
  await me.ask(order.question, order.tokens, order.rate);
  await me.until(5);
  await me.page.getByRole('button', { name: 'New chat' }).click();
  await hide(me.page);
  await me.letGo();
  say({ chat, shown: await shown(me.worker) });
  await click(me.worker);
  await hide(me.page, false);
  await me.ended('completed');
  say(await me.answer());
}

/** The answer ends on the screen. */
export async function watched(visitor, order, say) {
  const me = await notified(visitor);
  await me.ask(order.question, order.tokens, order.rate);
  await me.ended('completed');
  await me.drawn();
  const count = () => self.seen.length;
  say({ shown: (await me.page.evaluate(count)) + (await me.worker.evaluate(count)) });
}

/** The page is closed: what FCM is sent is given to the browser as a push, which wakes Firebase's SDK in the worker. */
export async function closed(visitor, order, say) {
  const me = await notified(visitor);
  const devTools = await me.page.context().newCDPSession(me.page);
  const registered = new Promise((known) => {
    devTools.on('ServiceWorker.workerRegistrationUpdated', ({ registrations: [one] }) => one && known(one.registrationId));
  });
  await devTools.send('ServiceWorker.enable');
  const registrationId = await registered;
  await me.hold(order.question, 10);
  await me.ask(order.question, order.tokens, order.rate);
  await me.until(5);
  const chat = await me.page.evaluate((user) => localStorage.getItem(`holdfast/${user}/chat`), order.user);
  await me.page.goto('about:blank');
  await me.letGo();
  const stream = await fetch(`${order.url}/push/${me.token}`);
  let got = '';
  for await (const piece of stream.body) {
    got += Buffer.from(piece).toString();
    if (got.includes('data: ') && got.endsWith('\n\n')) break;
  }
  const data = got.split('data: ')[1].trim();
  await devTools.send('ServiceWorker.deliverPushMessage', { origin: order.url, registrationId, data });
  say({ chat, shown: await shown(me.worker) });
  await me.page.goto(`${order.url}/#${new URLSearchParams({ chat })}`); // where a click leads without a page
  await me.ended('completed');
  say(await me.answer());
}

/** Notifications are switched off, or the user signs out: the browser is no device any more. */
export async function off(visitor, order) {
  const me = await notified(visitor);
  if (order.signsOut) {
    await me.page.getByRole('button', { name: 'Sign out' }).click();
    await me.page.getByLabel('Your name').waitFor();
    return;
  }
  await me.page.getByRole('button', { name: 'Notify me' }).click();
  await me.page.getByRole('button', { name: 'Notify me', pressed: false }).waitFor();
}
