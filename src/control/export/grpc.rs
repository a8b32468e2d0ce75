//! A message to a collector that speaks OTLP over gRPC: one call, with its answer in the trailers.
//!
//! Never keeps a connection: a message a second is not worth one.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use tokio_util::task::AbortOnDropHandle;

use crate::control::export::collector::Refusal;
use crate::control::notify::{self, Error};
use crate::tls::client::Offer;

/// The method that takes spans.
const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Bytes of an answer: it says which spans were refused, in words.
const ANSWER_MAX: usize = 64 << 10;

/// Characters of a collector's own words in the log.
const WORDS_MAX: usize = 200;

/// Statuses after which OTLP says that a message may be sent again: cancelled, deadline exceeded,
/// aborted, out of range, unavailable, data loss.
const AGAIN: [u16; 6] = [1, 4, 10, 11, 14, 15];

/// Whether the collector at `to` took `message`. `roots` are whom to believe; `None` is whom this
/// machine believes. Takes as long as it takes.
pub async fn send(
    to: &Uri,
    message: Bytes,
    roots: Option<Arc<RootCertStore>>,
) -> Result<(), Refusal> {
    let unheard = |error: Error| Refusal { error: error.to_string(), is_for_now: true };
    let (status, head, trailers) = call(to, message, roots).await.map_err(unheard)?;
    if status != StatusCode::OK {
        // As gRPC's table of HTTP statuses has it.
        let is_for_now = matches!(status.as_u16(), 429 | 502..=504);
        return Err(Refusal { error: format!("it answers {status}"), is_for_now });
    }
    verdict(&head, trailers.as_ref())
}

async fn call(
    to: &Uri,
    message: Bytes,
    roots: Option<Arc<RootCertStore>>,
) -> Result<(StatusCode, HeaderMap, Option<HeaderMap>), Error> {
    let stream = notify::connect(to, roots, Offer::Http2).await?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // Over with this call, however that ends.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut uri = to.clone().into_parts();
    uri.path_and_query = Some(PATH.parse()?);
    let request = Request::post(Uri::from_parts(uri)?)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, concat!("serin/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(framed(&message)))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let rest = Limited::new(body, ANSWER_MAX).collect().await?;
    Ok((head.status, head.headers, rest.trailers().cloned()))
}

/// `message` behind its prefix: not compressed, and how long it is.
fn framed(message: &Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    // A message has at most `BATCH_MAX` spans: far from 4 GiB.
    frame.put_u32(message.len() as u32);
    frame.extend_from_slice(message);
    frame.freeze()
}

/// What the status says: in the trailers, or in the head of an answer that has nothing else.
fn verdict(head: &HeaderMap, trailers: Option<&HeaderMap>) -> Result<(), Refusal> {
    let field = |name| trailers.and_then(|fields| fields.get(name)).or_else(|| head.get(name));
    let status = field("grpc-status").and_then(|value| value.to_str().ok()?.parse::<u16>().ok());
    let words = field("grpc-message").map(|value| String::from_utf8_lossy(value.as_bytes()));
    match status {
        Some(0) => Ok(()),
        None => {
            let error = "it answers without a grpc-status: no collector?".to_owned();
            Err(Refusal { error, is_for_now: false })
        }
        Some(status) => {
            let words: String = words.unwrap_or_default().chars().take(WORDS_MAX).collect();
            let error = format!("it answers grpc-status {status} {words}").trim_end().to_owned();
            Err(Refusal { error, is_for_now: AGAIN.contains(&status) })
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_message_stands_behind_its_length() {
        assert_eq!(framed(&Bytes::from_static(b"abc")), &b"\0\0\0\0\x03abc"[..]);
    }

    #[test]
    fn a_status_says_whether_it_was_taken_and_whether_to_try_again() {
        let fields = |status: Option<&str>| {
            let mut fields = HeaderMap::new();
            if let Some(status) = status {
                fields.insert("grpc-status", status.parse().unwrap());
                fields.insert("grpc-message", "because".parse().unwrap());
            }
            fields
        };
        for (head, trailers, expected) in [
            (None, Some("0"), Ok(())),
            (Some("0"), None, Ok(())),
            (None, Some("14"), Err(("it answers grpc-status 14 because", true))),
            (Some("12"), None, Err(("it answers grpc-status 12 because", false))),
            // Only with a word on when, which is not read.
            (None, Some("8"), Err(("it answers grpc-status 8 because", false))),
            (None, None, Err(("it answers without a grpc-status: no collector?", false))),
            (None, Some("x"), Err(("it answers without a grpc-status: no collector?", false))),
        ] {
            let trailers = trailers.map(|status| fields(Some(status)));
            let found = verdict(&fields(head), trailers.as_ref());
            let expected = expected
                .map_err(|(error, is_for_now): (&str, bool)| (error.to_owned(), is_for_now));
            assert_eq!(found.map_err(|one| (one.error, one.is_for_now)), expected);
        }
    }

    #[tokio::test]
    async fn over_tls_it_asks_for_http2_and_only_of_whom_the_authorities_vouch_for() {
        let authority = serin_testkit::Authority::named("collectors");
        let certificate = authority.issue(&serin_testkit::Leaf::server(&["localhost"]));
        let mut head = HeaderMap::new();
        head.insert("grpc-status", "0".parse().unwrap());
        let collector = serin_testkit::Http2Backend::start(head).await;
        let to = (collector.address, collector.address);
        let front = serin_testkit::TlsFront::start(&certificate, None, &["h2"], to).await;
        let url: Uri = format!("https://localhost:{}", front.address.port()).parse().unwrap();
        let roots = |authority: &serin_testkit::Authority| {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
            Some(Arc::new(roots))
        };
        send(&url, Bytes::from_static(b"spans"), roots(&authority)).await.unwrap();
        assert_eq!(collector.seen()[0].uri.path(), PATH);
        assert_eq!(front.handshakes()[0].protocol.as_deref(), Some("h2"));
        let others = serin_testkit::Authority::named("others");
        let refusal = send(&url, Bytes::new(), roots(&others)).await.unwrap_err();
        assert!(refusal.is_for_now && collector.seen().len() == 1, "{refusal:?}");
    }
}
