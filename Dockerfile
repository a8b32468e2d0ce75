# The image of Serin. Any builder will do:
#
#   docker build -t serin .
#   docker build -t serin-loadtest --target loadtest .     # the model server of k8s/
#
# Where the default bases cannot be had, bring others:
#   --build-arg BUILD_IMAGE=… (Rust of rust-toolchain.toml, a C compiler, make, the C library of
#   the run image or an older one)  --build-arg RUN_IMAGE=… (glibc and libgcc)
ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG RUN_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS deps
RUN command -v make >/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends make \
        && rm -rf /var/lib/apt/lists/*; }
WORKDIR /src
ENV CARGO_INCREMENTAL=0

# Dependencies first, over empty sources: this layer is built again only when a manifest
# or the lock file changes.
COPY Cargo.toml Cargo.lock ./
COPY loadtest/Cargo.toml loadtest/
COPY testkit/Cargo.toml testkit/
RUN mkdir -p src benches tests/it loadtest/src testkit/src \
    && for main in src benches/decide benches/exchange tests/it loadtest/src; do \
           case $main in benches/*) file=$main.rs ;; *) file=$main/main.rs ;; esac; \
           echo 'fn main() {}' > "$file"; \
       done \
    && touch src/lib.rs loadtest/src/lib.rs testkit/src/lib.rs \
    && cargo build --locked --profile dist --features k8s --bin serin

FROM deps AS build
COPY . .
# The empty sources are younger than what was copied over them.
RUN find src loadtest/src -name '*.rs' -exec touch {} + \
    && cargo build --locked --profile dist --features k8s --bin serin

FROM build AS build-loadtest
RUN cargo build --locked --profile dist --package serin-loadtest --bin loadtest

FROM ${RUN_IMAGE} AS loadtest
COPY --from=build-loadtest /src/target/dist/loadtest /usr/local/bin/loadtest
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/loadtest"]

# Last, so that it is the default.
FROM ${RUN_IMAGE} AS serin
COPY --from=build /src/target/dist/serin /usr/local/bin/serin
USER 65532:65532
# Data, TLS, admin (loopback unless told otherwise), metrics and probes.
EXPOSE 8080 8443 9901 9902
ENTRYPOINT ["/usr/local/bin/serin"]
CMD ["run", "-c", "/etc/serin/serin.yaml"]
