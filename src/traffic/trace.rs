//! W3C trace context, and which requests are traced.
//!
//! Never draws an id: whoever calls brings the bits.

use crate::traffic::headers::keeps_traceparent;
use crate::units::Ratio;

/// Where a request stands in a trace: what a `traceparent` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// Never 0.
    pub trace: u128,
    /// Of the span that caused the request. 0 is none.
    pub span: u64,
    /// Whether whoever caused it records the trace.
    pub sampled: bool,
}

impl TraceContext {
    /// What `value` says; `None` if it is not one that is kept.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok().filter(|_| keeps_traceparent(value))?;
        Some(Self {
            trace: u128::from_str_radix(text.get(3..35)?, 16).ok()?,
            span: u64::from_str_radix(text.get(36..52)?, 16).ok()?,
            sampled: u8::from_str_radix(text.get(53..55)?, 16).ok()? & 1 == 1,
        })
    }

    /// The field for whoever gets the request next.
    pub fn field(&self) -> [u8; 55] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex(self.trace, &mut text[3..35]);
        hex(u128::from(self.span), &mut text[36..52]);
        text[54] = if self.sampled { b'1' } else { b'0' };
        text
    }
}

fn hex(number: u128, digits: &mut [u8]) {
    for (index, digit) in digits.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * index)) as usize & 0xf];
    }
}

/// Whether a trace that begins here is recorded. Goes by the last 56 bits of its id, as
/// OpenTelemetry does, so that all who sample by the same share record the same traces.
pub fn is_sampled(trace: u128, share: Ratio) -> bool {
    const BITS: u32 = 56;
    let low = trace & ((1 << BITS) - 1);
    (low as f64) < share.get() * (1u64 << BITS) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_survives_being_written() {
        let context = TraceContext { trace: 0x1f, span: 0xab << 56, sampled: true };
        let field = context.field();
        assert_eq!(&field, b"00-0000000000000000000000000000001f-ab00000000000000-01");
        assert_eq!(TraceContext::parse(&field), Some(context));
    }

    #[test]
    fn what_is_no_context_is_none() {
        for text in [
            "",
            "00-00000000000000000000000000000000-ab00000000000000-01",
            "00-0000000000000000000000000000001f-0000000000000000-01",
            "00-0000000000000000000000000000001F-ab00000000000000-01",
        ] {
            assert_eq!(TraceContext::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_share_is_a_share_of_the_low_bits() {
        let share = |percent: f64| Ratio::new(percent / 100.0).unwrap();
        let ids = || (0..1000u128).map(|n| (0xabcd << 64) | (((2 * n + 1) << 56) / 2000));
        for percent in [0.0, 1.0, 25.0, 100.0] {
            let sampled = ids().filter(|id| is_sampled(*id, share(percent))).count();
            assert_eq!(sampled, (percent * 10.0) as usize, "{percent}");
        }
    }
}
