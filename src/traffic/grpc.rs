//! What gRPC says in the fields of a request.
//!
//! Never looks into a message: the fields tell all that a proxy has to know.

use std::time::Duration;

use crate::traffic::fields::{Fields, Known};

/// How long the client of a gRPC request waits: its `grpc-timeout`, up to eight digits and a
/// unit (gRPC over HTTP/2, "Requests"). `None` where there is none, or none that can be
/// read.
pub fn timeout(fields: &Fields) -> Option<Duration> {
    let text = fields.get(Known::GrpcTimeout)?;
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_hours(count)),
        b'M' => Some(Duration::from_mins(count)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_up_to_eight_digits_and_a_unit() {
        for (text, millis) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3_000)),
            ("450m", Some(450)),
            ("5000u", Some(5)),
            ("99999999n", Some(99)),
            ("99999999H", Some(359_999_996_400_000)),
            ("0m", Some(0)),
            ("123456789m", None),
            ("1", None),
            ("m", None),
            ("", None),
            ("-1m", None),
            ("1 m", None),
            ("1.5S", None),
            ("1h", None),
        ] {
            let found =
                timeout(&Fields::of(&[("grpc-timeout", text)])).map(|span| span.as_millis());
            assert_eq!(found, millis.map(|millis: u64| u128::from(millis)), "{text:?}");
        }
        assert_eq!(timeout(&Fields::default()), None);
    }
}
