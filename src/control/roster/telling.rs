//! Log lines about endpoints.
//!
//! Never decides who serves: whoever has decided it tells it here.

use std::net::SocketAddr;

use crate::config;
use crate::control::roster::Member;
use crate::names::BackendName;

/// Why an endpoint gets no more requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Out<'w> {
    /// It failed too often.
    Ejected,
    /// What it answered to its health check.
    Unwell(&'w str),
}

impl Member {
    /// Says aloud that it goes or comes.
    pub(super) fn tell(&self, settings: &config::Backend, serves: bool) {
        let (backend, endpoint) = (&settings.name, self.address);
        if serves {
            self::serves(backend, endpoint);
        } else if self.record.is_out() {
            is_out(backend, endpoint, Out::Ejected);
        } else {
            is_out(backend, endpoint, Out::Unwell(&self.complaint));
        }
    }
}

/// It gets requests from here on.
fn serves(backend: &BackendName, endpoint: SocketAddr) {
    tracing::info!(event = "endpoint_serving", %backend, %endpoint, "the endpoint gets requests");
}

/// It gets none from here on.
fn is_out(backend: &BackendName, endpoint: SocketAddr, out: Out<'_>) {
    match out {
        Out::Ejected => tracing::warn!(
            event = "endpoint_ejected", %backend, %endpoint,
            "the endpoint failed too often: out for a while"
        ),
        Out::Unwell(why) => tracing::warn!(
            event = "endpoint_unwell", %backend, %endpoint, why,
            "the endpoint is unwell: it gets no requests"
        ),
    }
}

/// It is named no more where the endpoints of its backend are looked for.
pub fn is_gone(backend: &BackendName, endpoint: SocketAddr) {
    tracing::info!(event = "endpoint_gone", %backend, %endpoint, "the endpoint is named no more");
}

/// Nobody said where the endpoints are: `count` of them stay as they were.
pub fn not_found(backend: &BackendName, count: usize, error: &str) {
    tracing::warn!(
        event = "endpoints_unknown", %backend, count, error,
        "no answer where the endpoints are: {count} stay as they were"
    );
}

/// It is known again where the endpoints are.
pub fn found_again(backend: &BackendName, count: usize) {
    tracing::info!(
        event = "endpoints_known", %backend, count, "it is known again where the endpoints are"
    );
}
