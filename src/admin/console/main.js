// The console: asks the server when an event says that something happened, and shows what it answers.
//
// Events are a bell and nothing more: what is shown is always what the server has, so that nothing is lost with a connection.

import { countDown, ROWS, showCalls, showHeld } from "./calls.js";
import { byId, linkTo, say, time } from "./dom.js";
import { showFunnel, showProviders, showReadiness, showStore } from "./health.js";
import { showCall } from "./ladder.js";
import { forgetToken, get, hasToken, keepToken, NoToken, watch } from "./server.js";
import { find, showUser } from "./users.js";

/** At most so often the server is asked, however much happens. */
const PAUSE_MS = 500;
/** And at least so often, for what no event tells. */
const QUIET_MS = 10_000;

/** What is looked at: `#call/CALL_REF` or `#user/AOR`. */
function chosen() {
  const [kind, name] = location.hash.slice(1).split("/", 2);
  try {
    if (name && (kind === "call" || kind === "user")) return { kind, name: decodeURIComponent(name) };
  } catch {
    // Not an address that this page has made.
  }
  return { kind: "", name: "" };
}

/** The call and the user that are looked at. */
let callRef = null;
let aor = null;
let isWatching = false;
let timer = null;
let isAsking = false;
let isStale = false;

/** Has everything asked for soon. */
function ring(pause = PAUSE_MS) {
  if (!byId("ask").hidden) return;
  if (isAsking || timer !== null) {
    isStale = true;
    return;
  }
  timer = setTimeout(refresh, document.hidden ? QUIET_MS : pause);
}

async function refresh() {
  timer = null;
  isAsking = true;
  isStale = false;
  try {
    await show();
  } catch (error) {
    fail(error, "readiness", "The server does not answer: ");
  } finally {
    isAsking = false;
  }
  if (isStale) ring();
}

/** Says what cannot be shown, or asks for the token that it takes. */
function fail(error, id, words = "") {
  if (error instanceof NoToken) ask(error);
  else say(id, words + error.message, "bad");
}

/** Asks for everything and shows it. */
async function show() {
  const paths = [`/api/v1/held?limit=${ROWS}`, `/api/v1/calls?limit=${ROWS}`, "/api/v1/summary", "/readyz"];
  const wanted = callRef;
  const one = wanted === null ? null : get(`/api/v1/calls/${encodeURIComponent(wanted)}`);
  const user = aor === null ? null : showUser(aor);
  const [held, { calls }, summary, readiness, call] = await Promise.all([...paths.map(get), one, user]);
  byId("ask").hidden = true;
  say("ask-said", "");
  byId("main").hidden = false;
  byId("forget").hidden = !hasToken();
  showReadiness(readiness);
  showFunnel(summary.calls);
  showHeld(held, calls, wanted);
  showCalls(calls, wanted);
  showProviders(summary.providers);
  showStore(summary.store, readiness.reasons);
  if (wanted !== null && wanted === callRef) showCall(wanted, call);
  byId("updated").replaceChildren("as of ", time(new Date().toISOString()));
  if (!isWatching) {
    isWatching = true;
    watch(() => ring(), (words, kind) => say("stream", words, kind)).catch(ask).finally(() => { isWatching = false; });
  }
}

/** Asks for the token. */
function ask(error) {
  if (hasToken()) say("ask-said", error.message, "bad");
  forgetToken();
  byId("main").hidden = true;
  byId("forget").hidden = true;
  byId("ask").hidden = false;
  say("readiness", "needs a token");
  say("stream", "not live");
  byId("updated").replaceChildren();
  byId("token").focus();
}

/** Goes where the address says; `byHand` when somebody has followed a link, whose focus goes there, too. */
async function go(byHand) {
  const { kind, name } = chosen();
  try {
    if (kind === "call") {
      callRef = name;
      const call = await get(`/api/v1/calls/${encodeURIComponent(name)}`);
      if (callRef === name) showCall(name, call);
      ring(0);
    } else if (kind === "user") {
      aor = name;
      await showUser(name);
    }
  } catch (error) {
    return fail(error, kind === "call" ? "call-said" : "find-said");
  }
  if (byHand && kind !== "") byId(`${kind}-title`).focus();
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(byId("token").value.trim());
  byId("token").value = "";
  refresh().then(() => go(false));
});

byId("forget").addEventListener("click", () => {
  forgetToken();
  location.reload();
});

byId("find-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    aor = null;
    const only = await find(byId("find-text").value.trim());
    if (only === null) return;
    if (location.hash === linkTo("user", only)) await go(true);
    else location.hash = linkTo("user", only);
  } catch (error) {
    fail(error, "find-said");
  }
});

window.addEventListener("hashchange", () => go(true));
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  timer = null;
  ring(0);
});
setInterval(countDown, 1000);
setInterval(() => ring(), QUIET_MS);
refresh().then(() => go(false));
