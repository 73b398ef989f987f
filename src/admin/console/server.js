// What the server is asked, with its token where it wants one.

/** Where the token is: only in this tab, and gone with it. */
const KEPT = "sip-push-proxy.token";
/** Nothing for so long, not even a sign of life (the server sends one each 15 seconds): the stream is dead. */
const SILENCE_MS = 40_000;
const WRONG = "The server does not take this token.";
const ANSWER_MS = 10_000;
/** More than any event has. */
const EVENT_CHARS_MAX = 65_536;
const PAUSE_MS = [1000, 2000, 5000, 10_000];

/** The server wants a token, or another one. */
export class NoToken extends Error {}

/** The server does not do what it was asked for, and says why. */
class Refused extends Error {}

export const hasToken = () => sessionStorage.getItem(KEPT) !== null;
export const keepToken = (token) => sessionStorage.setItem(KEPT, token);
export const forgetToken = () => sessionStorage.removeItem(KEPT);

async function request(path, signal) {
  const token = sessionStorage.getItem(KEPT);
  // Tokens are of printable ASCII; others cannot even be sent.
  if (token !== null && !/^[!-~]+$/.test(token)) throw new NoToken(WRONG);
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  const answer = await fetch(path, { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
  if (answer.status === 401) throw new NoToken(WRONG);
  return answer;
}

/** The JSON at `path`; `null` for what is not there. */
export async function get(path) {
  const answer = await request(path, AbortSignal.timeout(ANSWER_MS));
  if (answer.status === 404) return null;
  // `/readyz` says by 503 that it is not ready, and its body says why.
  if (!answer.ok && path !== "/readyz") throw new Refused(await errorOf(answer));
  return answer.json();
}

/** What an answer says that is none. */
async function errorOf(answer) {
  const body = await answer.json().catch(() => ({}));
  return body.error ?? `status ${answer.status}`;
}

/**
 * Calls `ring` for each live event, and `tell` with what the connection does; comes back by itself when it was lost.
 * Never returns, but throws NoToken.
 */
export async function watch(ring, tell) {
  for (let lost = 0; ; lost += 1) {
    let why = "the event stream was lost";
    try {
      await read(ring, () => {
        lost = 0;
        tell("live", "good");
      });
    } catch (error) {
      if (error instanceof NoToken) throw error;
      if (error instanceof Refused) why = error.message;
    }
    const pause = PAUSE_MS[Math.min(lost, PAUSE_MS.length - 1)];
    tell(`not live: ${why}, reconnecting`, "warn");
    await new Promise((resume) => setTimeout(resume, pause));
  }
}

/** One connection, until it ends. EventSource cannot send the token. */
async function read(ring, opened) {
  const stop = new AbortController();
  let timer = setTimeout(() => stop.abort(), SILENCE_MS);
  try {
    const answer = await request("/api/v1/events", stop.signal);
    if (!answer.ok) throw new Refused(await errorOf(answer));
    opened();
    // What happened while nobody listened has to be looked at.
    ring();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      clearTimeout(timer);
      timer = setTimeout(() => stop.abort(), SILENCE_MS);
      const events = (rest + part.value).split("\n\n");
      rest = events.pop().slice(-EVENT_CHARS_MAX);
      // The others are comments: signs of life.
      if (events.some((event) => event.startsWith("event:"))) ring();
    }
  } finally {
    clearTimeout(timer);
    stop.abort();
  }
}
