//! Serin's own answers: problem details (RFC 9457), or for gRPC a status in the head.
//!
//! Never tells a client anything of the inside but the names in the config.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SERVER};
use http::{HeaderMap, Method, Response, StatusCode};

use crate::proxy::error::Error;
use crate::proxy::response::ResponseBody;

/// What the client of a request by `method` gets for `error`; `None` when there is no
/// client left.
pub fn of(error: &Error, method: &Method, grpc: bool) -> Option<Response<ResponseBody>> {
    let status = error.status()?;
    let mut response = if grpc {
        let mut response = Response::new(ResponseBody::Own(None));
        *response.headers_mut() = grpc_trailers(error);
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    } else {
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": error.to_string(),
            "reason": error.reason().as_str(),
        });
        let body = Bytes::from(problem.to_string());
        let length = HeaderValue::from(body.len());
        // HTTP/2 would send what HTTP/1.1 leaves out.
        let body = (*method != Method::HEAD).then_some(body);
        let mut response = Response::new(ResponseBody::Own(body));
        response.headers_mut().insert(CONTENT_LENGTH, length);
        *response.status_mut() = status;
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    };
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response.headers_mut().insert(SERVER, HeaderValue::from_static("serin"));
    Some(response)
}

/// What the client of a gRPC request gets behind, or instead of, a body.
pub fn grpc_trailers(error: &Error) -> HeaderMap {
    let status = error.status().map_or(GRPC_CANCELLED, grpc_status);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(&error.to_string())) {
        trailers.insert("grpc-message", message);
    }
    trailers
}

/// Nobody is left to read it.
const GRPC_CANCELLED: u16 = 1;

/// After gRPC's own mapping of HTTP statuses (`http-grpc-status-mapping.md`), but a wrong
/// request is INTERNAL and a time limit is `DEADLINE_EXCEEDED`.
fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        404 | 501 => 12,
        408 | 504 => 4,
        _ => 14,
    }
}

/// As gRPC wants its messages: printable ASCII, the rest and `%` as `%XX`.
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_and_a_grpc_client_gets_a_status() {
        let response = of(&Error::NoRoute, &Method::GET, false).unwrap();
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()["server"], "serin");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let response = of(&Error::NoRoute, &Method::POST, true).unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "12");
        assert!(of(&Error::ClientGone, &Method::GET, false).is_none());
    }

    #[test]
    fn messages_are_printable() {
        assert_eq!(percent_encoded("50 % ü"), "50 %25 %C3%BC");
    }
}
