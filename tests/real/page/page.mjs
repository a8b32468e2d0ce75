// The dashboard as people use it. Every step says what it saw; the first that fails ends it with 1.
//
// Also holds of every page: no console error, no violation of the policy, nothing asked of others.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { World } from "./world.mjs";

const [serin, executablePath, screenshots] = process.argv.slice(2);
await mkdir(screenshots, { recursive: true });

const WAIT = { timeout: 20000 };
const profile = await mkdtemp(join(tmpdir(), "serin-chromium-"));
const args = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const context = await chromium.launchPersistentContext(profile, { executablePath, headless: true, args, viewport: { width: 1280, height: 900 } });
const worlds = [];
// What a browser says that is not as it should be; `expected` are texts that may be said.
const complaints = [];
let expected = [];

async function open(world, options = {}) {
  const page = await context.newPage();
  if (options.before) await options.before(page);
  page.on("console", (message) => {
    if (message.type() !== "error" && message.type() !== "warning") return;
    if (!expected.some((text) => message.text().includes(text))) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(world.admin) && !request.url().startsWith("data:")) complaints.push(`asked ${request.url()}`);
  });
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  await page.goto(world.admin, { waitUntil: "domcontentloaded" });
  return page;
}

const start = async (options) => {
  const world = await World.start(serin, options);
  worlds.push(world);
  return world;
};

const card = (page, name) => page.locator(`article:has(h3#rollout-${name})`);

async function picture(page, name, fullPage = true) {
  if (fullPage) await page.evaluate(() => window.scrollTo(0, 0));
  await page.screenshot({ path: join(screenshots, `${name}.png`), fullPage });
}

async function noSidewaysScroll(page) {
  const [wide, seen] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= seen, `${wide} pixels wide on ${seen}`);
}

// What stands beside a chart fits there, whatever the numbers are.
async function noTextIsCut(page) {
  const cut = await page.evaluate(() => [...document.querySelectorAll("svg text")]
    .filter((one) => { const { x, width } = one.getBBox(); return x < -0.5 || x + width > one.ownerSVGElement.clientWidth + 0.5; })
    .map((one) => { const box = one.getBBox(); return `${one.textContent} ${box.x} ${box.width} ${one.ownerSVGElement.clientWidth}`; }));
  assert.deepEqual(cut, []);
}

async function rollbackIsSeen(world, page) {
  const sentiment = card(page, "sentiment-v2");
  await page.locator("#live[data-live=live]").waitFor(WAIT);
  await sentiment.locator(".badge", { hasText: /In progress|On hold/ }).waitFor(WAIT);
  // Long enough for lines to be seen.
  await page.waitForFunction(() => document.querySelector(".line.canary")?.getAttribute("points").split(" ").length > 8, null, WAIT);
  world.v2.status = 500;
  await sentiment.locator(".badge", { hasText: "Rolled back" }).waitFor(WAIT);
  const why = await sentiment.locator(".why").textContent();
  assert.match(why, /^errors <= 1%: /);
  assert.match(await sentiment.locator("tbody tr").nth(1).locator("td").first().textContent(), /^0\s%$/);
  await page.locator("#announce", { hasText: "sentiment-v2: Rolled back" }).waitFor({ state: "attached", timeout: 5000 });
  await page.locator("#journal-list li", { hasText: "Rolled back" }).first().waitFor(WAIT);
  assert.match(await page.title(), /rolled back/);
  for (const verb of ["promote", "abort", "pause", "resume"]) assert.equal(await sentiment.locator(`button[data-verb=${verb}]`).isVisible(), false, verb);
  const proven = await sentiment.locator(".objective").first().textContent();
  assert.match(proven, /Proven: over its limit, and worse than stable/);
}

