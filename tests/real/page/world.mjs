// Two model servers, a Serin in front of them, and users. Only on loopback, and bounded.

import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

const agent = new http.Agent({ keepAlive: true, maxSockets: 32 });

class Model {
  static async start(name) {
    const model = new Model();
    model.status = 200;
    model.server = http.createServer((request, response) => {
      request.resume();
      request.on("end", () => setTimeout(() => response.writeHead(model.status).end(name), 5 + Math.random() * 20));
    });
    await new Promise((resolve) => model.server.listen(0, "127.0.0.1", resolve));
    model.address = `127.0.0.1:${model.server.address().port}`;
    return model;
  }
}

const config = (v1, v2, { rollouts, token, more }) => `
listeners: [{ name: http, address: 127.0.0.1:0 }]
admin: { address: 127.0.0.1:0${token ? `, token_file: ${token}` : ""} }
backends:
  - { name: sentiment-v1, endpoints: [${v1.address}] }
  - { name: sentiment-v2, endpoints: [${v2.address}], ejection: off }
  - { name: topics-v1, endpoints: [${v1.address}] }
  - { name: topics-v2, endpoints: [${v1.address}] }
routes:
  - name: sentiment
    rules:
      - name: main
        matches: [{ path: /v2/models/sentiment }]
        backends: [{ name: sentiment-v1, weight: 80 }, { name: sentiment-v2, weight: 20 }]
  - name: topics
    hostnames: [models.example.com]
    rules:
      - name: main
        matches: [{ path: /v2/models/topics }]
        backends: [{ name: topics-v1, weight: 1 }, { name: topics-v2, weight: 0 }]
${more ?? ""}${rollouts ? `rollouts:
  - name: sentiment-v2
    rule: sentiment/main
    stable: sentiment-v1
    canary: sentiment-v2
    objectives: [{ errors: 1% }, { latency: { p99: 200ms } }]
  - name: topics-v2
    rule: topics/main
    stable: topics-v1
    canary: topics-v2
    objectives: [{ errors: 1% }]
    steps:
      - { weight: 10%, for: 1h }
      - { weight: 50%, for: 1h }
      - { weight: 100%, for: 1h }
` : ""}`;

export class World {
  static async start(serin, options) {
    const world = new World();
    world.folder = await mkdtemp(join(tmpdir(), "serin-page-"));
    [world.v1, world.v2] = await Promise.all([Model.start("v1"), Model.start("v2")]);
    let token = null;
    if (options.token) {
      token = join(world.folder, "token");
      await writeFile(token, `${options.token}\n`, { mode: 0o600 });
    }
    world.file = join(world.folder, "serin.yaml");
    world.text = config(world.v1, world.v2, { ...options, token });
    await writeFile(world.file, world.text);
    world.process = spawn(serin, ["run", "-c", world.file, "--log-format", "json"], { stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    world.process.stderr.setEncoding("utf8").on("data", (text) => { said = (said + text).slice(-1e6); });
    const address = async (event) => {
      for (let tries = 0; tries < 300; tries += 1) {
        for (const line of said.split("\n")) {
          if (!line.includes(`"event":"${event}"`)) continue;
          return JSON.parse(line).address;
        }
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      throw new Error(`no ${event} in\n${said}`);
    };
    world.proxy = await address("listening");
    world.admin = `http://${await address("admin")}`;
    return world;
  }

  // Users who do not wait for each other, `rps` in a second, until the world ends.
  open(rps) {
    const [host, port] = this.proxy.split(":");
    let sent = 0;
    this.users = setInterval(() => {
      const path = sent % 4 === 0 ? "/v2/models/topics/infer" : "/v2/models/sentiment/infer";
      sent += 1;
      const headers = { host: "models.example.com", "content-length": 2 };
      const request = http.request({ host, port, path, method: "POST", agent, headers }, (response) => response.resume());
      request.on("error", () => {});
      request.end("{}");
    }, 1000 / rps);
  }

  async write(from, to) {
    await writeFile(this.file, this.text.replace(from, to));
  }

  async stop() {
    clearInterval(this.users);
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    if (this.process.exitCode === null) {
      this.process.kill("SIGTERM");
      const late = setTimeout(() => this.process.kill("SIGKILL"), 5000);
      await ended;
      clearTimeout(late);
    }
    for (const model of [this.v1, this.v2]) {
      model.server.close();
      model.server.closeAllConnections();
    }
    await rm(this.folder, { recursive: true, force: true });
  }
}
