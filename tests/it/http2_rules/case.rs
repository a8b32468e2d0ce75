//! One case of a rule, and what must become of it.

use serin_testkit::{
    Backend, End, Frame, Frames, Proxy, Seen, TlsClient, fields, flag, frame, kind, request_fields,
    setting,
};

use crate::tls;

pub const WHOLE: u8 = flag::END_HEADERS | flag::END_STREAM;
pub const OPEN: u8 = flag::END_HEADERS;

/// What must become of it.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// The connection ends with one of these codes.
    Cut(&'static [u32]),
    /// The stream is reset with one of these codes, or the connection ends so.
    Reset(&'static [u32]),
    /// Nothing: a ping is answered.
    Alive,
    /// Stream 1 is answered by the model.
    Answer,
    /// Stream 1 is answered with 501.
    NotServed,
    /// Stream 1 is answered with 400, or reset.
    Refused,
}
pub use Expect::{Alive, Answer, Cut, NotServed, Refused, Reset};

pub type Case = (&'static str, Vec<Vec<u8>>, Expect);

pub fn get() -> Vec<u8> {
    request_fields("GET", "/")
}

pub fn post() -> Vec<u8> {
    request_fields("POST", "/")
}

/// A whole request on stream 1 with these fields besides a GET's.
pub fn with(more: &[(&str, &str)]) -> Vec<u8> {
    let block = [get(), fields(more.iter().copied())].concat();
    frame(kind::HEADERS, WHOLE, 1, &block)
}

/// A whole request on stream 1 with exactly these fields.
pub fn only(all: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, WHOLE, 1, &fields(all.iter().copied()))
}

pub fn headers(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags, stream, block)
}

pub fn data(flags: u8, stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, bytes)
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

pub fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

pub fn settings(name: u16, value: u32) -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &setting(name, value))
}

pub fn continuation(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
    frame(kind::CONTINUATION, flags, stream, block)
}

/// A block with `bytes` of HPACK behind a GET's fields.
pub fn packed(bytes: &[u8]) -> Vec<u8> {
    headers(WHOLE, 1, &[&get()[..], bytes].concat())
}

/// Runs every case on connections of its own, in cleartext and over TLS. What the model got.
pub async fn check(cases: Vec<Case>) -> Vec<Seen> {
    let world = Both::new();
    let mut wrong = Vec::new();
    for (name, sent, expect) in cases {
        for (way, client) in world.clients().await {
            if let Err(got) = run(client, &sent, expect).await {
                wrong.push(format!("{name}, {way}: {expect:?}, got {got}"));
            }
        }
    }
    world.is_well(&wrong).await;
    world.model().seen()
}

/// The same, and of what is not to be answered by the model no whole request reaches it; where the
/// head says all, no request at all.
pub async fn check_heads(cases: Vec<Case>) {
    let world = Both::new();
    let reached = || {
        let whole = world.model().seen().iter().filter(|seen| seen.end == End::Whole).count();
        (world.model().requests(), whole)
    };
    let mut wrong = Vec::new();
    for (name, sent, expect) in cases {
        for (way, client) in world.clients().await {
            let before = reached();
            if let Err(got) = run(client, &sent, expect).await {
                wrong.push(format!("{name}, {way}: {expect:?}, got {got}"));
            }
            // What would have gone on is there before the next one is answered.
            world.get_plain().await;
            let (heads, whole) = reached();
            let (heads, whole) = (heads - before.0 - 1, whole - before.1 - 1);
            let expected = usize::from(matches!(expect, Answer));
            if whole != expected || (sent.len() == 1 && heads != expected as u64) {
                wrong.push(format!("{name}, {way}: {whole} of {heads} reached the model whole"));
            }
        }
    }
    world.is_well(&wrong).await;
}

/// A model behind a proxy without TLS, and behind one with it.
struct Both {
    secrets: tls::World,
    trusting: TlsClient,
    plain: Proxy,
    encrypted: Proxy,
}

impl Both {
    fn new() -> Self {
        let secrets = tls::World::new();
        let (plain, encrypted) = (Proxy::to(&secrets.model, "").start(), secrets.proxy("").start());
        Self { trusting: secrets.client(), secrets, plain, encrypted }
    }

    fn model(&self) -> &Backend {
        &self.secrets.model
    }

    async fn clients(&self) -> [(&'static str, Frames); 2] {
        let encrypted = self.encrypted.address();
        [
            ("in cleartext", Frames::connect(self.plain.address()).await),
            ("over TLS", Frames::connect_tls(encrypted, &self.trusting, tls::NAME).await),
        ]
    }

    async fn get_plain(&self) {
        self.plain.get("/").await.expect(200);
    }

    async fn is_well(&self, wrong: &[String]) {
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
        self.get_plain().await;
        let answer = tls::get(&self.encrypted, &self.trusting).await;
        assert_eq!(answer.unwrap().status, 200);
    }
}

async fn run(mut client: Frames, sent: &[Vec<u8>], expect: Expect) -> Result<(), String> {
    // Its settings are known before anything else is said.
    client.until(kind::SETTINGS).await;
    for bytes in sent {
        client.send_raw(bytes).await;
    }
    verify(&mut client, expect).await
}

async fn verify(client: &mut Frames, expect: Expect) -> Result<(), String> {
    // Whatever goes on is answered.
    client.send(kind::PING, 0, 0, b"are-you?").await;
    let mut pings = 1;
    loop {
        let Some(Frame { kind, flags, stream, payload }) = client.any().await else {
            return Err("the end without a word".to_owned());
        };
        let frame = Frame { kind, flags, stream, payload };
        match (kind, expect) {
            (kind::GOAWAY, Cut(codes) | Reset(codes)) if codes.contains(&frame.code()) => {
                return Ok(());
            }
            (kind::GOAWAY, _) => return Err(format!("GOAWAY {}", frame.code())),
            (kind::RST_STREAM, Reset(codes)) if codes.contains(&frame.code()) => return Ok(()),
            (kind::RST_STREAM | kind::HEADERS, Answer | NotServed | Refused)
                if stream == 1 && is_as_wanted(&frame, expect) =>
            {
                return Ok(());
            }
            (kind::RST_STREAM, Alive) => {}
            (kind::RST_STREAM, _) => return Err(format!("reset {}", frame.code())),
            (kind::HEADERS, Answer | NotServed | Refused) => return Err(format!("{frame:?}")),
            (kind::PING, Alive) if flags == flag::ACK && frame.payload == b"are-you?" => {
                return Ok(());
            }
            (kind::PING, Cut(_)) if frame.payload == b"are-you?" => {
                return Err("an answered ping".to_owned());
            }
            // A reset may be behind the answer to the first ping, not behind another one's.
            (kind::PING, Reset(_)) if frame.payload == b"are-you?" => {
                pings += 1;
                if pings > 3 {
                    return Err("an answered ping".to_owned());
                }
                client.send(kind::PING, 0, 0, b"are-you?").await;
            }
            _ => {}
        }
    }
}

/// Whether it ends what a test waits for on stream 1.
fn is_as_wanted(frame: &Frame, expect: Expect) -> bool {
    match expect {
        Answer => frame.kind == kind::HEADERS && frame.status() == 200,
        NotServed => frame.kind == kind::HEADERS && frame.status() == 501,
        Refused => frame.kind == kind::RST_STREAM || frame.status() == 400,
        Cut(_) | Reset(_) | Alive => false,
    }
}
