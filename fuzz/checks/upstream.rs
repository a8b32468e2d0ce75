//! The HTTP/1.1 client towards endpoints beside hyper's: the same questions to an endpoint that
//! answers both the same bytes.

#[path = "upstream/asked.rs"]
mod asked;
#[path = "upstream/endpoint.rs"]
mod endpoint;

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use asked::{Asked, Pieces};
use endpoint::{Log, Sent, connected};
use http::{HeaderMap, Method, Version};
use http_body::Body;
use hyper_util::rt::TokioIo;
use serin::clock::Clock;
use serin::proxy::body::RequestBody;
use serin::proxy::deadline::Deadlines;
use serin::proxy::http1::chunked::may_be_trailer;
use serin::proxy::http1::fields::FIELDS_MAX;
use serin::proxy::interim::Interims;
use serin::proxy::socket::{Socket, write_late};
use serin::proxy::upstream::http1::Connection;
use serin::proxy::upstream::transport::Transport;
use serin::traffic::message::Response;
use serin::traffic::retry::Timeouts;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{SignalKind, signal};

/// What one answer ends with in the bytes of a case, and the next begins behind.
const BETWEEN: &[u8] = b"\0\0";

/// Requests on one connection.
const ASKED_MAX: usize = 3;

/// Whatever an endpoint answers, what is taken for a response is one for hyper too, and both
/// read the same in it: status, version, fields, body, trailers, what came before, and whether
/// the connection may be used again. What hyper takes and Serin does not is one of the things
/// that [`refuses`] names. Both send the same requests. Where an answer comes before its request
/// has ended, Serin may close the connection, and read what hyper does not, whom an endpoint
/// that stops reading keeps from it.
///
/// The first byte tells in how large pieces answers arrive, whether Serin writes at the end of a
/// turn, and whether the endpoint reads no more once it has given its last answer; the next three
/// what is asked. The rest is answers with two NULs between them; behind the last the connection
/// is closed.
pub fn check(data: &[u8]) {
    let Some(([step, asked @ ..], answers)) = data.split_first_chunk::<{ ASKED_MAX + 1 }>() else {
        return;
    };
    let case = Case {
        step: usize::from(*step & 0x3f) + 1,
        leaves: *step & 0x40 != 0,
        asked: asked.iter().map(|byte| Asked::of(*byte)).collect(),
        answers: split(answers),
    };
    RUNTIME.with(|runtime| {
        let (ours, sent) = runtime.block_on(async {
            let writer = (*step & 0x80 != 0).then(|| tokio::task::spawn_local(write_late()));
            let asked = case.ask_ours().await;
            if let Some(writer) = writer {
                writer.abort();
                let _ = writer.await;
            }
            asked
        });
        let (theirs, sent_by_hyper) = runtime.block_on(case.ask_hyper());
        // To an endpoint of HTTP/1.0 hyper speaks that from then on.
        let is_old = |read: &Result<Read, _>| {
            read.as_ref().is_ok_and(|read| read.version == Version::HTTP_10)
        };
        let same = theirs.iter().position(is_old).map_or(ASKED_MAX, |at| at + 1);
        for (at, (ours, theirs)) in sent.iter().zip(&sent_by_hyper).take(same).enumerate() {
            // Whoever has an answer may stop to ask.
            let cut = case.asked[at].is_early() && !(ours.whole && theirs.whole);
            let same = if cut { ours.agrees(theirs) } else { ours == theirs };
            assert!(same, "request {at}: {ours:?} and {theirs:?}");
        }
        case.compare(&ours, &theirs);
    });
}

thread_local! {
    /// Made once: most of a case would be its making.
    static RUNTIME: LocalRuntime = {
        let runtime = Builder::new_current_thread().enable_io().build_local(LocalOptions::default());
        let runtime = runtime.expect("a runtime");
        // Whoever writes to an endpoint that has left is to be told, and not ended, as in Serin.
        let pipe = runtime.block_on(async { signal(SignalKind::pipe()) });
        drop(pipe.expect("a handler"));
        runtime
    };
}

fn split(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut answers = Vec::new();
    while answers.len() + 1 < ASKED_MAX
        && let Some(at) = rest.windows(BETWEEN.len()).position(|two| two == BETWEEN)
    {
        answers.push(&rest[..at]);
        rest = &rest[at + BETWEEN.len()..];
    }
    answers.push(rest);
    answers
}

struct Case<'a> {
    step: usize,
    leaves: bool,
    asked: Vec<Asked>,
    answers: Vec<&'a [u8]>,
}

