//! Interim responses (1xx) on their way from an endpoint to the client.
//!
//! Never waits for the client: it gets them when its connection is written to next.

use std::cell::{Cell, RefCell};

use crate::traffic::fields::Known;
use crate::traffic::headers::strip_hop_by_hop;
use crate::traffic::message::ResponseHead;

/// Bytes of the interim responses to one request, counted as HTTP/2 does: 32 more for each field,
/// and for the status. Those beyond are dropped. No client holds them back, so that without a
/// bound one that reads nothing would have all of them kept.
pub const INTERIM_BYTES_MAX: usize = 16 << 10;

const FIELD_BYTES: usize = 32;

/// Interim responses that wait for one client. Attempts bring a bounded number each.
#[derive(Debug, Default)]
pub struct Interims {
    waiting: RefCell<Vec<ResponseHead>>,
    /// Of all that came for the present request.
    bytes: Cell<usize>,
}

impl Interims {
    /// `head` is to be passed on. A 100 is not: Serin says it itself (RFC 9110, section
    /// 15.2.1).
    pub fn push(&self, mut head: ResponseHead) {
        if head.status != http::StatusCode::CONTINUE {
            strip_hop_by_hop(&mut head.fields);
            // It has no content (RFC 9110, section 8.6).
            head.fields.remove(Known::ContentLength);
            let field_bytes = |(name, value): (&str, &[u8])| name.len() + value.len() + FIELD_BYTES;
            let bytes = FIELD_BYTES + head.fields.iter().map(field_bytes).sum::<usize>();
            self.bytes.set(self.bytes.get() + bytes);
            if self.bytes.get() <= INTERIM_BYTES_MAX {
                head.fields.detach();
                self.waiting.borrow_mut().push(head);
            }
        }
    }

    /// Those that wait, the first first.
    pub fn take(&self) -> Vec<ResponseHead> {
        self.waiting.take()
    }

    /// Another request begins.
    pub fn begin(&self) {
        self.waiting.borrow_mut().clear();
        self.bytes.set(0);
    }
}
