//! The dashboard: files that a browser is given as they are.
//!
//! Never has anything in them that is not in this repository, and never loads anything from
//! elsewhere: the policy forbids it. They hold nothing secret, so they need no token: the page
//! asks for it.

use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;

/// What the page may do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; \
    form-action 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Paths, kinds and contents.
const FILES: [(&str, &str, &str); 9] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("/page/page.js", SCRIPT, include_str!("page/page.js")),
    ("/page/api.js", SCRIPT, include_str!("page/api.js")),
    ("/page/charts.js", SCRIPT, include_str!("page/charts.js")),
    ("/page/lists.js", SCRIPT, include_str!("page/lists.js")),
    ("/page/rollout.js", SCRIPT, include_str!("page/rollout.js")),
    ("/page/words.js", SCRIPT, include_str!("page/words.js")),
    ("/page/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// Whether it is one of the page's files.
pub(super) fn has(path: &str) -> bool {
    FILES.iter().any(|(own, _, _)| *own == path)
}

/// Adds the files to `router`.
pub(super) fn on<S: Clone + Send + Sync + 'static>(mut router: axum::Router<S>) -> axum::Router<S> {
    for (path, kind, text) in FILES {
        let file = async move || {
            ([(CONTENT_TYPE, kind), (CONTENT_SECURITY_POLICY, POLICY)], text).into_response()
        };
        router = router.route(path, axum::routing::get(file));
    }
    router
}