/// A response as a client read it.
#[derive(Clone, Debug, PartialEq)]
struct Read {
    status: u16,
    version: Version,
    /// But for its length, which may be told in several ways.
    fields: Vec<Field>,
    length: Option<u64>,
    body: Vec<u8>,
    trailers: Vec<Field>,
    /// Statuses of what came before it.
    interims: Vec<u16>,
    reusable: bool,
}

/// The name in small letters.
type Field = (String, Vec<u8>);

/// Until the connection could not be used again.
type Answered = Vec<Result<Read, String>>;

fn sorted<'f>(fields: impl Iterator<Item = (&'f str, &'f [u8])>) -> Vec<Field> {
    let mut fields: Vec<_> =
        fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect();
    // Several values of one name stay in their order.
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

fn fields_of(map: &HeaderMap) -> Vec<Field> {
    sorted(map.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// The fields without their length, and that: of several that are equal there is one.
fn part_length(mut fields: Vec<Field>) -> (Vec<Field>, Option<u64>) {
    let length = fields.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
    fields.retain(|(name, _)| name != "content-length");
    (fields, length)
}

/// Asks as a worker does. The connection, if it may be used again.
async fn ask_ours(
    connection: Box<Connection>,
    asked: &Asked,
) -> Result<(Read, Option<Box<Connection>>), String> {
    let deadlines = Rc::new(Deadlines::new(Clock::start()));
    let wait = Rc::new(deadlines.open(deadlines.now(), None));
    let body = RequestBody::new(asked.source(), wait, Timeouts::default());
    let interims = Interims::default();
    let response = connection.send(&asked.head(), body, Some(&interims)).await;
    let Response { head, mut body } = response.map_err(|failed| failed.fault.to_string())?;
    let (fields, length) = part_length(sorted(head.fields.iter()));
    let (mut data, mut trailers) = (Vec::new(), Vec::new());
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        match frame.map_err(|fault| fault.to_string())?.into_data() {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(frame) => trailers = frame.trailers_ref().map(fields_of).unwrap_or_default(),
        }
    }
    let connection = body.into_reusable();
    let read = Read {
        status: head.status.as_u16(),
        version: head.version,
        fields,
        length,
        body: data,
        trailers,
        interims: interims.take().iter().map(|head| head.status.as_u16()).collect(),
        reusable: connection.is_some(),
    };
    Ok((read, connection))
}

async fn ask_hyper(
    sender: &mut hyper::client::conn::http1::SendRequest<Pieces>,
    asked: &Asked,
) -> Result<Read, hyper::Error> {
    let mut request = asked.to_hyper();
    let interims = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&interims);
    hyper::ext::on_informational(&mut request, move |interim| {
        // Serin says it itself, and passes none on.
        if interim.status() != http::StatusCode::CONTINUE {
            seen.lock().expect("nobody panics here").push(interim.status().as_u16());
        }
    });
    let (head, mut body) = sender.send_request(request).await?.into_parts();
    let (fields, length) = part_length(fields_of(&head.headers));
    let (mut data, mut trailers) = (Vec::new(), Vec::new());
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(frame) => trailers = frame.trailers_ref().map(fields_of).unwrap_or_default(),
        }
    }
    let interims = std::mem::take(&mut *interims.lock().expect("nobody panics here"));
    let (status, version) = (head.status.as_u16(), head.version);
    let body = data;
    Ok(Read { status, version, fields, length, body, trailers, interims, reusable: true })
}

