//! How large a request's body may be.
//!
//! Never looks at what is in it.

use std::cell::Cell;

use bytes::Bytes;
use http_body::Frame;

/// The most bytes that a body may have, and whether it had more.
#[derive(Debug, Default)]
pub struct SizeLimit {
    /// `None` is any number.
    bytes_max: Cell<Option<u64>>,
    is_passed: Cell<bool>,
}

impl SizeLimit {
    /// No more than `bytes_max` from here on.
    pub fn set(&self, bytes_max: Option<u64>) {
        self.bytes_max.set(bytes_max);
    }

    /// Whether `frame` is one too many after `bytes`.
    pub fn is_passed_by(&self, bytes: usize, frame: &Frame<Bytes>) -> bool {
        let bytes = bytes + frame.data_ref().map_or(0, Bytes::len);
        let is_passed = self.bytes_max.get().is_some_and(|max| bytes as u64 > max);
        self.is_passed.set(is_passed);
        is_passed
    }

    /// Whether one was.
    pub fn is_passed(&self) -> bool {
        self.is_passed.get()
    }
}
