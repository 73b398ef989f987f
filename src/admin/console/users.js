// Users: found by a part of their AOR, with their devices, push buckets and last calls.

import { badge, callerOf, stateOf } from "./calls.js";
import { byId, element, linkTo, list, say, time } from "./dom.js";
import { get } from "./server.js";

/** Users that a search shows. */
const FOUND = 20;
/** Calls of one user. */
const CALLS = 10;
/** Entries of one user's push buckets. */
const ENTRIES = 50;

/** Whom the page is to show: an answer about somebody else comes too late. */
let wanted = null;

/** Looks for users. The AOR of the only one, if there is one alone. */
export async function find(text) {
  wanted = null;
  const answer = await get(`/api/v1/bindings?limit=${FOUND}&contains=${encodeURIComponent(text)}`);
  const users = Map.groupBy(answer.bindings, (binding) => binding.aor);
  byId("user").hidden = true;
  if (users.size === 0) say("find-said", text ? `No device has an AOR with “${text}” in it.` : "No device is registered.");
  else say("find-said", answer.next ? `The first ${users.size} users; a longer text finds fewer.` : `${users.size} found.`);
  list(byId("found"), [...users], ([aor, bindings]) => {
    const awake = bindings.filter((binding) => binding.reachable).length;
    return element("li", {}, element("a", { href: linkTo("user", aor) }, aor), ` ${bindings.length} device(s), ${awake} awake`);
  });
  return users.size === 1 ? users.keys().next().value : null;
}

/** How a device is woken, or why it is not. */
function wayToWake(binding) {
  if (binding.push_refused) return [`not pushed: ${binding.push_refused}`, "bad"];
  return binding.provider ? [`woken by ${binding.provider}`, "plain"] : ["no push", "warn"];
}

function device(binding) {
  const facts = [
    ["Device", binding.id],
    ["Registered", time(binding.registered_at)],
    ["From", binding.flow],
    ["Contact", binding.contact],
    ["User-Agent", binding.user_agent],
    ["Push parameters", binding.push_flaw],
    ["Forgotten by the softswitch", binding.upstream_ended_at && time(binding.upstream_ended_at)],
    ["Not refreshed upstream", binding.upstream_refused],
    ["Pushed to register at", binding.register_push_at && time(binding.register_push_at)],
  ].filter(([, value]) => value !== null && value !== undefined);
  const state = binding.reachable ? ["awake", "good"] : ["asleep", "plain"];
  return element("li", {}, badge(state), " ", badge(wayToWake(binding)),
    element("dl", {}, ...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))));
}

function entry({ call_ref, date, display_name, remote_uri, state }) {
  const kind = state === "missed" ? ["missed", "warn"] : ["live", "live"];
  const from = [display_name, remote_uri].filter(Boolean).join(" · ");
  return element("li", {}, time(date), " ", element("a", { href: linkTo("call", call_ref) }, from || "unknown"), " ", badge(kind));
}

/** What is shown of a call, so that its row changes with that and not with each of its steps. */
const outline = (call) => [call.steps[0]?.at, call.call_ref, callerOf(call) || call.call_ref, stateOf(call)];

function call([at, callRef, from, state]) {
  return element("li", {}, at ? time(at) : "", " ", element("a", { href: linkTo("call", callRef) }, from), " ", badge(state));
}

/** Shows everything of one user. */
export async function showUser(aor) {
  wanted = aor;
  const name = encodeURIComponent(aor);
  const [{ bindings }, { entries }, { calls }] = await Promise.all([
    get(`/api/v1/bindings?aor=${name}`),
    get(`/api/v1/buckets/${name}`),
    get(`/api/v1/calls?limit=${CALLS}&aor=${name}`),
  ]);
  if (wanted !== aor) return;
  byId("user").hidden = false;
  byId("user-title").textContent = aor;
  const show = (id, items, make, none) => {
    const nothing = () => element("li", { class: "quiet" }, none);
    list(byId(id), items.length === 0 ? [none] : items, items.length === 0 ? nothing : make);
  };
  show("devices", bindings, device, "No device: a call to this user is answered 404.");
  show("bucket", entries.slice(-ENTRIES).reverse(), entry, "Nothing.");
  show("user-calls", calls.map(outline), call, "None among the last ones.");
}
