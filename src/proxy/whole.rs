//! A request's body that is read before it is sent: its `model` says where it goes, or is to be
//! another one there.
//!
//! Never more than may be sent again (`replay_body_max`): a larger one is refused, with a way out.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;

use crate::proxy::body::{RequestBody, Source};
use crate::proxy::deadline::Deadline;
use crate::proxy::error::Error;
use crate::traffic::fields::{Fields, Known, Name};
use crate::traffic::matching::ModelView;
use crate::traffic::message::RequestHead;
use crate::traffic::model::{Named, may_be_named, quoted};
use crate::traffic::retry::Timeouts;

/// A body that is there as a whole.
#[derive(Debug)]
pub struct Whole {
    bytes: Bytes,
    named: Named,
}

/// Fields that speak of the very bytes of a body (RFC 9530; RFC 2616, section 14.15).
const DIGESTS: [Name<'static>; 4] = [
    Name::other("content-digest"),
    Name::other("repr-digest"),
    Name::other("digest"),
    Name::other("content-md5"),
];

impl Whole {
    /// Waits for the body, if it is one that may name a model. The rule is not known yet, so
    /// `wait` has the default limits of time.
    pub async fn read(
        head: &mut RequestHead,
        source: &Rc<Source>,
        wait: Deadline,
    ) -> Result<Option<Self>, Error> {
        if source.is_ended() || !may_be_named(&head.fields) {
            return Ok(None);
        }
        source.keep_to_replay();
        let wait = Rc::new(wait);
        let mut body = RequestBody::new(Rc::clone(source), Rc::clone(&wait), Timeouts::default());
        let come = async {
            while let Some(piece) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                piece.map_err(|_| source.client_error())?;
                source.join_small_pieces();
                if !source.is_replayable() && !source.is_ended() {
                    return Err(too_much(source));
                }
            }
            Ok(())
        };
        wait.within(come).await.map_err(Error::ClientStalled)??;
        let bytes = source.gather().ok_or_else(|| too_much(source))?;
        let named = Named::of(&bytes);
        if named == Named::Twice {
            return Err(Error::BadRequest("the request's body names its `model` more than once"));
        }
        head.fields.insert_number(Known::ContentLength, bytes.len() as u64);
        // They are gone: the body is one piece now.
        head.fields.remove(Known::Trailer);
        Ok(Some(Self { bytes, named }))
    }

    /// A body of Serin's own.
    pub fn of(bytes: Bytes, fields: &Fields) -> Self {
        let named = if may_be_named(fields) { Named::of(&bytes) } else { Named::Never };
        Self { bytes, named }
    }

    /// What a match may ask.
    pub fn model(&self) -> ModelView<'_> {
        ModelView::Read(self.named.name())
    }

    /// The body for a version that knows itself as `model`, and `head` for it.
    pub fn for_version(&self, head: &mut RequestHead, model: Option<&str>) -> Vec<Bytes> {
        let pieces = match (&self.named, model) {
            (Named::Once { name, at }, Some(model)) if name != model => {
                for name in DIGESTS {
                    head.fields.remove(name);
                }
                let (before, behind) = (self.bytes.slice(..at.start), self.bytes.slice(at.end..));
                vec![before, Bytes::from(quoted(model)), behind]
            }
            _ if self.bytes.is_empty() => Vec::new(),
            _ => vec![self.bytes.clone()],
        };
        let length: usize = pieces.iter().map(Bytes::len).sum();
        head.fields.insert_number(Known::ContentLength, length as u64);
        pieces
    }
}

/// Why a body was not kept whole.
fn too_much(source: &Source) -> Error {
    if source.bytes() > source.replay_bytes_max.get() {
        let what =
            "the request's body is larger than `replay_body_max`, so its `model` is not read";
        return Error::Refused(StatusCode::PAYLOAD_TOO_LARGE, what);
    }
    Error::NoRoom
}