impl Case<'_> {
    /// Whether there is a request behind this one.
    fn goes_on(&self, at: usize) -> bool {
        at + 1 < self.answers.len()
    }

    async fn ask_ours(&self) -> (Answered, Vec<Sent>) {
        let (stream, other) = connected();
        let log = Log::default();
        let asking = async {
            let mut answered = Vec::new();
            let mut connection =
                Box::new(Connection::over(Transport::Cleartext(Socket::new(stream))));
            for (at, asked) in self.asked[..self.answers.len()].iter().enumerate() {
                match ask_ours(connection, asked).await {
                    Ok((mut read, Some(mut open))) if self.goes_on(at) => {
                        log.written(at + 1).await;
                        read.reusable = open.is_open();
                        let reusable = read.reusable;
                        answered.push(Ok(read));
                        if !reusable {
                            break;
                        }
                        connection = open;
                    }
                    Ok((mut read, _)) => {
                        read.reusable = false;
                        answered.push(Ok(read));
                        break;
                    }
                    Err(fault) => {
                        answered.push(Err(fault));
                        break;
                    }
                }
            }
            // Until the endpoint has read what was sent.
            log.written(answered.len()).await;
            answered
        };
        let answered = tokio::select! {
            answered = asking => answered,
            () = self.serve(other, &log) => unreachable!(),
        };
        (answered, log.sent.into_inner())
    }

    async fn ask_hyper(&self) -> (Answered, Vec<Sent>) {
        let (stream, other) = connected();
        let log = Log::default();
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_headers(FIELDS_MAX);
        let (mut sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.expect("there is no handshake");
        let asking = async {
            let mut answered = Vec::new();
            for (at, asked) in self.asked[..self.answers.len()].iter().enumerate() {
                let read = ask_hyper(&mut sender, asked).await;
                let Ok(mut read) = read else {
                    answered.push(read.map_err(|error| error.to_string()));
                    break;
                };
                read.reusable = self.goes_on(at) && {
                    log.written(at + 1).await;
                    sender.is_ready()
                };
                let reusable = read.reusable;
                answered.push(Ok(read));
                if !reusable {
                    break;
                }
            }
            log.written(answered.len()).await;
            answered
        };
        let answered = tokio::select! {
            answered = asking => answered,
            () = self.serve(other, &log) => unreachable!(),
            () = async { let _ = connection.await; pending().await } => unreachable!(),
        };
        (answered, log.sent.into_inner())
    }

    fn compare(&self, ours: &Answered, theirs: &Answered) {
        for (at, answer) in self.answers.iter().enumerate() {
            let asked = &self.asked[at];
            let (text, method) = (answer.escape_ascii(), &asked.method);
            match (ours.get(at), theirs.get(at)) {
                (None, _) | (Some(Err(_)), Some(Err(_)) | None) => return,
                (Some(Err(fault)), Some(Ok(read))) => {
                    let refused = refuses(fault, answer, method, read);
                    assert!(refused, "{method} {text}: {fault}, but hyper: {read:?}");
                    return;
                }
                (Some(Ok(read)), Some(Ok(same))) => {
                    let mut same = same.clone();
                    same.trailers.retain(|(name, _)| may_be_trailer(&name.parse().unwrap()));
                    same.reusable &= read.reusable || !(may_close(&same) || asked.is_early());
                    assert_eq!(*read, same, "{method} {text}");
                }
                // Hyper reads nothing once it cannot write.
                (Some(Ok(_)), Some(Err(error))) if asked.is_early() && !is_about_bytes(error) => {
                    return;
                }
                (Some(Ok(read)), theirs) => {
                    panic!("{method} {text}: {read:?}, but hyper: {theirs:?}");
                }
            }
        }
    }
}

/// Whether hyper's `error` is about what it read, and not about the connection.
fn is_about_bytes(error: &str) -> bool {
    ["invalid", "message head"].iter().any(|begin| error.starts_with(begin))
}

/// Whether Serin may have read that a connection is to be closed where hyper did not, who reads
/// no `connection` that is not ASCII.
fn may_close(read: &Read) -> bool {
    read.fields.iter().any(|(name, value)| name == "connection" && !value.is_ascii())
}

/// Whether what hyper took is one of the things that Serin refuses on purpose.
fn refuses(fault: &str, answer: &[u8], method: &Method, read: &Read) -> bool {
    let names = |field: &str| read.fields.iter().any(|(name, _)| name == field);
    let mut lines = answer.split_inclusive(|byte| *byte == b'\n');
    match fault.trim_start_matches("the response has ") {
        "a line that ends without CR" | "trailers that are none" => {
            lines.any(|line| line.ends_with(b"\n") && !line.ends_with(b"\r\n"))
        }
        "a status that is none" => read.status >= 600,
        "empty lines without end" => lines.filter(|line| *line == b"\r\n").count() > 4,
        "both a length and a transfer coding" | "a transfer coding that is not `chunked` alone" => {
            names("transfer-encoding")
        }
        "a length that is none" | "two lengths" => {
            // Hyper looks for a length where it would frame the body alone, and takes lists.
            let is_list = lines.any(|line| {
                let name = line.get(..15).unwrap_or_default();
                name.eq_ignore_ascii_case(b"content-length:") && line.contains(&b',')
            });
            is_list
                || *method == Method::HEAD
                || matches!(read.status, 204 | 304)
                || names("transfer-encoding")
        }
        // Those that are not passed on count too.
        "an interim response too many" => {
            read.status == 101 || lines.filter(|line| line.starts_with(b"HTTP/1.")).count() > 16
        }
        // Extensions that are none, and zeros in front without end.
        "a chunk size that is none" => lines.any(|line| {
            let line = line.strip_suffix(b"\r\n").unwrap_or(line);
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let rest = &line[digits..];
            digits > 16 || (digits > 0 && rest.iter().any(|byte| !byte.is_ascii_graphic()))
        }),
        _ => false,
    }
}
