//! Who may ask at the admin port.
//!
//! Never tells which token was almost right.

use std::hint::black_box;
use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::control::admin::{Denied, Shared, Token, page};

/// Who asks: the name of the token; `None` where none is needed.
#[derive(Clone, Debug)]
pub(super) struct Operator(pub Option<String>);

/// See [`super::admin_router`].
pub(super) async fn guard(State(state): Shared, mut request: Request, next: Next) -> Response {
    if matches!(request.uri().path(), "/livez" | "/readyz") {
        return next.run(request).await;
    }
    let mut operator = None;
    if !state.tokens.is_empty() {
        if page::has(request.uri().path()) {
            return next.run(request).await;
        }
        operator = bearer(request.headers(), &state.tokens);
        if operator.is_none() {
            let detail = "this needs the admin token: `authorization: Bearer TOKEN`, or with \
                          serin's own commands `--token-file FILE`";
            let denied = Denied::new(StatusCode::UNAUTHORIZED, detail);
            return ([(WWW_AUTHENTICATE, "Bearer")], denied).into_response();
        }
    } else if !is_asked_by_own_name(request.uri(), request.headers()) {
        let detail = "without a token this port answers to `localhost` and loopback addresses \
                      only; set `admin.token_file` to reach it by another name";
        return Denied::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    request.extensions_mut().insert(Operator(operator));
    next.run(request).await
}

/// Whose token it is. Takes the same time whichever byte differs, and tries them all.
fn bearer(headers: &HeaderMap, tokens: &[Token]) -> Option<String> {
    let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes)?;
    let (scheme, given) = given.split_at_checked("bearer ".len())?;
    let same = |differ: u8, (a, b): (&u8, &u8)| black_box(differ | (a ^ b));
    let is_it = |token: &&Token| {
        scheme.eq_ignore_ascii_case(b"bearer ")
            && given.len() == token.secret.len()
            && given.iter().zip(token.secret.as_bytes()).fold(0, same) == 0
    };
    tokens.iter().filter(is_it).fold(None, |found, token| found.or(Some(token.name.clone())))
}

fn is_asked_by_own_name(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or("?"));
    let own = |authority: &str| {
        let Ok(authority) = authority.parse::<axum::http::uri::Authority>() else { return false };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        loopback || host.eq_ignore_ascii_case("localhost")
    };
    // HTTP/1.0 may name none, and no browser speaks it.
    hosts.all(own) && uri.authority().is_none_or(|authority| own(authority.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_who_asks() {
        let token = |name: &str, secret: &str| Token { name: name.into(), secret: secret.into() };
        let tokens = [token("admin", "one"), token("ci", "two")];
        for (given, by) in [
            ("Bearer one", Some("admin")),
            ("bearer two", Some("ci")),
            ("Bearer three", None),
            ("Bearer tw", None),
            ("Basic one", None),
            ("one", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, given.parse().unwrap());
            assert_eq!(bearer(&headers, &tokens).as_deref(), by, "{given}");
        }
        assert_eq!(bearer(&HeaderMap::new(), &tokens), None);
    }
}
