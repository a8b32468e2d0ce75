//! A request's body on its way, which may have to be sent twice.
//!
//! Never waits to fill a buffer: every piece goes on as it comes. What is kept of a
//! request is references to the same bytes, and bounded.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::proxy::deadline::Deadline;
use crate::proxy::error::{Error, Timeout};
use crate::proxy::held::Held;
use crate::proxy::incoming::{Incoming, Unfinished};
use crate::proxy::mirror::Copy;
use crate::proxy::size::SizeLimit;
use crate::traffic::headers::strip_trailers;
use crate::traffic::retry::Timeouts;
use crate::units::Tick;

/// What a kept piece counts for at least, beside its bytes.
const PIECE_BYTES_MIN: usize = 256;

/// Pieces of a body that may share the buffers that they came in.
const PIECES_SHARED_MAX: usize = 4;

/// Later ones up to this size are copied.
const PIECE_COPIED_MAX: usize = 2 << 10;

/// A piece that may have to wait, behind `before` others of its body. Each keeps the buffer that
/// it was read into, of 8 KiB at least: of many small ones that would be far more than they are.
pub fn without_its_buffer(data: &Bytes, before: usize) -> Bytes {
    if before < PIECES_SHARED_MAX || data.len() > PIECE_COPIED_MAX {
        return data.clone();
    }
    Bytes::copy_from_slice(data)
}

/// A request's body, as it comes from the client. Shared by the attempts that send it.
#[derive(Debug, Default)]
pub struct Source {
    incoming: RefCell<Option<Incoming>>,
    kept: RefCell<Vec<Bytes>>,
    kept_bytes: Cell<usize>,
    /// What the pieces cost to keep.
    kept_cost: Cell<usize>,
    held: Held,
    /// Pieces of `kept` that the present attempt has sent.
    sent: Cell<usize>,
    /// 0: nothing is kept.
    keep_bytes_max: Cell<usize>,
    /// How much is kept to be sent again; set before anything is sent.
    pub replay_bytes_max: Cell<usize>,
    /// Something that was sent is not in `kept`.
    lost: Cell<bool>,
    state: Cell<SourceState>,
    /// The response has begun: time limits are its own from here on.
    answered: Cell<bool>,
    copies: RefCell<Vec<Copy>>,
    /// How large it may be; set before anything is sent.
    pub size: SizeLimit,
    /// What is wrong with what the client sent.
    malformed: Cell<Option<&'static str>>,
    /// The client's side of another protocol, until the endpoint speaks it.
    tunnel: RefCell<Option<Incoming>>,
    is_tunnel: Cell<bool>,
    /// How long the client was waited for, and since when it is.
    waited: Cell<Duration>,
    waits_since: Cell<Option<Tick>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SourceState {
    /// Nobody waits for the client.
    #[default]
    Open,
    /// The last piece that was asked for has not come.
    WaitsForClient,
    Ended,
    ClientGone,
}

impl Source {
    /// What the client sends.
    pub fn new(incoming: Incoming) -> Rc<Self> {
        let source = Rc::new(Self::default());
        if incoming.is_end_stream() {
            source.state.set(SourceState::Ended);
        } else {
            source.incoming.replace(Some(incoming));
        }
        source
    }

    /// No body, and then perhaps another protocol.
    pub fn new_tunnel(incoming: Incoming) -> Rc<Self> {
        let source = Self { tunnel: RefCell::new(Some(incoming)), ..Self::default() };
        source.state.set(SourceState::Ended);
        Rc::new(source)
    }

    /// The endpoint speaks the other protocol: what comes from the client goes there.
    pub fn open_tunnel(&self) {
        if let Some(incoming) = self.tunnel.take() {
            incoming.open_tunnel();
            self.incoming.replace(Some(incoming));
            self.state.set(SourceState::Open);
            self.answered.set(true);
            self.size.set(None);
            self.is_tunnel.set(true);
        }
    }

    /// Why the client's side failed.
    pub fn client_error(&self) -> Error {
        let other = || self.malformed.get().map_or(Error::ClientGone, Error::BadRequest);
        if self.size.is_passed() { Error::too_large() } else { other() }
    }

    /// A body that is there already.
    pub fn of_kept(kept: Vec<Bytes>) -> Rc<Self> {
        let source = Self { kept: RefCell::new(kept), ..Self::default() };
        source.state.set(SourceState::Ended);
        Rc::new(source)
    }

    /// Keeps what comes, up to `bytes_max`; call before anything is sent.
    pub fn keep(&self, bytes_max: usize) {
        self.keep_bytes_max.set(self.keep_bytes_max.get().max(bytes_max));
    }

    /// Keeps what comes, to be sent again; call before anything is sent.
    pub fn keep_to_replay(&self) {
        self.keep(self.replay_bytes_max.get());
    }

