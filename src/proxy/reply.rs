//! Serin's own answers: problem details (RFC 9457), or for gRPC a status in the head.
//!
//! Never tells a client anything of the inside but the names in the config.

use std::fmt::Write;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{HeaderMap, Method, StatusCode};

use crate::proxy::error::Error;
use crate::proxy::response::ResponseBody;
use crate::traffic::fields::{Fields, Known};
use crate::traffic::message::{Response, ResponseHead};

/// What the client of a request by `method` gets for `error`; `None` when there is no
/// client left.
pub fn of(error: &Error, method: &Method, grpc: bool) -> Option<Response<ResponseBody>> {
    let status = error.status()?;
    let (mut head, body) = if grpc {
        let mut head = ResponseHead::new(StatusCode::OK);
        head.fields = Fields::from(&grpc_trailers(error));
        head.fields.insert(Known::ContentType, "application/grpc");
        (head, None)
    } else {
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": error.to_string(),
            "reason": error.reason().as_str(),
        });
        let body = Bytes::from(problem.to_string());
        let mut head = ResponseHead::new(status);
        head.fields.insert_number(Known::ContentLength, body.len() as u64);
        head.fields.insert(Known::ContentType, "application/problem+json");
        // HTTP/2 would send what HTTP/1.1 leaves out.
        (head, (*method != Method::HEAD).then_some(body))
    };
    if let Some(seconds) = error.retry_after() {
        head.fields.insert_number(Known::RetryAfter, seconds.into());
    }
    head.fields.insert(Known::Server, "serin");
    Some(Response { head: Box::new(head), body: ResponseBody::Own(body) })
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
        // As gRPC has it for a message that is too large.
        413 | 431 => 8,
        414 | 417 => 2,
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
        assert_eq!(response.head.fields.get(Known::Server), Some(&b"serin"[..]));
        let kind = response.head.fields.text(Known::ContentType);
        assert_eq!(kind, Some("application/problem+json"));
        let response = of(&Error::NoRoute, &Method::POST, true).unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.head.fields.text(Known::GrpcStatus), Some("12"));
        assert!(of(&Error::ClientGone, &Method::GET, false).is_none());
    }

    #[test]
    fn what_is_too_large_is_not_worth_another_try() {
        let trailers = grpc_trailers(&Error::too_large());
        assert_eq!(trailers["grpc-status"], "8");
    }

    #[test]
    fn messages_are_printable() {
        assert_eq!(percent_encoded("50 % ü"), "50 %25 %C3%BC");
    }
}
