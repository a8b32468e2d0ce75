//! Interim responses (1xx) on their way from an endpoint to the client.
//!
//! Never waits for the client: it gets them when its connection is written to next.

use std::cell::RefCell;

use crate::traffic::fields::Known;
use crate::traffic::headers::strip_hop_by_hop;
use crate::traffic::message::ResponseHead;

/// Interim responses that wait for one client. Attempts bring a bounded number each.
#[derive(Debug, Default)]
pub struct Interims(RefCell<Vec<ResponseHead>>);

impl Interims {
    /// `head` is to be passed on. A 100 is not: Serin says it itself (RFC 9110, section
    /// 15.2.1).
    pub fn push(&self, mut head: ResponseHead) {
        if head.status != http::StatusCode::CONTINUE {
            strip_hop_by_hop(&mut head.fields);
            // It has no content (RFC 9110, section 8.6).
            head.fields.remove(Known::ContentLength);
            self.0.borrow_mut().push(head);
        }
    }

    /// Those that wait, the first first.
    pub fn take(&self) -> Vec<ResponseHead> {
        self.0.take()
    }
}
