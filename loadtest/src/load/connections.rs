//! The generator's keep-alive connections.
//!
//! Never sends a request twice: only one that certainly was not sent is tried on
//! another connection.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// How a request failed without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection could be had.
    Connect,
    /// The connection broke, or the answer was not HTTP or ended too early.
    Broken,
    /// No complete answer in time.
    Timeout,
}

type Sender = SendRequest<Full<Bytes>>;

/// Connections to one target, opened when needed and reused last in, first out.
#[derive(Debug)]
pub(super) struct Connections {
    target: SocketAddr,
    places: Semaphore,
    idle: Mutex<Vec<Sender>>,
}

impl Connections {
    pub(super) fn new(target: SocketAddr, max: usize) -> Self {
        Self { target, places: Semaphore::new(max), idle: Mutex::default() }
    }

    /// Sends a request and reads its answer to the end. Waits for a free connection
    /// when all are busy. Runs on a tokio runtime.
    pub(super) async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<StatusCode, Failure> {
        let _place = self.places.acquire().await.map_err(|_| Failure::Connect)?;
        let mut request = request;
        while let Some(mut sender) = self.take_idle() {
            if sender.ready().await.is_err() {
                continue; // Closed while it was idle.
            }
            match sender.try_send_request(request).await {
                Ok(response) => return self.finish(sender, response).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failure::Broken),
                },
            }
        }
        let mut sender = self.connect().await.map_err(|_| Failure::Connect)?;
        match sender.try_send_request(request).await {
            Ok(response) => self.finish(sender, response).await,
            Err(_) => Err(Failure::Broken),
        }
    }

    async fn finish(
        &self,
        sender: Sender,
        response: http::Response<hyper::body::Incoming>,
    ) -> Result<StatusCode, Failure> {
        let status = response.status();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(|_| Failure::Broken)?;
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Ok(status)
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Sender, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends when the sender is dropped or the peer closes; its error reaches the
        // request that was on it.
        tokio::spawn(connection);
        Ok(sender)
    }
}
