// What the page and its worker keep in the browser: the contact id, and the texts that came.
'use strict';

const contact = (() => {
  const TEXTS_MAX = 50;

  const done = (request) =>
    new Promise((resolve, reject) => {
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });

  async function store(name, mode, use) {
    const request = indexedDB.open('calls', 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore('contact');
      request.result.createObjectStore('texts', { keyPath: 'id' });
    };
    const database = await done(request);
    try {
      return await use(database.transaction(name, mode).objectStore(name));
    } finally {
      database.close();
    }
  }

  const read = () => store('contact', 'readonly', (it) => done(it.get('id')));
  // With the key that the subscription is for: the worker has no page to read it from.
  const write = (id, vapidKey) =>
    store('contact', 'readwrite', (it) => Promise.all([done(it.put(id, 'id')), done(it.put(vapidKey, 'vapid_key'))]));
  const forgetId = () => store('contact', 'readwrite', (it) => done(it.clear()));
  const forget = async () => {
    await forgetId();
    await store('texts', 'readwrite', (it) => done(it.clear()));
  };

  // Newest first.
  const texts = async () => {
    const all = await store('texts', 'readonly', (it) => done(it.getAll()));
    return all.sort((one, other) => Number(other.date) - Number(one.date));
  };

  const keep = async (more) => {
    await store('texts', 'readwrite', (it) => Promise.all(more.map((text) => done(it.put(text)))));
    const old = (await texts()).slice(TEXTS_MAX);
    await store('texts', 'readwrite', (it) => Promise.all(old.map((text) => done(it.delete(text.id)))));
  };

  // Fetches what waits; the server has it no more then. `null`: it could not be asked.
  const pickUp = async () => {
    const id = await read();
    if (!id) return [];
    try {
      const answer = await fetch(`messages/${id}`, { cache: 'no-store', signal: AbortSignal.timeout(15_000) });
      if (answer.status === 404) {
        // The server knows it no more: it takes another ticket.
        await forgetId();
        return [];
      }
      if (!answer.ok) return null;
      const { messages } = await answer.json();
      await keep(messages);
      return messages;
    } catch {
      return null;
    }
  };

  // Tells the server of the subscription that has come in the place of the one it has; `subscribe` makes it for a key where
  // the browser has not. Whether there is nothing left to do.
  const renew = async (subscribe) => {
    const [id, vapidKey] = await store('contact', 'readonly', (it) =>
      Promise.all([done(it.get('id')), done(it.get('vapid_key'))]),
    );
    if (!id) return true;
    try {
      const subscription = await subscribe(vapidKey);
      const answer = await fetch(`subscriptions/${id}`, {
        method: 'PUT',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ subscription }),
        signal: AbortSignal.timeout(15_000),
      });
      if (answer.ok) await write((await answer.json()).contact_id, vapidKey);
      // The server knows it no more: it takes another ticket.
      if (answer.status === 404) await forgetId();
      return answer.ok || answer.status === 404;
    } catch {
      return false;
    }
  };

  return { read, write, forget, texts, keep, pickUp, renew };
})();
