//! A request that the test itself answers, step by step.

use crate::time::within;
use crate::wire::{Body, Broken, Head, Wire};

/// A request at a scripted model server, in the hands of the test. Dropping it closes its
/// connection.
#[derive(Debug)]
pub struct Call {
    /// As it came.
    pub head: Head,
    body: Body,
    wire: Wire,
}

impl Call {
    pub(crate) fn new(head: Head, wire: Wire) -> Self {
        Self { body: Body::of_request(&head), head, wire }
    }

    /// The next piece of the request's body; `None` at its end.
    pub async fn piece(&mut self) -> Option<String> {
        let piece = within("a piece of the request", self.wire.piece(&mut self.body)).await;
        piece.expect("a body").map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The request's body up to at least `bytes` bytes, or to its end.
    pub async fn at_least(&mut self, bytes: usize) -> String {
        let mut all = String::new();
        while all.len() < bytes {
            let Some(piece) = self.piece().await else { break };
            all += &piece;
        }
        all
    }

    /// What comes behind the head, whatever it is: `count` bytes, or fewer at its end.
    pub async fn raw(&mut self, count: usize) -> Vec<u8> {
        within("bytes behind the head", self.wire.raw(count)).await
    }

    /// Sends `bytes` as they are.
    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes).await.expect("the proxy listens");
    }

    /// Sends bytes without end until none is taken for a while, or `max` are. How many were.
    pub async fn fill(&mut self, max: usize) -> usize {
        self.wire.fill(max).await
    }

    /// Sends `bytes` as they are; `None` when the other side has closed the connection.
    pub async fn say_or_end(&mut self, bytes: impl AsRef<[u8]>) -> Option<()> {
        self.wire.send(bytes).await.ok()
    }

    /// Begins an event stream, chunked.
    pub async fn begin_stream(&mut self) {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        self.say(head).await;
    }

    /// Sends one chunk.
    pub async fn chunk(&mut self, text: &str) {
        self.say(format!("{:x}\r\n{text}\r\n", text.len())).await;
    }

    /// Ends a chunked body.
    pub async fn end_stream(&mut self) {
        self.say("0\r\n\r\n").await;
    }

    /// Waits until the other side has closed the connection.
    pub async fn closed(&mut self) {
        within("the proxy lets go of the endpoint", self.wire.rest()).await;
    }

    /// What breaks the request's body off, if something does.
    pub async fn broken_body(&mut self) -> Option<Broken> {
        loop {
            match within("the end of the request", self.wire.piece(&mut self.body)).await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(broken) => return Some(broken),
            }
        }
    }

    /// Resets the connection.
    pub fn reset(self) {
        self.wire.reset();
    }
}
