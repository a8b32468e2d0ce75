// The dashboard: reads what the admin port tells and shows it, live.

import { Refused, get, listen, post, token } from "./api.js";
import { showBackends, showConfig, showRoutes } from "./lists.js";
import { Card, entry, shapeOf } from "./rollout.js";
import { STATES, VERBS, headline, why } from "./words.js";

const $ = (id) => document.getElementById(id);

// As many as Serin keeps.
const RECORDS_MAX = 200;
const RECORDS_SHOWN = 60;
// Samples come each second: without one for so long, what is shown is old.
const STALE_MS = 3500;

const cards = new Map();
let records = [];
let lastNews = 0;
let stop = null;
let states = new Map();
// Whether `records` are what there is, or were not told yet.
let areRead = false;

function announce(text) {
  $("announce").textContent = text;
}

function live(state, text) {
  if ($("live").dataset.live !== state) $("live").dataset.live = state;
  if ($("live-text").textContent !== text) $("live-text").textContent = text;
  document.body.classList.toggle("stale", state === "stale");
}

function alertWith(text) {
  $("alert").hidden = text === null;
  $("alert").textContent = text ?? "";
}

function showRollouts(at, rollouts) {
  $("no-rollouts").hidden = rollouts.length > 0;
  const names = new Set(rollouts.map((view) => view.name));
  for (const [name, card] of cards) {
    if (names.has(name)) continue;
    card.element.remove();
    cards.delete(name);
  }
  let renewed = false;
  for (const view of rollouts) {
    let card = cards.get(view.name);
    if (!card || card.shape !== shapeOf(view)) {
      const made = new Card(view, confirmVerb);
      if (card) card.element.replaceWith(made.element);
      else $("cards").append(made.element);
      cards.set(view.name, made);
      card = made;
      renewed = true;
      recall(view.name, made);
    }
    card.sample(at, view);
    const before = states.get(view.name);
    if (before && before !== view.state) announce(`${view.name}: ${STATES[view.state]}. ${headline(view)} ${why(view)}`);
    states.set(view.name, view.state);
  }
  if (renewed) {
    showRecords();
    fillFilter();
  }
  const bad = rollouts.filter((view) => view.state === "rolled_back").length;
  document.title = bad ? `(${bad}) rolled back – Serin` : "Serin";
}

async function recall(name, card) {
  try {
    const history = await get(`/api/history?rollout=${encodeURIComponent(name)}`);
    if (cards.get(name) === card) card.recall(history.points);
  } catch {
    // Nothing is known of before; what comes is shown all the same.
  }
}

function fillFilter() {
  const select = $("journal-filter");
  const wanted = select.value;
  const names = [...new Set([...cards.keys(), ...records.map((one) => one.rollout)])];
  select.replaceChildren(new Option("all", ""), ...names.map((name) => new Option(name, name)));
  select.value = names.includes(wanted) ? wanted : "";
}

function showRecords() {
  const newest = records.toReversed();
  const filter = $("journal-filter").value;
  const shown = newest.filter((one) => !filter || one.rollout === filter).slice(0, RECORDS_SHOWN);
  const empty = document.createElement("li");
  empty.className = "hint";
  empty.textContent = areRead
    ? "Nothing was decided yet. What Serin or an operator decides stands here, with its reason."
    : "Reading what was decided…";
  $("journal-list").replaceChildren(...(shown.length ? shown.map((one) => entry(one, true)) : [empty]));
  for (const [name, card] of cards) card.tell(newest.filter((one) => one.rollout === name).slice(0, RECORDS_SHOWN));
}

async function readRecords() {
  ({ records } = await get(`/api/journal?limit=${RECORDS_MAX}`));
  areRead = true;
  showRecords();
  fillFilter();
}

async function readRoutes() {
  showRoutes($("route-list"), await get("/api/routes"), (event, name) => {
    const card = cards.get(name);
    if (!card) return;
    event.preventDefault();
    card.element.scrollIntoView({ block: "start" });
    card.verbs.find((button) => !button.hidden)?.focus({ preventScroll: true });
  });
}

// What goes wrong here is seen in the stream as well, which says so.
const quietly = (promise) => promise.catch(() => {});

