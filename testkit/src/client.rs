//! A client that speaks HTTP/1.1 on one connection and keeps it.

use std::net::SocketAddr;

use serde_json::Value;

use crate::time::within;
use crate::tls::TlsClient;
use crate::wire::{Body, Broken, End, Head, Wire};

/// A request to send, once or often.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    host: String,
    fields: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    chunked: bool,
}

/// What came for a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The whole head.
    pub head: Head,
    /// The body, as far as it came.
    pub body: Vec<u8>,
    /// How it ended.
    pub end: End,
    /// After a chunked body.
    pub trailers: Vec<(String, String)>,
}

/// A client with one connection at most. It connects anew when that was closed.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    wire: Option<Wire>,
    /// With the name that is expected there.
    tls: Option<(TlsClient, String)>,
}

impl Request {
    /// A request without a body.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            host: "models.example.com".to_owned(),
            fields: Vec::new(),
            body: None,
            chunked: false,
        }
    }

    /// A GET.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A POST of `body`.
    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target).body(body)
    }

    /// Asks for another host than `models.example.com`.
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// With a field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body, whose length is told.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sends the body in chunks of 1000 bytes.
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// As bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let Self { method, target, host, .. } = self;
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in &self.fields {
            head += &format!("{name}: {value}\r\n");
        }
        let Some(body) = &self.body else { return (head + "\r\n").into_bytes() };
        if !self.chunked {
            let head = format!("{head}content-length: {}\r\n\r\n", body.len());
            return [head.as_bytes(), body].concat();
        }
        let mut bytes = (head + "transfer-encoding: chunked\r\n\r\n").into_bytes();
        for chunk in body.chunks(1000) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }
}

impl Answer {
    /// A field.
    pub fn header(&self, name: &str) -> Option<String> {
        self.head.field(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// Itself, when it is whole and has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.head.line, self.text());
        assert_eq!(self.end, End::Whole);
        self
    }
}

impl Client {
    /// Not connected yet.
    pub fn of(address: SocketAddr) -> Self {
        Self { address, wire: None, tls: None }
    }

    /// Not connected yet; as `tls`, to where `name` is expected.
    pub fn of_tls(address: SocketAddr, tls: &TlsClient, name: &str) -> Self {
        Self { address, wire: None, tls: Some((tls.clone(), name.to_owned())) }
    }

    async fn connect(&self) -> Result<Wire, Broken> {
        match &self.tls {
            None => Ok(Wire::connect(self.address).await),
            Some((tls, name)) => {
                let stream = tls.connect(self.address, name).await;
                Ok(Wire::over_tls(stream.map_err(|error| Broken::Handshake(error.to_string()))?))
            }
        }
    }

    /// Sends `request` and reads the answer.
    pub async fn send(&mut self, request: &Request) -> Answer {
        let answer = self.try_send(request).await;
        answer.unwrap_or_else(|broken| panic!("no answer to {request:?}: {broken:?}"))
    }

    /// Sends `request` and reads the answer, if there is one.
    pub async fn try_send(&mut self, request: &Request) -> Result<Answer, Broken> {
        within(&format!("an answer to {} {}", request.method, request.target), async {
            let mut wire = match self.wire.take() {
                Some(wire) => wire,
                None => self.connect().await?,
            };
            // A server may answer and close before it has read all.
            let sent = wire.send(request.bytes()).await;
            let head = wire.head().await;
            let head = if sent.is_err() { head.map_err(|_| Broken::Cut)? } else { head? };
            let mut body = Body::of_response(&head, &request.method);
            let close = body.is_until_close()
                || head.field("connection").is_some_and(|value| value == "close");
            let (data, end) = wire.body(&mut body).await;
            if end == End::Whole && !close && sent.is_ok() {
                self.wire = Some(wire);
            }
            let trailers = body.trailers;
            Ok(Answer { status: head.status(), head, body: data, end, trailers })
        })
        .await
    }

    /// A GET.
    pub async fn get(&mut self, target: &str) -> Answer {
        self.send(&Request::get(target)).await
    }

    /// A POST.
    pub async fn post(&mut self, target: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send(&Request::post(target, body)).await
    }

    /// Sends only the start of a request and leaves the rest to the test.
    pub async fn begin(&self, bytes: impl AsRef<[u8]>) -> Wire {
        let mut wire = Wire::connect(self.address).await;
        wire.send(bytes).await.expect("a connection");
        wire
    }
}
