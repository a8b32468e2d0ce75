// Routes, backends and the config. Text that comes from Serin is only ever set as text.

import { make } from "./rollout.js";
import { count, percent } from "./words.js";

function matchText(one) {
  const parts = [];
  if (one.method) parts.push(one.method);
  const path = one.path ?? {};
  if (path.prefix) parts.push(path.prefix === "/" ? "every path" : `${path.prefix}…`);
  if (path.exact) parts.push(path.exact);
  if (path.regex) parts.push(`path like ${path.regex}`);
  for (const kind of ["headers", "cookies", "query"]) {
    for (const each of one[kind] ?? []) parts.push(`${kind === "query" ? "?" : ""}${each.name}: ${each.value ?? each.regex ?? (each.present === false ? "absent" : "present")}`);
  }
  if (one.model) parts.push(`model ${typeof one.model === "string" ? one.model : JSON.stringify(one.model)}`);
  return parts.join(" · ") || "every request";
}

export function showRoutes(place, { routes }, onRollout) {
  place.replaceChildren(...routes.map((route) => {
    const hosts = (route.hostnames ?? []).join(", ");
    const rules = (route.rules ?? []).map((rule) => {
      const matches = (rule.matches ?? [{}]).map((one) => make("code", "", matchText(one)));
      const shares = (rule.shares ?? []).map(({ backend, share }) =>
        make("li", share === 0 ? "none" : "", make("span", "", backend), make("b", "", percent(share))));
      const head = make("div", "rule-head", make("b", "", rule.name), ...matches);
      if (rule.rollout) {
        const link = make("a", "", `rollout ${rule.rollout}`);
        link.href = `#rollout-${encodeURIComponent(rule.rollout)}`;
        link.addEventListener("click", (event) => onRollout(event, rule.rollout));
        head.append(link);
      }
      for (const mirror of rule.mirrors ?? []) head.append(make("span", "role", `copies to ${mirror.backend ?? mirror.name}`));
      return make("div", "rule", head, make("ul", "shares", ...shares));
    });
    const name = make("h3", "", route.name);
    if (hosts) name.append(make("span", "role", hosts));
    return make("div", "route", name, ...rules);
  }));
}

export function showBackends(place, { backends }) {
  place.replaceChildren(...backends.map((backend) => {
    const serving = backend.endpoints.filter((one) => one.state === "serving").length;
    const all = backend.endpoints.length;
    const well = make("p", serving === all && all > 0 ? "" : "bad-text", all === 0 ? "no endpoint is known" : `${serving} of ${all} serving`);
    const endpoints = backend.endpoints.map((one) => {
      const item = make("li", "endpoint", make("span", "dot"), make("code", "", one.address), make("span", "role", one.state));
      item.dataset.state = one.state;
      return item;
    });
    const details = [backend.protocol, backend.source === "listed" ? "" : backend.source,
      backend.found === false ? "the last search failed" : "",
      backend.in_flight_max === null ? "" : `at most ${count(backend.in_flight_max)} under way, ${count(backend.waiting)} wait`];
    return make("div", "card tile", make("h3", "", backend.name), well, make("ul", "endpoints", ...endpoints),
      make("p", "hint", details.filter(Boolean).join(" · ")));
  }));
}

export function showConfig(place, config) {
  const rows = [["Generation", String(config.generation)], ["File", config.origin], ["In force since", config.loaded_at],
    ["Hash", config.hash], ["Serin", config.serin]];
  const list = make("dl", "facts");
  for (const [name, value] of rows) list.append(make("div", "", make("dt", "", name), make("dd", "", value)));
  place.replaceChildren(list);
  if (!config.last_error) {
    place.append(make("p", "good-text", "The file on disk is in force."));
    return;
  }
  place.append(make("p", "bad-text", "The file on disk has defects, so the config before stays in force:"));
  place.append(make("ul", "defects", ...config.last_error.map((one) => make("li", "",
    make("code", "", `${one.line}:${one.column} ${one.code}`), make("b", "", one.message), make("p", "", one.help)))));
}