    /// The response has begun: nothing is sent again. What copies need is still kept.
    pub fn will_not_replay(&self) {
        self.answered.set(true);
        if self.copies.borrow().is_empty() {
            self.keep_bytes_max.set(0);
            self.lost.set(true);
            self.forget_sent();
        }
    }

    /// What was kept and is sent is not needed any more; what is not sent yet still is.
    fn forget_sent(&self) {
        let (mut kept, sent) = (self.kept.borrow_mut(), self.sent.get());
        if sent >= kept.len() {
            kept.clear();
            self.held.give_back();
        } else {
            kept[..sent].fill(Bytes::new());
        }
    }

    /// Keeps many small pieces as one, which costs what its bytes do.
    pub fn join_small_pieces(&self) {
        let cost = self.kept_cost.get();
        let is_small = cost > 2 * self.kept_bytes.get();
        if !is_small || cost < self.keep_bytes_max.get() || self.lost.get() {
            return;
        }
        let all = Bytes::from(self.kept.take().concat());
        self.held.give_back();
        // It was held already, as more.
        self.lost.set(!self.held.takes(all.len()));
        self.kept_cost.set(all.len());
        self.kept.borrow_mut().push(all);
    }

    /// All that came, as one piece; `None` if not all of it was kept.
    pub fn gather(&self) -> Option<Bytes> {
        let mut kept = self.kept.borrow_mut();
        let bytes = match &kept[..] {
            [one] => one.clone(),
            pieces => Bytes::from(pieces.concat()),
        };
        *kept = if bytes.is_empty() { Vec::new() } else { vec![bytes.clone()] };
        let is_all = bytes.len() == self.kept_bytes.get();
        // Trailers are dropped, and what is here can be sent again.
        self.lost.set(self.lost.get() && !is_all);
        is_all.then_some(bytes)
    }

    /// Sends `pieces` in place of the body, which has come as a whole.
    pub fn replace(&self, pieces: Vec<Bytes>) {
        self.kept.replace(pieces);
    }

    /// Whether everything that was sent can be sent again.
    pub fn is_replayable(&self) -> bool {
        !self.lost.get() && self.state.get() != SourceState::ClientGone
    }

    /// Whether an attempt waits for the client, not for the endpoint.
    pub fn waits_for_client(&self) -> bool {
        self.state.get() == SourceState::WaitsForClient
    }

    /// Starts `copy` when the body has ended, or now if it has.
    pub fn copy_to(&self, copy: Copy) {
        if self.state.get() == SourceState::Ended {
            copy.start(self.kept.borrow().clone());
        } else {
            self.keep(copy.body_bytes_max());
            self.copies.borrow_mut().push(copy);
        }
    }

    /// Bytes that came so far.
    pub fn bytes(&self) -> usize {
        self.kept_bytes.get()
    }

    /// Whether nothing more comes.
    pub fn is_ended(&self) -> bool {
        self.state.get() == SourceState::Ended
    }

    fn take_in(&self, data: &Bytes) {
        let kept_bytes = self.kept_bytes.get() + data.len();
        // Each piece has its own cost, however small it is.
        let cost = self.kept_cost.get() + data.len().max(PIECE_BYTES_MIN);
        self.kept_cost.set(cost);
        let max = self.keep_bytes_max.get();
        let fits = kept_bytes <= max && cost <= 2 * max && !self.lost.get();
        // What is kept for copies has the budget of its mirror.
        let copied = !self.copies.borrow().is_empty();
        let fits = fits && (copied || self.held.takes(data.len().max(PIECE_BYTES_MIN)));
        if fits {
            let mut kept = self.kept.borrow_mut();
            let piece = without_its_buffer(data, kept.len());
            kept.push(piece);
        } else {
            self.lost.set(true);
            self.kept.borrow_mut().clear();
            self.held.give_back();
        }
        self.kept_bytes.set(kept_bytes);
        let size = if fits { kept_bytes } else { usize::MAX };
        self.copies.borrow_mut().retain_mut(|copy| copy.still_fits(size));
        if copied {
            self.answer_for_kept();
        }
    }

    /// What was kept for copies, which are gone, has the budget of what is sent again from here on;
    /// where it does not fit, or nothing is sent again, it goes. All of it is sent by then.
    fn answer_for_kept(&self) {
        if !self.copies.borrow().is_empty() {
            return;
        }
        let is_wanted = !self.answered.get() && !self.lost.get();
        if !is_wanted || !self.held.takes(self.kept_cost.get()) {
            self.keep_bytes_max.set(0);
            self.lost.set(true);
            self.kept.borrow_mut().clear();
            self.held.give_back();
        }
    }

    fn end(&self) {
        if self.state.replace(SourceState::Ended) == SourceState::Ended {
            return;
        }
        self.incoming.replace(None);
        let copies = self.copies.take();
        if copies.is_empty() {
            return;
        }
        for copy in copies {
            copy.start(self.kept.borrow().clone());
        }
        self.answer_for_kept();
    }

