// The page: turns notifications on by a ticket, and off again; shows the texts that came.
'use strict';

const element = (id) => document.getElementById(id);
const vapidKey = document.querySelector('meta[name=vapid-key]').content;

const hasPush = 'serviceWorker' in navigator && 'PushManager' in window;
// An iPhone has push for pages of its home screen alone, and such a page begins with the address that it was put there with.
const belongsOnHomeScreen = !hasPush && navigator.standalone === false;

// Taken out of the address, where others might see it.
const ticket = new URLSearchParams(location.hash.slice(1)).get('ticket');
if (location.hash && !belongsOnHomeScreen) history.replaceState(null, '', location.pathname + location.search);

document.documentElement.lang = words.language;
document.title = words.say('title');
document.querySelectorAll('[data-word]').forEach((it) => {
  it.textContent = words.say(it.dataset.word);
});

function say(word) {
  element('state').textContent = words.say(word);
}

async function showState() {
  const isOn = Boolean(await contact.read());
  element('on').hidden = isOn || !ticket;
  element('off').hidden = !isOn;
  say(isOn ? 'is_on' : ticket ? 'is_off' : 'needs_ticket');
}

async function showTexts() {
  const texts = await contact.texts();
  const item = ({ title, body, date }) => {
    const it = document.createElement('li');
    const [strong, time] = ['strong', 'time'].map((name) => document.createElement(name));
    strong.textContent = title;
    const at = new Date(Number(date) * 1000);
    time.dateTime = at.toISOString();
    time.textContent = at.toLocaleString(words.language);
    it.append(strong, time, body);
    return it;
  };
  element('list').replaceChildren(...texts.map(item));
  element('texts').hidden = texts.length === 0;
}

async function turnOn() {
  if ((await Notification.requestPermission()) !== 'granted') return say('denied');
  const registration = await navigator.serviceWorker.ready;
  // One for another key would be refused by the push service.
  await (await registration.pushManager.getSubscription())?.unsubscribe();
  const wish = { userVisibleOnly: true, applicationServerKey: vapidKey };
  const subscription = await registration.pushManager.subscribe(wish);
  const answer = await fetch('subscriptions', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ticket, subscription, locale: navigator.language }),
  });
  if (!answer.ok) {
    await subscription.unsubscribe();
    throw new Error(`${answer.status} ${await answer.text()}`);
  }
  const { contact_id } = await answer.json();
  await contact.write(contact_id, vapidKey);
  await showState();
}

async function turnOff() {
  const answer = await fetch(`subscriptions/${await contact.read()}`, { method: 'DELETE' });
  // Unknown is as good.
  if (!answer.ok && answer.status !== 404) throw new Error(String(answer.status));
  const registration = await navigator.serviceWorker.ready;
  await (await registration.pushManager.getSubscription())?.unsubscribe();
  await contact.forget();
  await showState();
  await showTexts();
}

function whenClicked(id, act) {
  element(id).addEventListener('click', async () => {
    element(id).disabled = true;
    try {
      await act();
    } catch (error) {
      console.error(error);
      say('failed');
    } finally {
      element(id).disabled = false;
    }
  });
}

async function begin() {
  if (belongsOnHomeScreen) return say('home_screen');
  if (!hasPush) return say('unsupported');
  await navigator.serviceWorker.register('sw.js');
  navigator.serviceWorker.addEventListener('message', showTexts);
  whenClicked('on', turnOn);
  whenClicked('off', turnOff);
  await contact.pickUp();
  await showState();
  await showTexts();
}

begin().catch((error) => {
  console.error(error);
  say('failed');
});
