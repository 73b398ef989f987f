// Calls: those that are held, with the time that is left to them, and the last ones.

import { byId, element, linkTo, list, time } from "./dom.js";

/** What is asked for and shown of each list. */
export const ROWS = 50;

/** How a call ended, in words, and how good that is. */
const OUTCOMES = {
  answered: ["answered", "good"],
  rejected: ["rejected", "plain"],
  cancelled: ["caller gave up", "warn"],
  no_return: ["phone did not come", "bad"],
  push_failed: ["could not be woken", "bad"],
  expired: ["INVITE expired", "warn"],
  overload: ["refused: overload", "bad"],
};

/** How far a call that goes on has come, the furthest first. */
const PROGRESS = [
  ["ringing", "ringing"],
  ["registered", "woken"],
  ["forwarded", "forwarded"],
  ["push_accepted", "pushed"],
  ["push_refused", "push refused"],
  ["held", "held"],
  ["received", "arrived"],
];

/** The state of a call: a word and its kind. */
export function stateOf(call) {
  if (call.outcome !== null) return OUTCOMES[call.outcome] ?? [call.outcome, "plain"];
  const found = PROGRESS.find(([step]) => call.steps.some((known) => known.step === step));
  return found?.[0] === "push_refused" ? [found[1], "warn"] : [found?.[1] ?? "unknown", "live"];
}

/** Who calls, as the proxy wrote it down when the call came. */
export function callerOf(call) {
  const detail = call.steps.find((step) => step.step === "received")?.detail ?? "";
  const end = detail.lastIndexOf(` to ${call.aor}`);
  return end < 0 ? "" : detail.slice(0, end);
}

export const badge = ([word, kind]) => element("span", { class: `badge ${kind}` }, word);

/** A row for calls: when, to whom, from whom, how it stands. */
const makeRow = () => element("tr", {}, ...Array.from({ length: 4 }, () => element("td")));

function updateRow(made, { aor, callRef, from, state, isChosen }) {
  const [, to, by, stands] = made.cells;
  if (!to.firstChild) to.append(element("a", { href: linkTo("call", callRef) }, aor));
  if (by.textContent !== from) by.textContent = from;
  if (stands.textContent !== state[0]) stands.replaceChildren(badge(state));
  made.classList.toggle("chosen", isChosen);
}

/** Shows the last calls; `chosen` is the call_ref of the one that is looked at. */
export function showCalls(calls, chosen) {
  byId("calls-none").hidden = calls.length > 0;
  list(byId("calls"), calls, makeRow, (call) => call.call_ref, (made, call) => {
    if (!made.cells[0].firstChild && call.steps.length > 0) made.cells[0].append(time(call.steps[0].at));
    updateRow(made, {
      aor: call.aor ?? call.call_ref,
      callRef: call.call_ref,
      from: callerOf(call),
      state: stateOf(call),
      isChosen: call.call_ref === chosen,
    });
  });
}

/** Ends of the waits, by the clock that never jumps; none for a call whose phone has come. */
const ends = new WeakMap();

/** Shows the calls that are held; `calls` tell how far they have come. */
export function showHeld({ held, total }, calls, chosen) {
  const known = new Map(calls.map((call) => [call.call_ref, call]));
  byId("held-total").textContent = total;
  byId("held-none").hidden = total > 0;
  list(byId("held"), held, makeRow, (call) => `${call.call_ref} ${call.held_at} ${call.aor}`, (made, call) => {
    made.cells[0].className = "number";
    const story = known.get(call.call_ref);
    const state = story ? stateOf(story) : ["held", "live"];
    const isOver = story?.steps.some((step) => step.step === "forwarded");
    if (isOver) ends.delete(made);
    else ends.set(made, performance.now() + call.left_ms);
    const from = [call.display_name, call.remote_uri].filter(Boolean).join(" · ");
    updateRow(made, {
      aor: call.aor,
      callRef: call.call_ref,
      from: from || (story ? callerOf(story) : ""),
      state: call.node === null ? state : [`held by ${call.node}`, "live"],
      isChosen: call.call_ref === chosen,
    });
  });
  countDown();
}

/** Brings the times that are left up to date. To be called each second. */
export function countDown() {
  for (const made of byId("held").rows) {
    const left = ends.has(made) ? Math.max(0, Math.ceil((ends.get(made) - performance.now()) / 1000)) : null;
    made.cells[0].textContent = left === null ? "–" : `${left} s`;
    made.cells[0].classList.toggle("bad", left !== null && left <= 5);
  }
}
