// The service worker: it shows what FCM tells, and opens the chat of a notification that is clicked.
import { initializeApp } from '@firebase/app';
import { getMessaging, onBackgroundMessage } from '@firebase/messaging/sw';

addEventListener('install', () => skipWaiting());
addEventListener('activate', (event) => event.waitUntil(clients.claim()));

// Firebase's own listener opens a link that the service would have to know. Of two listeners the first one decides.
addEventListener('notificationclick', (event) => {
  event.stopImmediatePropagation();
  event.notification.close();
  const { data } = event.notification;
  event.waitUntil(open((data?.FCM_MSG?.data ?? data).chatId));
});

/** Opens a chat in the page, or in a new one if there is none. */
async function open(chat) {
  const pages = await clients.matchAll({ type: 'window', includeUncontrolled: true });
  const page = pages.find(({ url }) => new URL(url).pathname === '/');
  if (!page) return clients.openWindow(`/#${new URLSearchParams({ chat })}`);
  page.postMessage({ open: chat });
  return page.focus();
}

// What has a title is shown by Firebase's SDK itself, unless a page of this origin is on the screen. An app whose messages
// are data alone shows them here.
onBackgroundMessage(getMessaging(initializeApp(Object.fromEntries(new URL(location).searchParams))), () => {});

// What local/push.py has sent, which stands in for FCM. Browsers take real pushes from their own vendors' servers alone.
addEventListener('message', ({ data }) => {
  if (data?.pushed) show(data.pushed);
});

function show({ notification: { title, ...options }, data }) {
  return registration.showNotification(title, { ...options, data });
}
