// What things are called and how numbers are written. Never touches the page.

export const STATES = {
  progressing: "In progress",
  holding: "On hold",
  paused: "Paused",
  promoted: "Promoted",
  rolled_back: "Rolled back",
  aborted: "Aborted",
};

export const ENDED = new Set(["promoted", "rolled_back", "aborted"]);

const HOLDS = {
  "shared cause": "Both versions fail, so the canary is not to blame. It keeps its share until that is over.",
  suspicious: "Something looks wrong with the canary. It is not proven yet.",
  "not enough traffic": "The canary has seen too few requests to go on.",
  soaking: "Nothing is wrong. The time of this step is not over yet.",
  "routing mismatch": "The canary gets another share than it should, so it cannot be compared with stable.",
  "canary has no ready endpoint": "No endpoint of the canary answers. Its share goes to stable meanwhile.",
  "not proven": "Nothing is wrong, but that the canary is good is not proven yet.",
  paused: "Waits for somebody to resume or to promote it.",
  "replicas missing": "Some replicas of Serin do not tell what they counted.",
};

export function holdText(reason) {
  return HOLDS[reason] ?? `"${reason}" is breached; the config says to hold then.`;
}

export const VERBS = {
  promote: {
    label: "Promote",
    title: (name) => `Promote ${name}?`,
    text: (view) => (view.steps.length
      ? "The canary goes on to its next step now, without waiting for evidence. After the last step it gets every request."
      : "The canary gets every request of the rule from now on, without waiting for evidence."),
    fits: (view) => !ENDED.has(view.state),
  },
  pause: {
    label: "Pause",
    title: (name) => `Pause ${name}?`,
    text: () => "The canary keeps its share and goes no further until somebody resumes it. It is judged all the same, and still taken out if it is proven to be bad.",
    fits: (view) => !ENDED.has(view.state) && view.state !== "paused",
  },
  resume: {
    label: "Resume",
    title: (name) => `Resume ${name}?`,
    text: () => "The rollout goes on from where it was paused.",
    fits: (view) => view.state === "paused",
  },
  abort: {
    label: "Abort",
    danger: true,
    title: (name) => `Abort ${name}?`,
    text: (view) => `${view.canary} gets no more requests from now on; all of them go to ${view.stable}. It stays out, over restarts too, until there is another version or a reset.`,
    fits: (view) => !ENDED.has(view.state),
  },
  reset: {
    label: "Reset",
    danger: true,
    title: (name) => `Reset ${name}?`,
    text: (view) => `${view.canary} is given another chance: the rollout starts afresh from its first step, and what was counted is forgotten. Users get it again at once.`,
    fits: (view) => ENDED.has(view.state),
  },
};

const NO_BREAK = "\u00a0";

export function percent(ratio) {
  if (ratio === null || ratio === undefined || Number.isNaN(ratio)) return "–";
  const value = ratio * 100;
  const digits = value === 0 || value >= 99.95 ? 0 : value < 0.1 ? 3 : value < 1 ? 2 : 1;
  return `${trim(value.toFixed(digits))}${NO_BREAK}%`;
}

const trim = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

export function millis(value) {
  if (value === null || value === undefined) return "–";
  // More digits would not fit beside a chart.
  if (value >= 1000) return `${trim((value / 1000).toFixed(value < 10000 ? 2 : 1))}${NO_BREAK}s`;
  return `${trim(value.toFixed(value < 10 ? 1 : 0))}${NO_BREAK}ms`;
}

export function count(value) {
  if (value === null || value === undefined) return "–";
  return value < 10 ? trim(value.toFixed(1)) : Math.round(value).toLocaleString("en-US").replaceAll(",", "\u202f");
}

export function evidence(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1e6) return `10${superscript(Math.floor(Math.log10(value)))}`;
  return value < 10 ? trim(value.toFixed(value < 1 ? 2 : 1)) : count(value);
}

function superscript(number) {
  return [...String(number)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(digit)]).join("");
}

export function ago(from, now) {
  const seconds = Math.max(0, Math.round((now - from) / 1000));
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} days ago`;
}

export function clock(at) {
  return new Date(at).toLocaleTimeString("en-GB");
}

export function headline(view) {
  const share = percent(view.weight);
  switch (view.state) {
    case "rolled_back": return `${view.canary} was taken out. Every request goes to ${view.stable}.`;
    case "aborted": return `${view.canary} was taken out by an operator. Every request goes to ${view.stable}.`;
    case "promoted": return `${view.canary} gets every request of ${view.rule}.`;
    default: return `${view.canary} gets ${share} of ${view.rule}.`;
  }
}

export function why(view) {
  if (view.reason) return view.reason;
  if (view.hold_reason === "soaking" && view.steps.length === 0) return "Nothing is wrong so far.";
  if (view.hold_reason) return holdText(view.hold_reason);
  if (view.state === "promoted") return "All steps are done.";
  if (view.state === "paused") return HOLDS.paused;
  return "Nothing is wrong so far.";
}

// How it stands in a fleet of replicas.
export function fleetText({ fleet }) {
  if (!fleet) return "";
  if (!fleet.connected) return "This replica cannot reach the Kubernetes API: it judges on its own, and does not know of the others.";
  if (!fleet.pooled) return fleet.holder ? `${fleet.holder} judges for the whole fleet. Counts and charts here are of this replica.` : "Nobody judges for the fleet yet.";
  const missing = fleet.pooled.missing.length;
  const lost = missing ? ` ${missing} ${missing === 1 ? "does" : "do"} not answer: ${fleet.pooled.missing.join(", ")}.` : "";
  return `This replica judges for the fleet of ${fleet.pooled.replicas}.${lost} Counts and charts here are its own.`;
}

export function objectiveText(one) {
  const { bad, total, ratio, low, high } = one.canary;
  if (total === 0) return "No request of the canary has counted yet.";
  const range = `truly between ${percent(low)} and ${percent(high)}`;
  return `${count(bad)} of ${count(total)} bad: ${percent(ratio)}, ${range}. Limit ${percent(one.limit)}. `
    + `Stable: ${percent(one.stable.ratio)}.`;
}

export function evidenceText(one) {
  const worse = one.worse_than_stable;
  const over = one.over_limit >= one.threshold;
  if (over && worse !== null && worse >= one.threshold) return "Proven: over its limit, and worse than stable.";
  if (over && worse === null) return "Proven: over its limit.";
  if (over) return "Over its limit for certain, but not proven to be worse than stable.";
  const most = Math.max(one.over_limit, 0);
  return most > 10 ? "The evidence grows." : "No evidence against the canary.";
}

// A record of the journal as one line: what, and the reason.
export function recordText(record) {
  switch (record.kind) {
    case "told": return [`Told to ${record.word.replace("_", " ")}`, record.by ? `by ${record.by}` : "by an operator"];
    case "adopted": return ["Taken out with the fleet", `as ${record.by} had found`];
    case "moved": return ["Went on with the fleet", `as ${record.by} had written down`];
    case "changed": {
      const state = STATES[record.state] ?? record.state;
      const where = record.step === null || record.step === undefined ? "" : `, step ${record.step + 1}`;
      const share = ENDED.has(record.state) ? "" : ` at ${percent(record.share)}`;
      const reason = record.reason ?? (record.hold_reason ? holdText(record.hold_reason) : "");
      return [state + where + share, reason];
    }
    default: return [record.kind, ""];
  }
}
