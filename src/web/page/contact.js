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
  const write = (id) => store('contact', 'readwrite', (it) => done(it.put(id, 'id')));
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

  return { read, write, forget, texts, keep, pickUp };
})();
