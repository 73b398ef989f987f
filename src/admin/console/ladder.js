// One call as a ladder: who said what to whom, and when.

import { badge, callerOf, stateOf } from "./calls.js";
import { byId, element, list, say, svg, time } from "./dom.js";

const LANES = ["softswitch", "proxy", "provider", "phone"];
const [SOFTSWITCH, PROXY, PROVIDER, PHONE] = LANES.keys();

/** A word, and what is known beyond it. */
const and = (word, { detail, reason }) => [word, detail, reason].filter(Boolean).join(": ");

/** The end of a call, after so many milliseconds. */
const end = (word, { detail }) => `${word} ${detail}`.trim();

/** From which lane to which each step goes (the same: it happens there), in words, and how good it is. */
const STEPS = {
  received: (step) => [SOFTSWITCH, PROXY, and("INVITE", step)],
  device_found: ({ detail }) => [PROXY, PROXY, `A device to be woken${detail ? ` by ${detail}` : ""}`],
  device_skipped: (step) => [PROXY, PROXY, and("A device is left out", step), "warn"],
  held: () => [PROXY, PROXY, "Held, and written down"],
  push_sent: ({ detail }) => [PROXY, PROVIDER, `Push by ${detail}`],
  push_retried: ({ detail }) => [PROXY, PROVIDER, `Push once more by ${detail}`],
  push_accepted: ({ detail }) => [PROVIDER, PROXY, `Accepted after ${detail}`, "good"],
  push_refused: ({ detail, reason }) => [PROVIDER, PROXY, `Refused after ${detail}: ${reason}`, "bad"],
  registered: (step) => [PHONE, PROXY, and("REGISTER, the phone is awake", step), "good"],
  forwarded: (step) => [PROXY, PHONE, and("INVITE", step)],
  ringing: ({ detail }) => [PHONE, PROXY, `${detail}, it rings`],
  rejected: (step) => step.device === null
    ? [PROXY, SOFTSWITCH, end("Rejected", step)]
    : [PHONE, PROXY, and("The phone rejects it", step), "warn"],
  answered: (step) => [PROXY, SOFTSWITCH, end("Answered", step), "good"],
  cancelled: (step) => [SOFTSWITCH, PROXY, end(step.code === "taken_elsewhere" ? "CANCEL, taken elsewhere" : "CANCEL, the caller gave up", step), "warn"],
  no_return: (step) => [PROXY, SOFTSWITCH, end(step.code === "not_answered" ? "Nobody answered, given up" : "No phone came back, given up", step), "bad"],
  expired: (step) => [PROXY, SOFTSWITCH, end("The INVITE's Expires ran out", step), "warn"],
  failed: (step) => step.device === null
    ? [PROXY, SOFTSWITCH, and("Failed", step), "bad"]
    : [PROXY, PROXY, and("Cannot be woken", step), "bad"],
  missed: () => [PROXY, PROXY, "A missed call, kept for the device", "warn"],
  missed_reported: () => [PROXY, PROVIDER, "The device was told of the missed call", "good"],
};

const middle = (lane) => `${(lane + 0.5) * 100 / LANES.length}%`;

/** The lanes of one row, and its arrow; a dot for what happens at one place. */
function strip(from, to, kind) {
  const lanes = LANES.map((_, lane) => svg("line", { class: "lane", x1: middle(lane), x2: middle(lane), y1: "0", y2: "100%" }));
  const ends = { x1: middle(from), x2: middle(to), y1: "50%", y2: "50%" };
  const mark = from === to
    ? svg("circle", { class: `mark ${kind}`, cx: middle(from), cy: "50%", r: "4" })
    : svg("line", { class: `arrow ${kind}`, ...ends, "marker-end": `url(#head-${kind})` });
  return svg("svg", { class: "strip", "aria-hidden": "true" }, ...lanes, mark);
}

/** Heads of the arrows, one of each colour. */
function heads() {
  const head = (kind) => svg("marker", {
    id: `head-${kind}`, class: `head ${kind}`, viewBox: "0 0 8 8", refX: "8", refY: "4", markerWidth: "8",
    markerHeight: "8", orient: "auto", markerUnits: "userSpaceOnUse",
  }, svg("path", { d: "M0 0L8 4L0 8z" }));
  return svg("svg", { class: "heads", "aria-hidden": "true" }, svg("defs", {}, ...["plain", "good", "warn", "bad"].map(head)));
}

/** The names of the lanes stand above them once. */
function names() {
  const lanes = LANES.map((name) => element("span", {}, name));
  return element("li", { class: "names", "aria-hidden": "true" }, heads(), element("span", { class: "lanes" }, ...lanes));
}

function rung(step, start, hasSeveral) {
  const unknown = () => [PROXY, PROXY, and(step.step, step)];
  const [from, to, words, kind = "plain"] = (STEPS[step.step] ?? unknown)(step);
  const after = `+${((new Date(step.at) - start) / 1000).toFixed(3)} s`;
  const where = from === to ? LANES[from] : `${LANES[from]} to ${LANES[to]}`;
  const isNamed = hasSeveral && step.device !== null;
  return element("li", { class: "rung" },
    element("span", { class: "when" }, time(step.at, true), element("span", { class: "quiet" }, after)),
    strip(from, to, kind),
    // Those who do not see the arrow hear of it.
    element("span", { class: `words ${kind}` }, element("span", { class: "hidden" }, `${where}: `), words,
      isNamed ? element("span", { class: "quiet code" }, ` ${step.device.slice(0, 6)}`) : ""));
}

/** Shows a call; `null` for one that is not remembered. */
export function showCall(callRef, call) {
  byId("call-ref").textContent = callRef;
  byId("call-title").textContent = call?.aor ? `Call to ${call.aor}` : "Call";
  if (call === null) {
    say("call-said", "This call is not among the last ones.");
    return byId("ladder").replaceChildren();
  }
  const [from, leftOut] = [callerOf(call), call.left_out ?? 0];
  const said = [stateOf(call), from ? ` from ${from}` : "", leftOut ? `, ${leftOut} steps from its middle are not kept` : ""];
  list(byId("call-said"), [said], ([state, ...words]) => element("span", {}, badge(state), ...words));
  const start = new Date(call.steps[0]?.at);
  const hasSeveral = new Set(call.steps.map((step) => step.device).filter(Boolean)).size > 1;
  const items = call.steps.map((step, index) => ({ ...step, key: `${index} ${call.call_ref} ${step.at} ${step.step}` }));
  const make = (item) => (item.key === "names" ? names() : rung(item, start, hasSeveral));
  list(byId("ladder"), [{ key: "names" }, ...items], make, (item) => item.key);
}
