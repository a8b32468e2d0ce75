// The card of one rollout. Text that comes from Serin is only ever set as text.

import { Chart } from "./charts.js";
import { ENDED, STATES, VERBS, ago, clock, count, evidence, evidenceText, fleetText, headline, millis, objectiveText,
  percent, recordText, why } from "./words.js";

// Points of a chart: ten minutes.
const POINTS_MAX = 600;

// Requests that are named with a decision.
const FAILING_SHOWN = 5;

export function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null));
  return element;
}

const byRole = (view, role) => view.versions.find((one) => one.role === role) ?? null;

export function pointOf(at, view) {
  const arm = (role) => byRole(view, role);
  return {
    at, state: view.state, weight: view.weight, stable: arm("stable"), canary: arm("canary"),
    objectives: view.objectives.map((one) => ({
      ratio: one.canary.ratio, low: one.canary.low, high: one.canary.high, stable: one.stable.ratio,
      over_limit: one.over_limit, worse_than_stable: one.worse_than_stable,
    })),
  };
}

// A card is made anew when what it consists of is another.
export const shapeOf = (view) => JSON.stringify([view.version, view.objectives.map((one) => one.name), view.steps.length]);

export class Card {
  constructor(view, onVerb) {
    this.shape = shapeOf(view);
    this.points = [];
    this.onVerb = onVerb;
    this.element = make("article", "card rollout");
    const id = `rollout-${view.name}`;
    this.title = make("h3", "", view.name);
    this.title.id = id;
    this.element.setAttribute("aria-labelledby", id);
    this.badge = make("span", "badge");
    this.since = make("span", "hint");
    this.headline = make("p", "headline");
    this.why = make("p", "why");
    this.fleet = make("p", "hint");
    this.element.append(
      make("header", "card-head", make("div", "name", this.title, this.badge, this.since), this.buttons(view)),
      this.headline, this.why, this.fleet, this.share(), ...this.steps(view), this.charts(view), this.decisions());
    this.update(view);
  }

