//! The whole proxy in one process, on real sockets, between scripted model servers and
//! clients.
//!
//! Never waits a fixed time: what a test is about is looked for until it is so.

mod access_log;
mod blue_green;
mod certificates;
mod command_line;
mod corpora;
mod crash;
mod cut;
mod drain;
mod endpoint_tls;
mod endpoints;
mod events;
mod evidence;
mod explain;
mod failover;
mod failures;
mod faults;
mod fleet;
mod fleet_pooled;
mod grpc;
mod hostile_http1;
mod http2_endpoints;
mod http2_floods;
mod http2_rules;
mod http2_websocket;
mod kubernetes;
mod kubernetes_tls;
mod limits;
mod logs;
mod mirrors;
mod models;
mod probes;
mod proxy_protocol;
mod reload;
mod request_path;
mod rollback;
mod rolling;
mod routing;
mod split;
mod steps;
mod strange_endpoints;
mod tls;
mod traces;
mod upgrades;
