//! What a scripted model server does with a request.

use std::time::Duration;

use crate::time::secs;

/// What a scripted model server does with a request.
#[derive(Clone, Debug)]
pub struct Script {
    pub(crate) after: Duration,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) act: Act,
    /// Every n-th request is for another script.
    pub(crate) every: Option<(u64, Box<Script>)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// `None`: the server's own name is the body.
    Answer(u16, Option<Vec<u8>>),
    /// A chunked body, and its trailers.
    Chunks(Vec<Vec<u8>>, Vec<(String, String)>),
    /// These bytes, then the connection is closed.
    Raw(Vec<u8>),
    /// These bytes, and the connection stays open.
    RawThenStay(Vec<u8>),
    /// 200 with the request's body, and its target in `x-target`.
    Echo,
    /// These bytes, then the connection is reset.
    RawThenReset(Vec<u8>),
    Hang,
    /// A good answer, one byte at each interval.
    Drip(Duration),
    ByHand,
    /// Answers the first request of a connection; says `bytes` to the second and closes.
    Stale(Vec<u8>),
    /// As `Answer`, without reading the request's body.
    Early(u16),
}

impl Script {
    fn of(act: Act) -> Self {
        Self { after: Duration::ZERO, fields: Vec::new(), act, every: None }
    }

    /// Answers with `status`. The body is the server's name.
    pub fn answers(status: u16) -> Self {
        Self::of(Act::Answer(status, None))
    }

    /// Answers with 200 and a chunked body.
    pub fn chunks<const N: usize>(chunks: [&str; N]) -> Self {
        Self::of(Act::Chunks(chunks.map(|chunk| chunk.as_bytes().to_vec()).into(), Vec::new()))
    }

    /// Answers with `status` before the request's body has come, and closes.
    pub fn answers_early(status: u16) -> Self {
        Self::of(Act::Early(status))
    }

    /// Never answers.
    pub fn hangs() -> Self {
        Self::of(Act::Hang)
    }

    /// Closes the connection instead of an answer.
    pub fn closes() -> Self {
        Self::says("")
    }

    /// Resets the connection instead of an answer.
    pub fn resets() -> Self {
        Self::of(Act::RawThenReset(Vec::new()))
    }

    /// Sends a head and resets the connection.
    pub fn resets_after_head() -> Self {
        Self::of(Act::RawThenReset(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".to_vec()))
    }

    /// Sends half of the body that it announced, and closes.
    pub fn half_a_body() -> Self {
        Self::says("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
    }

    /// Closes in the middle of a chunked body.
    pub fn half_a_stream() -> Self {
        Self::says("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    }

    /// Answers with what is not HTTP.
    pub fn garbage() -> Self {
        Self::says("SSH-2.0-OpenSSH_9.2p1\r\n\r\n")
    }

    /// Sends `bytes` as they are, and closes.
    pub fn says(bytes: impl Into<Vec<u8>>) -> Self {
        Self::of(Act::Raw(bytes.into()))
    }

    /// Sends `bytes` as they are, and waits for the next request.
    pub fn says_and_stays(bytes: impl Into<Vec<u8>>) -> Self {
        Self::of(Act::RawThenStay(bytes.into()))
    }

    /// Answers with the request's body, and with its target in `x-target`.
    pub fn echoes() -> Self {
        Self::of(Act::Echo)
    }

    /// Answers well, one byte at each `interval`.
    pub fn drips_every(interval: Duration) -> Self {
        Self::of(Act::Drip(interval))
    }

    /// Answers well, one byte a second.
    pub fn drips() -> Self {
        Self::of(Act::Drip(secs(1)))
    }

    /// Leaves it to the test: see `Backend::next_call`.
    pub fn by_hand() -> Self {
        Self::of(Act::ByHand)
    }

    /// Answers the first request of each connection and closes when it has read a second:
    /// an idle connection that is closed just when it is used again.
    pub fn closes_when_reused() -> Self {
        Self::of(Act::Stale(Vec::new()))
    }

    /// As [`Script::closes_when_reused`], but says `bytes` before it closes.
    pub fn breaks_when_reused(bytes: &str) -> Self {
        Self::of(Act::Stale(bytes.as_bytes().to_vec()))
    }

    /// Waits first.
    pub fn after(mut self, wait: Duration) -> Self {
        self.after = wait;
        self
    }

    /// With a field in the head of its answer.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this body instead of the server's name.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        if let Act::Answer(_, of_answer) = &mut self.act {
            *of_answer = Some(body.into());
        }
        self
    }

    /// With a trailer, after [`Script::chunks`].
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        if let Act::Chunks(_, trailers) = &mut self.act {
            trailers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Every `n`-th request is for `other`.
    pub fn every(mut self, n: u64, other: Self) -> Self {
        self.every = Some((n, Box::new(other)));
        self
    }
}