async function promoteAsksFirst(page) {
  const topics = card(page, "topics-v2");
  await topics.locator(".badge", { hasText: /In progress|On hold/ }).waitFor(WAIT);
  assert.match(await topics.locator(".headline").textContent(), /gets 10\s%/);
  await topics.locator("button[data-verb=promote]").click();
  await page.locator("dialog[open] h2", { hasText: "Promote topics-v2?" }).waitFor(WAIT);
  await picture(page, "confirm", false);
  await page.locator("#confirm-no").click();
  assert.match(await topics.locator(".headline").textContent(), /gets 10\s%/);
  await topics.locator("button[data-verb=promote]").click();
  await page.locator("#confirm-yes").click();
  await topics.locator(".headline", { hasText: /gets 50\s%/ }).waitFor(WAIT);
  await page.locator("#journal-list li", { hasText: "Told to promote" }).first().waitFor(WAIT);
  assert.equal(await page.locator("dialog[open]").count(), 0);
}

async function say(page, name, verb) {
  await card(page, name).locator(`button[data-verb=${verb}]`).click();
  await page.locator("dialog[open]").waitFor(WAIT);
  await page.locator("#confirm-yes").click();
  await page.locator("dialog[open]").waitFor({ state: "detached", timeout: 20000 });
}

const verbsOf = (page, name) => card(page, name).locator("button[data-verb]:visible").evaluateAll((all) => all.map((one) => one.dataset.verb));

// Pause stands until resume; what was taken out comes back by reset alone. The journal has every word.
async function everyVerbDoesWhatItSays(world, page) {
  await say(page, "topics-v2", "pause");
  await card(page, "topics-v2").locator(".badge", { hasText: "Paused" }).waitFor(WAIT);
  assert.match(await card(page, "topics-v2").locator(".headline").textContent(), /50\s%/, "the share stays");
  assert.deepEqual((await verbsOf(page, "topics-v2")).sort(), ["abort", "promote", "resume"]);
  await say(page, "topics-v2", "resume");
  await card(page, "topics-v2").locator(".badge", { hasText: /In progress|On hold/ }).waitFor(WAIT);
  world.v2.status = 200;
  assert.deepEqual(await verbsOf(page, "sentiment-v2"), ["reset"]);
  await say(page, "sentiment-v2", "reset");
  await card(page, "sentiment-v2").locator(".badge", { hasText: /In progress|On hold/ }).waitFor(WAIT);
  await card(page, "sentiment-v2").locator(".headline", { hasText: /gets 20\s%/ }).waitFor(WAIT);
  for (const word of ["pause", "resume", "reset"]) await page.locator("#journal-list li", { hasText: `Told to ${word}` }).first().waitFor(WAIT);
  await page.waitForFunction(() => !document.title.includes("rolled back"), null, WAIT);
}

// Tab, Enter and Escape are all there is.
async function keyboardIsEnough(page) {
  const topics = card(page, "topics-v2");
  await page.evaluate(() => document.activeElement?.blur());
  await page.locator("body").press("Tab");
  const reach = async (label) => {
    for (let tries = 0; tries < 120; tries += 1) {
      const found = await page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.id);
      if (found === label) return;
      await page.keyboard.press("Tab");
    }
    throw new Error(`no way to ${label} by Tab`);
  };
  await reach("Abort topics-v2");
  await page.keyboard.press("Enter");
  await page.locator("dialog[open]").waitFor(WAIT);
  assert.equal(await page.evaluate(() => document.activeElement.id), "confirm-no", "the safe button has the focus");
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("dialog[open]").count(), 0);
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Abort topics-v2");
  await page.keyboard.press("Enter");
  await reach("confirm-yes");
  await page.keyboard.press("Enter");
  await topics.locator(".badge", { hasText: "Aborted" }).waitFor(WAIT);
  const chart = topics.locator("svg").first();
  await chart.focus();
  await page.keyboard.press("ArrowLeft");
  await topics.locator(".moment", { hasText: /at \d\d:/ }).first().waitFor(WAIT);
}

async function badConfigIsSeen(world, page) {
  await world.write("weight: 80", "weihgt: 80");
  await page.locator("#alert", { hasText: "defects" }).waitFor(WAIT);
  await page.locator("#config-card", { hasText: "weihgt" }).waitFor(WAIT);
  await picture(page, "bad-config");
  await world.write("weight: 80", "weight: 81");
  await page.locator("#alert").waitFor({ state: "hidden", timeout: 20000 });
  await page.locator("#config-card", { hasText: /Generation2/ }).waitFor(WAIT);
}