  buttons(view) {
    this.verbs = Object.entries(VERBS).map(([verb, { label, danger }]) => {
      const button = make("button", danger ? "danger" : "", label);
      button.type = "button";
      button.dataset.verb = verb;
      button.setAttribute("aria-label", `${label} ${view.name}`);
      button.addEventListener("click", () => this.onVerb(verb, this.view));
      return button;
    });
    const group = make("div", "buttons", ...this.verbs);
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `What can be done with ${view.name}`);
    return group;
  }

  // Who gets how much, and how each does.
  share() {
    this.bar = { stable: make("span", "part stable"), canary: make("span", "part canary") };
    const bar = make("div", "bar", this.bar.stable, this.bar.canary);
    bar.setAttribute("aria-hidden", "true");
    const head = make("tr", "");
    for (const text of ["Version", "Share", "Req/s", "Errors", "p99"]) {
      const cell = make("th", "", text);
      cell.scope = "col";
      head.append(cell);
    }
    this.rows = make("tbody");
    const caption = make("caption", "unseen", "Both versions over the last ten seconds");
    return make("div", "share", bar, make("table", "versions", caption, make("thead", "", head), this.rows));
  }

  steps(view) {
    this.stepList = null;
    if (view.steps.length === 0) return [];
    this.stepList = make("ol", "steps");
    this.stepList.setAttribute("aria-label", "Steps of the plan");
    for (const step of view.steps) {
      const what = step.mirror === null ? percent(step.weight) : `copies of ${percent(step.mirror)}`;
      this.stepList.append(make("li", "", make("b", "", what), make("span", "", step.until)));
    }
    return [this.stepList];
  }

  charts(view) {
    const arms = (read) => ["stable", "canary"].map((kind) =>
      ({ kind, label: view[kind], value: (point) => read(point[kind]) }));
    this.drawn = [
      new Chart({
        title: "Share of requests", format: percent, max: 1,
        series: [{ kind: "canary", label: view.canary, value: (point) => point.weight }],
      }),
      new Chart({ title: "Errors, last 10 s", format: percent, least: 0.01, series: arms((arm) => arm?.errors) }),
      new Chart({ title: "Latency p99, last 10 s", format: millis, least: 10, series: arms((arm) => arm?.p99_ms ?? undefined) }),
    ];
    const general = make("div", "charts", ...this.drawn.map((chart) => chart.element));
    this.objectives = view.objectives.map((one, index) => this.objective(view, one, index));
    return make("div", "", general, ...this.objectives.map((one) => one.element));
  }

  objective(view, first, index) {
    const now = () => this.view?.objectives[index] ?? first;
    const of = (read) => (point) => {
      const figures = point.objectives[index];
      return figures ? read(figures) ?? undefined : undefined;
    };
    const ratio = new Chart({
      title: "How many were bad", format: percent, limit: { label: "limit", value: () => now().limit },
      series: [
        { kind: "stable", label: "stable", value: of((one) => one.stable) },
        { kind: "canary", label: "canary", value: of((one) => one.ratio), low: of((one) => one.low), high: of((one) => one.high) },
      ],
    });
    const proof = new Chart({
      title: "Evidence against the canary", format: evidence, log: true,
      limit: { label: "proof at", value: () => now().threshold },
      series: [
        { kind: "canary", label: "over its limit", value: of((one) => one.over_limit) },
        { kind: "other", label: "worse than stable", value: of((one) => one.worse_than_stable) },
      ],
    });
    this.drawn.push(ratio, proof);
    const badge = make("span", "verdict");
    const [counts, meaning] = [make("p", "hint"), make("p", "hint")];
    const element = make("section", "objective",
      make("h4", "", make("span", "", first.name), badge),
      make("div", "charts two", make("div", "", ratio.element, counts), make("div", "", proof.element, meaning)));
    return { element, badge, counts, meaning };
  }

  decisions() {
    this.timeline = make("ol", "timeline");
    this.noDecision = make("p", "hint", "Nothing was decided yet.");
    return make("details", "decisions", make("summary", "", "Timeline of decisions"), this.noDecision, this.timeline);
  }

  // Points of before this page was there.
  recall(points) {
    const first = this.points[0]?.at ?? Infinity;
    this.points = [...points.filter((one) => one.at < first), ...this.points].slice(-POINTS_MAX);
    this.draw();
  }

  sample(at, view) {
    if (at > (this.points.at(-1)?.at ?? 0)) this.points.push(pointOf(at, view));
    if (this.points.length > POINTS_MAX) this.points.shift();
    this.update(view);
    this.draw();
  }

  draw() {
    for (const chart of this.drawn) chart.update(this.points);
  }

  update(view) {
    this.view = view;
    this.element.dataset.state = view.state;
    this.badge.textContent = STATES[view.state] ?? view.state;
    this.badge.dataset.state = view.state;
    const since = Date.parse(view.since);
    this.since.textContent = ago(since, Date.now());
    this.since.title = view.since;
    this.headline.textContent = headline(view);
    this.why.textContent = why(view);
    this.fleet.textContent = fleetText(view);
    this.fleet.hidden = !view.fleet;
    for (const button of this.verbs) button.hidden = !VERBS[button.dataset.verb].fits(view);
    const canary = byRole(view, "canary");
    const stable = byRole(view, "stable");
    if (canary && stable) {
      this.bar.stable.style.flexGrow = stable.weight;
      this.bar.canary.style.flexGrow = canary.weight;
      this.bar.stable.textContent = stable.weight > 0.12 ? percent(stable.weight) : "";
      this.bar.canary.textContent = canary.weight > 0.07 ? percent(canary.weight) : "";
    }
    this.fill([["stable", stable], ["canary", canary]]);
    [...(this.stepList?.children ?? [])].forEach((item, index) => {
      const ended = ENDED.has(view.state);
      const done = view.state === "promoted" || (!ended && index < view.step);
      item.className = done ? "done" : !ended && index === view.step ? "now" : "";
      if (item.className === "now") item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    });
    view.objectives.forEach((one, index) => {
      const shown = this.objectives[index];
      const words = { promote: "kept", hold: "open", rollback: "breached" };
      shown.badge.textContent = words[one.verdict] ?? one.verdict;
      shown.badge.dataset.verdict = one.verdict;
      shown.counts.textContent = objectiveText(one);
      shown.meaning.textContent = evidenceText(one);
    });
  }

  fill(versions) {
    const rows = versions.filter(([, one]) => one).map(([role, one]) => {
      const name = make("th", "", make("span", `swatch ${role}`), make("b", "", one.name), make("span", "role", role));
      name.scope = "row";
      const cells = [percent(one.weight), count(one.rps), percent(one.errors), millis(one.p99_ms)];
      return make("tr", "", name, ...cells.map((text) => make("td", "", text)));
    });
    this.rows.replaceChildren(...rows);
  }

  tell(records) {
    this.noDecision.hidden = records.length > 0;
    this.timeline.replaceChildren(...records.map((one) => entry(one, false)));
  }
}

// A line of a timeline.
export function entry(record, named) {
  const [what, reason] = recordText(record);
  const time = make("time", "", clock(Date.parse(record.at)));
  time.dateTime = record.at;
  time.title = record.at;
  const text = make("div", "", make("b", "", what));
  if (named) text.append(make("span", "role", record.rollout));
  if (reason) text.append(make("p", "", reason));
  const failing = (record.failing ?? []).slice(0, FAILING_SHOWN);
  if (failing.length) {
    text.append(make("p", "", "The first requests that counted against it:"));
    text.append(make("ul", "failing", ...failing.map((one) => make("li", "", make("code", "", one.id),
      ` ${one.status ?? one.reason ?? "no answer"} after ${millis(one.latency_ms)}, for ${one.objective}`,
      ...(one.trace_id ? [", trace ", make("code", "", one.trace_id)] : [])))));
  }
  const item = make("li", "", time, text);
  item.dataset.state = record.state ?? record.kind;
  return item;
}
