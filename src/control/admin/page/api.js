// Asks the admin port, and reads its events. Never touches the page.

const KEY = "serin-token";

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  drop: () => sessionStorage.removeItem(KEY),
};

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  const value = token.get();
  if (value) headers.authorization = `Bearer ${value}`;
  const response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  if (response.ok) return response;
  let detail = `${response.status} ${response.statusText}`;
  try {
    detail = (await response.json()).detail ?? detail;
  } catch {
    // Not problem details: the status has to do.
  }
  throw new Refused(response.status, detail);
}

export async function get(path) {
  return (await ask(path, { signal: AbortSignal.timeout(10000) })).json();
}

export async function post(path) {
  const headers = { "content-type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: "{}", signal: AbortSignal.timeout(35000) })).json();
}

// Nothing for so long, and the stream counts as broken: a sample comes each second.
const SILENCE_MS = 6000;
const PAUSES_MS = [500, 1000, 2000, 4000, 8000];

// Reads events until it is told to stop; connects anew when the stream breaks.
export function listen({ onOpen, onEvent, onBreak }) {
  let stopped = false;
  let failures = 0;
  let abort = new AbortController();
  const once = async () => {
    abort = new AbortController();
    let watchdog = 0;
    const fed = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
    };
    try {
      fed();
      const response = await ask("/api/events", { signal: abort.signal });
      onOpen();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        fed();
        failures = 0;
        text += value;
        let end;
        while ((end = text.indexOf("\n\n")) >= 0) {
          const lines = text.slice(0, end).split("\n");
          text = text.slice(end + 2);
          const kind = lines.find((line) => line.startsWith("event: "))?.slice(7);
          const data = lines.find((line) => line.startsWith("data: "))?.slice(6);
          if (kind && data) onEvent(kind, JSON.parse(data));
        }
      }
    } finally {
      clearTimeout(watchdog);
    }
  };
  (async () => {
    while (!stopped) {
      let error = null;
      try {
        await once();
      } catch (caught) {
        error = caught;
      }
      if (stopped) return;
      onBreak(error);
      const pause = PAUSES_MS[Math.min(failures, PAUSES_MS.length - 1)];
      failures += 1;
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  })();
  return () => {
    stopped = true;
    abort.abort();
  };
}