async function looksAndWidths(page) {
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme });
    await picture(page, scheme);
  }
  await page.emulateMedia({ colorScheme: "light" });
  for (const width of [360, 320]) {
    await page.setViewportSize({ width, height: 780 });
    await page.waitForTimeout(200);
    await noSidewaysScroll(page);
    await noTextIsCut(page);
    if (width === 360) await picture(page, "phone");
  }
  await page.setViewportSize({ width: 1280, height: 900 });
}

// A page that is asked once, with what `change` makes of how things are; later the stream is away.
async function hostileTextIsText(world) {
  const evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";
  expected = ["net::ERR_FAILED", "Failed to load resource"];
  const { rollouts } = await (await fetch(`${world.admin}/api/rollouts`)).json();
  const view = { ...rollouts[0], state: "rolled_back", reason: evil, hold_reason: evil, canary: evil };
  view.objectives = view.objectives.map((one) => ({ ...one, name: evil }));
  const record = { at: view.since, tick: 1, rollout: evil, version: "1", kind: "changed", state: "rolled_back", step: null, share: 0, reason: evil, hold_reason: null, objectives: [] };
  const told = { at: view.since, tick: 1, rollout: view.name, version: "1", kind: "told", word: "abort", by: evil };
  const say = (kind, data) => `event: ${kind}\ndata: ${JSON.stringify(data)}\n\n`;
  let asked = 0;
  const page = await open(world, {
    before: (made) => made.route("**/api/events", (route) => {
      asked += 1;
      if (asked > 1) return route.abort();
      const body = say("sample", { at: Date.now(), rollouts: [view] }) + say("change", record) + say("change", told);
      return route.fulfill({ contentType: "text/event-stream", body });
    }),
  });
  await page.locator(".why", { hasText: "<img src=x" }).waitFor(WAIT);
  await page.locator("#live[data-live=stale]").waitFor(WAIT);
  assert.equal(await page.locator("main img, main script").count(), 0);
  assert.doesNotMatch(await page.title(), /owned/);
  assert.ok(await page.evaluate(() => document.body.classList.contains("stale")));
  await page.setViewportSize({ width: 360, height: 780 });
  await page.waitForTimeout(200);
  await noSidewaysScroll(page);
  await page.close();
  expected = [];
}

// A page whose stream says `fleet` of a rollout, and what it makes of that.
async function fleetLine(world, fleet) {
  expected = ["net::ERR_FAILED", "Failed to load resource"];
  const { rollouts } = await (await fetch(`${world.admin}/api/rollouts`)).json();
  const view = { ...rollouts[0], ...(fleet ? { fleet } : {}) };
  const page = await open(world, {
    before: (made) => made.route("**/api/events", (route) => route.fulfill({
      contentType: "text/event-stream",
      body: `event: sample\ndata: ${JSON.stringify({ at: Date.now(), rollouts: [view] })}\n\n`,
    })),
  });
  await page.locator(".headline").first().waitFor(WAIT);
  const line = page.locator("article p.hint").first();
  const text = (await line.isVisible()) ? await line.textContent() : null;
  if (fleet?.pooled?.missing.length) await picture(page, "fleet", false);
  await page.close();
  expected = [];
  return text;
}

// A p99 of seconds, as the label of an axis.
async function slowIsReadable(world) {
  expected = ["net::ERR_FAILED", "Failed to load resource"];
  const { rollouts } = await (await fetch(`${world.admin}/api/rollouts`)).json();
  const versions = rollouts[0].versions.map((one) => ({ ...one, p99_ms: 5000 }));
  const sample = (at) => `event: sample\ndata: ${JSON.stringify({ at, rollouts: [{ ...rollouts[0], versions }] })}\n\n`;
  const page = await open(world, {
    before: (made) => made.route("**/api/events", (route) => route.fulfill({
      contentType: "text/event-stream", body: sample(Date.now() - 1000) + sample(Date.now()),
    })),
  });
  await page.locator("svg text", { hasText: /^\d+\s(s|min)$/ }).first().waitFor({ state: "attached", timeout: 20000 });
  await noTextIsCut(page);
  await page.close();
  expected = [];
}

