//! Answers that are ended when their version is taken out: `streams_on_rollback: cut`.
//!
//! Never ends one as if it were whole: `traffic/farewell.rs` says what is sent last.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use slab::Slab;
use tokio::sync::Notify;

use crate::proxy::error::Error;
use crate::proxy::relayed::Relayed;
use crate::traffic::farewell::{Farewell, Stream};
use crate::traffic::fields::Known;
use crate::traffic::message::{Response, Upgrade};
use crate::traffic::retry::Timeouts;

/// How often a worker looks whether a version was taken out, while it has such answers.
const LOOK: Duration = Duration::from_millis(20);

/// The answers of one worker that may be cut.
#[derive(Debug, Default)]
pub struct Cuts {
    open: RefCell<Slab<(Arc<AtomicBool>, Option<Waker>)>>,
    opened: Notify,
}

impl Cuts {
    /// Wakes answers that are to be cut, until dropped.
    pub async fn run(&self) {
        loop {
            if self.open.borrow().is_empty() {
                self.opened.notified().await;
            }
            tokio::time::sleep(LOOK).await;
            for (_, (is_cut, waker)) in self.open.borrow_mut().iter_mut() {
                if is_cut.load(Relaxed)
                    && let Some(waker) = waker.take()
                {
                    waker.wake();
                }
            }
        }
    }
}

/// An answer that is ended when its version is taken out.
#[derive(Debug)]
pub struct Cuttable {
    /// `None` once it was cut.
    answer: Option<Box<Relayed>>,
    is_cut: Arc<AtomicBool>,
    stream: Stream,
    cuts: Rc<Cuts>,
    key: usize,
}

/// Whether `response` is to be cut when `is_cut` becomes true. One whose version is out already
/// as its head arrives, and which is no stream, is soon over: it may finish.
pub fn is_to_be_cut(response: &Response<Box<Relayed>>, is_cut: &AtomicBool) -> bool {
    !is_cut.load(Relaxed) || stream_of(response) != Stream::Other
}

fn stream_of(response: &Response<Box<Relayed>>) -> Stream {
    let length_is_told = response.head.fields.contains(Known::ContentLength);
    let upgrade = response.head.upgrade.as_ref().map(|Upgrade(protocol)| protocol);
    Stream::of(upgrade, &response.head.fields, length_is_told)
}

impl Cuttable {
    /// Cuts `response` when `is_cut` becomes true.
    pub fn new(
        response: Response<Box<Relayed>>,
        is_cut: Arc<AtomicBool>,
        cuts: &Rc<Cuts>,
    ) -> Response<Box<Self>> {
        let stream = stream_of(&response);
        let key = cuts.open.borrow_mut().insert((Arc::clone(&is_cut), None));
        cuts.opened.notify_one();
        let cuts = Rc::clone(cuts);
        response.map(|answer| Box::new(Self { answer: Some(answer), is_cut, stream, cuts, key }))
    }

    /// The answer, until it is cut.
    pub fn answer(&mut self) -> Option<&mut Relayed> {
        self.answer.as_deref_mut()
    }

    /// The next piece.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(None) };
        let is_cut = self.is_cut.load(Relaxed);
        if is_cut && self.stream.is_between() {
            return self.cut();
        }
        match answer.poll_frame(cx) {
            Poll::Pending if is_cut => self.cut(),
            Poll::Pending => {
                let waker = &mut self.cuts.open.borrow_mut()[self.key].1;
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.stream.pass(data);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            end @ Poll::Ready(_) => end,
        }
    }

    /// Ends it. The endpoint sees that nobody listens any more; that is no evidence.
    fn cut(&mut self) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.answer = None;
        match self.stream.farewell() {
            Farewell::Data(data) => Poll::Ready(Some(Ok(Frame::data(Bytes::from(data))))),
            Farewell::Trailers(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Farewell::Cut => Poll::Ready(Some(Err(Error::TakenOut))),
        }
    }

    /// Longest wait between two pieces.
    pub fn idle(&self) -> Duration {
        self.answer.as_ref().map_or_else(|| Timeouts::default().idle, |answer| answer.idle())
    }

    /// Whether nothing more comes.
    pub fn is_end_stream(&self) -> bool {
        self.answer.as_ref().is_none_or(|answer| answer.is_end_stream())
    }
}

impl Drop for Cuttable {
    fn drop(&mut self) {
        self.cuts.open.borrow_mut().remove(self.key);
    }
}