    /// The next piece from the client.
    fn poll_incoming(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Gone>>> {
        let mut incoming = self.incoming.borrow_mut();
        let Some(body) = incoming.as_mut() else { return Poll::Ready(None) };
        let polled = body.poll_frame(cx);
        let ended = body.is_end_stream();
        drop(incoming);
        match polled {
            Poll::Pending => {
                self.state.set(SourceState::WaitsForClient);
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame)))
                if self.size.is_passed_by(self.kept_bytes.get(), &frame) =>
            {
                self.state.set(SourceState::ClientGone);
                Poll::Ready(Some(Err(Gone)))
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                self.state.set(SourceState::Open);
                if let Some(data) = frame.data_ref() {
                    self.take_in(data);
                }
                if let Some(trailers) = frame.trailers_mut() {
                    strip_trailers(trailers);
                    self.lost.set(true);
                }
                if ended || frame.is_trailers() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(unfinished))) => {
                self.state.set(SourceState::ClientGone);
                if let Unfinished::Malformed(what) = unfinished {
                    self.malformed.set(Some(what));
                }
                Poll::Ready(Some(Err(Gone)))
            }
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
        }
    }
}

/// The client went away while it sent its body.
#[derive(Debug, thiserror::Error)]
#[error("the client went away")]
pub struct Gone;

/// A request's body, as one attempt sends it.
#[derive(Debug)]
pub struct RequestBody {
    source: Rc<Source>,
    /// Kept pieces that this attempt has sent.
    sent: usize,
    wait: Rc<Deadline>,
    timeouts: Timeouts,
}

impl RequestBody {
    /// From the beginning. Keeps `wait` up to date: `idle` between pieces, `first_byte`
    /// once all is sent.
    pub fn new(source: Rc<Source>, wait: Rc<Deadline>, timeouts: Timeouts) -> Self {
        source.sent.set(0);
        let body = Self { source, sent: 0, wait, timeouts };
        body.mind_the_time();
        body
    }

    /// The endpoint speaks another protocol from here on.
    pub fn open_tunnel(&self) {
        self.source.open_tunnel();
    }

    /// All that was announced is sent: whatever may follow is no part of the message.
    pub fn finish(&self) {
        self.source.end();
        self.mind_the_time();
    }

    /// Some of what was taken last is on its way: whoever takes it is not idle.
    pub fn moves(&self) {
        if self.source.waits_since.get().is_some() {
            // It is the client that is waited for.
            return;
        }
        self.mind_the_time();
        if self.source.answered.get() {
            self.wait.clear();
        }
    }

    fn mind_the_time(&self) {
        if self.source.answered.get() {
            return;
        }
        if self.source.is_ended() {
            self.wait.set(Timeout::FirstByte, self.timeouts.first_byte);
        } else {
            self.wait.set(Timeout::Idle, self.timeouts.idle);
        }
    }

    /// The client is waited for from here on: not for ever, and not for too little.
    fn wait_for_client(&self) {
        let source = &self.source;
        if source.waits_since.replace(source.waits_since.get().or(Some(self.wait.now()))).is_some()
            || source.answered.get()
        {
            return;
        }
        let bytes = source.kept_bytes.get() as u64;
        let patience = self.timeouts.upload_patience(bytes, source.waited.get());
        if let Some(patience) = patience.filter(|patience| *patience < self.timeouts.idle) {
            self.wait.set(Timeout::UploadRate, patience);
        }
    }

    fn has_waited(&self) {
        if let Some(since) = self.source.waits_since.take() {
            self.source.waited.set(self.source.waited.get() + self.wait.now().since(since));
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Gone;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Gone>>> {
        let kept = self.source.kept.borrow().get(self.sent).cloned();
        if let Some(data) = kept {
            self.sent += 1;
            self.source.sent.set(self.sent);
            if self.source.lost.get() {
                self.source.forget_sent();
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let polled = self.source.poll_incoming(cx);
        if polled.is_ready() {
            let sent = self.source.kept.borrow().len();
            self.sent = sent;
            self.source.sent.set(self.sent);
            self.has_waited();
            self.mind_the_time();
            if self.source.answered.get() {
                // From the answer on both directions count, or a client that speaks to an endpoint
                // that listens would be cut. In a tunnel it is never otherwise.
                self.wait.clear();
            }
        } else {
            self.wait_for_client();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_ended() && self.sent >= self.source.kept.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_pieces_do_not_keep_the_buffers_that_they_came_in() {
        let shares =
            |data: &Bytes, before| without_its_buffer(data, before).as_ptr() == data.as_ptr();
        let (small, large) =
            (Bytes::from(vec![7; 100]), Bytes::from(vec![7; PIECE_COPIED_MAX + 1]));
        assert!(shares(&small, PIECES_SHARED_MAX - 1) && shares(&large, PIECES_SHARED_MAX));
        assert!(!shares(&small, PIECES_SHARED_MAX));
        assert_eq!(without_its_buffer(&small, PIECES_SHARED_MAX), small);
    }
}