async function theFleetIsTold(world) {
  const pooled = { replicas: 3, missing: [], verdict: "hold", hold_reason: null, objectives: [] };
  assert.equal(await fleetLine(world, null), null, "outside of a fleet there is no line");
  assert.match(await fleetLine(world, { connected: true, holder: "serin-0", pooled }), /judges for the fleet of 3\. Counts/);
  const missing = { ...pooled, missing: ["10.0.0.7:9902"] };
  assert.match(await fleetLine(world, { connected: true, holder: "serin-0", pooled: missing }), /1 does not answer: 10\.0\.0\.7:9902/);
  assert.match(await fleetLine(world, { connected: true, holder: "serin-1", pooled: null }), /^serin-1 judges for the whole fleet/);
  assert.match(await fleetLine(world, { connected: true, holder: null, pooled: null }), /^Nobody judges for the fleet yet/);
  assert.match(await fleetLine(world, { connected: false, holder: null, pooled: null }), /cannot reach the Kubernetes API/);
}

async function silenceIsSeen(world, page) {
  // As a machine that hangs, or a network that swallows everything.
  world.process.kill("SIGSTOP");
  try {
    await page.locator("#live[data-live=stale]", { hasText: /no news for \d+ s/ }).waitFor(WAIT);
    await picture(page, "stale", false);
  } finally {
    world.process.kill("SIGCONT");
  }
  await page.locator("#live[data-live=live]").waitFor(WAIT);
}

async function tokenIsAskedFor() {
  const world = await start({ rollouts: false, token: "s3cret-token" });
  expected = ["401"];
  const page = await open(world);
  await page.locator("#sign-in").waitFor(WAIT);
  await page.locator("#token").fill("wrong");
  await page.keyboard.press("Enter");
  await page.locator("#sign-in-error", { hasText: "not known" }).waitFor(WAIT);
  await picture(page, "sign-in", false);
  await page.locator("#token").fill("s3cret-token");
  await page.keyboard.press("Enter");
  await page.locator("#live[data-live=live]").waitFor(WAIT);
  await page.locator("#no-rollouts").waitFor(WAIT);
  assert.doesNotMatch(page.url(), /s3cret/);
  assert.equal(await page.evaluate(() => sessionStorage.getItem("serin-token")), "s3cret-token");
  assert.equal(await page.evaluate(() => localStorage.length + document.cookie.length), 0);
  await picture(page, "empty");
  await page.locator("#sign-out").click();
  await page.locator("#sign-in").waitFor(WAIT);
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await page.close();
  expected = [];
}

async function step(name, run) {
  const from = Date.now();
  await run();
  assert.deepEqual(complaints, [], "what the browser complained of");
  console.log(`ok   ${name} (${((Date.now() - from) / 1000).toFixed(1)} s)`);
}

try {
  const world = await start({ rollouts: true });
  world.open(120);
  const page = await open(world);
  await step("a rollback is seen as it happens", () => rollbackIsSeen(world, page));
  await step("promote asks first, then goes to the next step", () => promoteAsksFirst(page));
  await step("light, dark, and no sideways scroll on a phone", () => looksAndWidths(page));
  await step("pause, resume and reset do what they say", () => everyVerbDoesWhatItSays(world, page));
  await step("the keyboard is enough", () => keyboardIsEnough(page));
  await step("a config with defects is seen", () => badConfigIsSeen(world, page));
  await step("silence is seen, and live again what comes back", () => silenceIsSeen(world, page));
  await page.close();
  await step("a fleet is told in a line", () => theFleetIsTold(world));
  await step("long times are readable", () => slowIsReadable(world));
  await step("hostile text is text", () => hostileTextIsText(world));
  await step("a token is asked for, and kept in the tab", tokenIsAskedFor);
} catch (error) {
  console.error("FAILED:", error, complaints);
  for (const page of context.pages()) await picture(page, "failed").catch(() => {});
  process.exitCode = 1;
} finally {
  await context.close();
  await Promise.all(worlds.map((world) => world.stop()));
  await rm(profile, { recursive: true, force: true });
}
process.exit();
