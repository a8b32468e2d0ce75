//! What a client gets, whoever made it.
//!
//! Never holds more of a body than the piece that is asked for.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::proxy::cut::Cuttable;
use crate::proxy::error::Error;
use crate::proxy::relayed::Relayed;
use crate::traffic::retry::Timeouts;

/// What a client gets: an endpoint's body or one of Serin's own.
#[derive(Debug)]
pub enum ResponseBody {
    /// Serin's own answer.
    Own(Option<Bytes>),
    /// What the endpoint sends. It is handed on often, so it stays where it lies.
    Relayed(Box<Relayed>),
    /// The same, until its version is taken out.
    Cuttable(Box<Cuttable>),
}

impl ResponseBody {
    /// From here on no piece is large: many such bodies wait for one client.
    pub fn read_small_pieces(&mut self) {
        if let Some(relayed) = self.relayed() {
            relayed.read_small_pieces();
        }
    }

    /// Sends on what is left of the request, while nobody asks for the response.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Some(relayed) = self.relayed() {
            relayed.poll_upload(cx);
        }
    }

    /// Ready when the whole exchange has taken too long, while nobody asks for the response.
    pub fn poll_late(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.relayed().map_or(Poll::Pending, |relayed| relayed.poll_late(cx))
    }

    /// Whether the request is still on its way.
    pub fn is_uploading(&mut self) -> bool {
        self.relayed().is_some_and(|relayed| relayed.is_uploading())
    }

    /// The client has all of it: the attempt ends as it stands, whatever may yet come.
    pub fn end(&mut self) {
        if let Some(relayed) = self.relayed() {
            relayed.end();
        }
    }

    fn relayed(&mut self) -> Option<&mut Relayed> {
        match self {
            Self::Own(_) => None,
            Self::Relayed(relayed) => Some(relayed),
            Self::Cuttable(cuttable) => cuttable.answer(),
        }
    }

    /// Longest wait between two pieces.
    pub fn idle(&self) -> Duration {
        match self {
            Self::Own(_) => Timeouts::default().idle,
            Self::Relayed(relayed) => relayed.idle(),
            Self::Cuttable(cuttable) => cuttable.idle(),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut *self {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relayed(relayed) => relayed.poll_frame(cx),
            Self::Cuttable(cuttable) => cuttable.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Relayed(relayed) => relayed.is_end_stream(),
            Self::Cuttable(cuttable) => cuttable.is_end_stream(),
        }
    }
}
