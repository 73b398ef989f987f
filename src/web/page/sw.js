// The worker that pushes wake: it shows each as a notification (Push API, RFC 8030).
'use strict';

importScripts('words.js', 'contact.js');

// A text is kept for being fetched only after its push was accepted: whoever is woken fast is too early.
const PICK_UP_PAUSES_MS = [0, 500, 1500];
// The browser says once that it has another subscription, which may be while there is no network.
const RENEW_PAUSES_MS = [0, 1000, 5000, 20_000];

self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('push', (event) => event.waitUntil(pushed(event.data).finally(tellPages)));
self.addEventListener('pushsubscriptionchange', (event) => event.waitUntil(subscriptionChanged(event)));
self.addEventListener('notificationclick', (event) => {
  event.notification.close();
  event.waitUntil(openPage());
});
// The page tells of a call that is over.
self.addEventListener('message', (event) => {
  const { type, call_ref } = event.data ?? {};
  if (type === 'call_ended') event.waitUntil(closeCall(call_ref));
});

async function pushed(data) {
  const told = read(data);
  switch (told.type) {
    case 'invite':
      return showCall(told);
    case 'missed_calls':
      return showMissedCalls(told);
    case 'text':
      await showTexts([told]);
      // The push may have its beginning only.
      return showTexts((await contact.pickUp()) ?? []);
    default:
      return showWhatWaits();
  }
}

// The push service has ended a subscription. Some browsers have made another one by then, some name the one that has ended.
async function subscriptionChanged({ oldSubscription, newSubscription }) {
  const subscribe = async (vapidKey) => {
    const applicationServerKey = vapidKey ?? oldSubscription?.options?.applicationServerKey;
    return newSubscription ?? self.registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey });
  };
  for (const pause of RENEW_PAUSES_MS) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (await contact.renew(subscribe)) return;
  }
}

// A push without a body tells nothing.
function read(data) {
  try {
    return data?.json() ?? {};
  } catch {
    return {};
  }
}

function show(title, options) {
  return self.registration.showNotification(title, { lang: words.language, ...options });
}

function caller({ number, display_name }) {
  if (!number || number === 'anonymous') return words.say('anonymous');
  return display_name ? `${display_name} (${number})` : number;
}

function callTag(call_ref) {
  return `call:${call_ref ?? ''}`;
}

function showCall(told) {
  const tag = callTag(told.call_ref);
  const body = told.number ? caller(told) : '';
  return show(words.say('call'), { tag, body, renotify: true, requireInteraction: true });
}

async function closeCall(call_ref) {
  const shown = await self.registration.getNotifications({ tag: callTag(call_ref) });
  shown.forEach((notification) => notification.close());
}

async function showMissedCalls(told) {
  const calls = JSON.parse(told.calls ?? '[]');
  await Promise.all(calls.map(({ call_ref }) => closeCall(call_ref)));
  const callers = calls.map(({ remote_uri, display_name }) => caller({ number: remote_uri, display_name }));
  const body = [...new Set(callers.reverse())].join('\n');
  await show(words.count('missed', calls.length), { tag: 'missed_calls', body, renotify: true });
}

async function showTexts(texts) {
  await contact.keep(texts.map(({ id, title, body, date }) => ({ id, title, body, date })));
  // One that is shown already is shown once: its tag is the same.
  await Promise.all(texts.map(({ id, title, body }) => show(title, { tag: `text:${id}`, body })));
}

// Pages that are open show the texts, too.
async function tellPages() {
  const pages = await self.clients.matchAll({ type: 'window' });
  pages.forEach((page) => page.postMessage({ type: 'pushed' }));
}

async function showWhatWaits() {
  for (const pause of PICK_UP_PAUSES_MS) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    const texts = await contact.pickUp();
    if (texts?.length > 0) return showTexts(texts);
  }
  // Each push has to be seen (userVisibleOnly).
  await show(words.say('waiting'), { tag: 'waiting' });
}

async function openPage() {
  const pages = await self.clients.matchAll({ type: 'window', includeUncontrolled: true });
  const open = pages.find((page) => page.url.startsWith(self.registration.scope));
  return open ? open.focus() : self.clients.openWindow('./');
}