function onEvent(kind, data) {
  lastNews = Date.now();
  switch (kind) {
    case "sample":
      live("live", "live");
      showRollouts(data.at, data.rollouts);
      break;
    case "change":
      records = [...records, data].slice(-RECORDS_MAX);
      showRecords();
      quietly(readRoutes());
      break;
    case "config":
      showConfig($("config-card"), data);
      alertWith(data.last_error ? "The config file has defects; the config before stays in force. See Config below." : null);
      quietly(readRoutes());
      break;
    case "backends": showBackends($("backend-list"), data); break;
    case "lost": quietly(readRecords()); break;
    case "bye": live("stale", "Serin is shutting down"); break;
    default: break;
  }
}

function onBreak(error) {
  if (error instanceof Refused && error.status === 401) {
    signIn(token.get() ? "That token is not known here." : "");
    return;
  }
  // Whoever knows why says it; else it is the network.
  live("stale", error instanceof Refused ? "not connected" : "connection lost, trying again");
  if (error instanceof Refused) alertWith(error.message);
}

function start() {
  $("sign-in").hidden = true;
  document.body.classList.remove("signed-out");
  $("content").hidden = false;
  $("sign-out").hidden = token.get() === null;
  live("wait", "connecting");
  stop?.();
  stop = listen({
    onOpen() {
      alertWith(null);
      quietly(readRecords());
    },
    onEvent,
    onBreak,
  });
}

function signIn(error) {
  stop?.();
  stop = null;
  token.drop();
  alertWith(null);
  for (const card of cards.values()) card.element.remove();
  cards.clear();
  states = new Map();
  records = [];
  areRead = false;
  $("content").hidden = true;
  $("sign-out").hidden = true;
  $("sign-in").hidden = false;
  $("sign-in-error").textContent = error;
  live("wait", "signed out");
  document.body.classList.add("signed-out");
  $("token").value = "";
  $("token").focus();
}

$("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("token").value.trim();
  // A header takes visible ASCII only, and so does the file.
  if (!/^[\x21-\x7e]+$/.test(given)) {
    $("sign-in-error").textContent = "A token is visible ASCII without spaces.";
    return;
  }
  token.set(given);
  start();
});
$("sign-out").addEventListener("click", () => signIn(""));
$("journal-filter").addEventListener("change", showRecords);

// What is asked now: a verb and a rollout.
let asked = null;

function confirmVerb(verb, view) {
  asked = { verb, view };
  const { label, title, text, danger } = VERBS[verb];
  $("confirm-title").textContent = title(view.name);
  $("confirm-text").textContent = text(view);
  const old = document.body.classList.contains("stale") ? "What you see may be old: the page is not connected. " : "";
  $("confirm-now").textContent = `${old}Now: ${STATES[view.state] ?? view.state}. ${headline(view)}`;
  $("confirm-full").hidden = verb !== "promote" || view.steps.length === 0;
  $("full").checked = false;
  $("confirm-error").textContent = "";
  $("confirm-yes").textContent = label;
  $("confirm-yes").className = danger ? "danger filled" : "main";
  $("confirm-yes").disabled = false;
  $("confirm").showModal();
}

$("confirm-no").addEventListener("click", () => $("confirm").close());
$("confirm-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { verb, view } = asked;
  $("confirm-yes").disabled = true;
  const query = verb === "promote" && $("full").checked ? "?full=true" : "";
  try {
    const now = await post(`/api/rollouts/${encodeURIComponent(view.name)}/${verb}${query}`);
    $("confirm").close();
    cards.get(view.name)?.update(now);
    announce(`${VERBS[verb].label}: done. ${now.name}: ${STATES[now.state]}. ${headline(now)}`);
  } catch (error) {
    $("confirm-error").textContent = error instanceof Refused ? error.message
      : "No answer. Whether it was done shows above once the page is connected again.";
    $("confirm-yes").disabled = false;
  }
});
$("confirm").addEventListener("close", () => {
  const card = cards.get(asked?.view.name);
  const same = card?.verbs.find((button) => button.dataset.verb === asked.verb && !button.hidden);
  (same ?? card?.verbs.find((button) => !button.hidden))?.focus();
});

setInterval(() => {
  if (stop === null || lastNews === 0) return;
  const quiet = Date.now() - lastNews;
  if (quiet > STALE_MS) live("stale", `no news for ${Math.round(quiet / 1000)} s, trying again`);
}, 1000);

start();
