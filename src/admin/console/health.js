// How the server does: readiness, the last hour's calls, the push services, the store.

import { badge } from "./calls.js";
import { byId, duration, element, list, say, time } from "./dom.js";

const READINESS = { ready: ["ready", "good"], degraded: ["degraded", "warn"], not_ready: ["not ready", "bad"] };

export function showReadiness({ status, reasons }) {
  say("readiness", ...(READINESS[status] ?? [status, "bad"]));
  byId("reasons").hidden = reasons.length === 0;
  byId("reasons").classList.toggle("bad", status === "not_ready");
  list(byId("reasons"), reasons, (reason) => element("li", {}, reason));
}

/** How far calls came, each number also as a part of the held ones. */
export function showFunnel(calls) {
  const part = (count) => (calls.held > 0 ? Math.round((count / calls.held) * 100) : 0);
  const stages = [["held", calls.held], ["pushes accepted", calls.push_accepted], ["woken", calls.woken], ["answered", calls.answered]];
  list(byId("funnel"), stages.map(([name, count]) => [name, count, part(count)]), ([name, count, percent]) => {
    const bar = element("span", { class: "bar", "aria-hidden": "true" }, element("span", {}));
    bar.firstChild.style.width = `${percent}%`;
    return element("li", {},
      element("strong", {}, String(count)), " ",
      element("span", {}, name), " ",
      element("span", { class: "quiet" }, name === "held" ? "" : `${percent} %`),
      bar);
  });
}

function stateOf(provider) {
  if (!provider.enabled) return ["switched off", "plain"];
  return provider.troubles.length === 0 ? ["works", "good"] : ["fails", "bad"];
}

export function showProviders(providers) {
  byId("providers-none").hidden = providers.length > 0;
  // On a narrow screen each number carries its name, for the head of the table is not there.
  const names = ["accepted", "refused", "woken", "p50", "p90", "p99"];
  const rows = providers.flatMap((provider) => {
    const times = [provider.wake_p50_ms, provider.wake_p90_ms, provider.wake_p99_ms].map(duration);
    const numbers = [provider.accepted, provider.refused, provider.wakes, ...times].map((number, index) =>
      element("td", { class: "number", "data-name": names[index] }, String(number)));
    const main = element("tr", {},
      element("th", { scope: "row" }, provider.provider), element("td", {}, badge(stateOf(provider))), ...numbers);
    const notes = provider.troubles.map((trouble) => element("p", { class: "bad" }, trouble));
    const refusal = provider.last_refusal;
    if (refusal) {
      const why = [refusal.result.replaceAll("_", " "), refusal.reason].filter(Boolean).join(": ");
      notes.push(element("p", { class: "quiet" }, "Last refusal ", time(refusal.at), `: ${why}`));
    }
    if (notes.length === 0) return [main];
    return [main, element("tr", { class: "note" }, element("td", { colspan: "8" }, ...notes))];
  });
  byId("providers").replaceChildren(...rows);
}

export function showStore(store, reasons) {
  const trouble = reasons.find((reason) => reason.startsWith("store: "));
  const state = !store.up ? ["does not write", "bad"] : trouble ? ["degraded", "warn"] : ["writes", "good"];
  const facts = [
    ["State", state],
    ["Bindings", String(store.bindings)],
    ["Calls in push buckets", String(store.bucket_entries)],
    ["Changes in the journal", String(store.journal_entries)],
    ["Nodes", String(store.nodes)],
  ];
  list(byId("store"), facts, ([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, typeof value === "string" ? value : badge(value))));
}
