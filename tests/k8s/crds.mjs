// The Prometheus Operator's kinds in a stream of manifests, as JSON on stdin, against the
// Operator's own schemas (npm: @kubernetes-models/prometheus-operator, installed by `just k8s`).
// Those do not refuse unknown fields, so a fault is planted to see that they look at all.
import { readFileSync } from "node:fs";

// They are installed where this is run, not where it stands.
const models = `${process.cwd()}/node_modules/@kubernetes-models/prometheus-operator`;
const kinds = {};
for (const kind of ["ServiceMonitor", "PrometheusRule"]) {
  kinds[kind] = (await import(`${models}/monitoring.coreos.com/v1/${kind}.js`))[kind];
}

const documents = JSON.parse(readFileSync(0, "utf8"));
const seen = new Set();
let faults = 0;
for (const document of documents.filter(({ kind }) => kind in kinds)) {
  seen.add(document.kind);
  try {
    new kinds[document.kind](document).validate();
  } catch (error) {
    faults += 1;
    console.error(`${document.kind}/${document.metadata.name}: ${error.message}`);
  }
}
for (const kind of Object.keys(kinds)) {
  if (!seen.has(kind)) {
    faults += 1;
    console.error(`no ${kind} was looked at`);
  }
}
const planted = structuredClone(documents.find(({ kind }) => kind === "ServiceMonitor"));
planted.spec.endpoints[0].interval = "often";
try {
  new kinds.ServiceMonitor(planted).validate();
  faults += 1;
  console.error("a planted fault was not found");
} catch {
  // As it should be.
}
console.log(`${seen.size} kinds of the Prometheus Operator, ${faults} faults`);
process.exit(faults ? 1 : 0);
