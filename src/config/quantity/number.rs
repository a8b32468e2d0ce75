//! Durations, shares, sizes, counts and flags.
//!
//! Never takes a number whose unit is anyone's guess.

use std::time::Duration;

use jiff::fmt::friendly::SpanParser;
use schemars::{Schema, json_schema};

use crate::config::defect::Code;
use crate::config::quantity::{Fault, Quantity, text_schema};
use crate::config::tree::Scalar;
use crate::units::{Ratio, duration_text};

/// No wait is longer than a week.
const SPAN_MAX: Duration = Duration::from_hours(7 * 24);

/// A length of time above zero: `200ms`, `1.5s`, `5m`, `1h30m`; at most a week.
pub struct Span;

/// As [`Span`], or zero.
pub struct SpanOrZero;

impl Quantity for Span {
    type Value = Duration;

    fn parse(scalar: &Scalar) -> Result<Duration, Fault> {
        let span = parse_span(scalar)?;
        if span.is_zero() {
            let help = "write a time above zero, or leave the key out for the default";
            return Err(Fault::of(Code::Duration, scalar, "is no time at all", help));
        }
        Ok(span)
    }

    fn schema() -> Schema {
        text_schema(SPAN_PATTERN, "30s")
    }
}

impl Quantity for SpanOrZero {
    type Value = Duration;

    fn parse(scalar: &Scalar) -> Result<Duration, Fault> {
        parse_span(scalar)
    }

    fn schema() -> Schema {
        text_schema(SPAN_PATTERN, "30s")
    }
}

const SPAN_PATTERN: &str = r"^([0-9]+(\.[0-9]+)?\s*(us|µs|ms|s|m|h)[a-z]*\s*)+$";

fn parse_span(scalar: &Scalar) -> Result<Duration, Fault> {
    let text = scalar.text.as_str();
    let help = "write a number with its unit: `200ms`, `1.5s`, `5m`, `2h`";
    if text.parse::<f64>().is_ok() {
        let help = format!("write `{0}s` or `{0}ms`", text.trim_start_matches(['-', '+']));
        return Err(Fault::of(Code::Duration, scalar, "is a number without a unit", help));
    }
    if text.contains(['-', '+']) || text.ends_with("ago") {
        return Err(Fault::of(Code::Duration, scalar, "is not a duration", help));
    }
    let span = SpanParser::new()
        .parse_unsigned_duration(text)
        .map_err(|_| Fault::of(Code::Duration, scalar, "is not a duration", help))?;
    if span > SPAN_MAX {
        let what = "is longer than any wait here may be";
        return Err(Fault::of(Code::Duration, scalar, what, "write at most a week: `168h`"));
    }
    // Finer than a microsecond is nothing that a request could tell.
    if span.subsec_nanos() % 1000 != 0 {
        let help = format!(
            "write `{}`",
            duration_text(Duration::from_micros(
                u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1)
            ))
        );
        return Err(Fault::of(Code::Duration, scalar, "is finer than a microsecond", help));
    }
    Ok(span)
}

/// A share of traffic, 0 to 100 %: `25%`; a bare `25` means the same.
pub struct Percent;

impl Quantity for Percent {
    type Value = Ratio;

    fn parse(scalar: &Scalar) -> Result<Ratio, Fault> {
        let digits = scalar.text.strip_suffix('%').unwrap_or(&scalar.text).trim_end();
        let help = "write `0%` to `100%`";
        percent(digits).ok_or_else(|| {
            Fault::of(Code::Percent, scalar, "is not a percentage from 0% to 100%", help)
        })
    }

    fn schema() -> Schema {
        json_schema!({
            "anyOf": [
                text_schema(PERCENT_PATTERN, "25%"),
                { "type": "number", "minimum": 0, "maximum": 100 },
            ]
        })
    }
}

/// A rate that is never written as a bare number, for `0.01` and `1` would both be guesses: `1%`.
pub struct Rate;

impl Quantity for Rate {
    type Value = Ratio;

    fn parse(scalar: &Scalar) -> Result<Ratio, Fault> {
        let Some(digits) = scalar.text.strip_suffix('%') else {
            return Err(bare_rate(scalar));
        };
        let rate = percent(digits.trim_end());
        rate.filter(|rate| *rate > Ratio::ZERO && *rate < Ratio::ONE).ok_or_else(|| {
            let what = "is not a percentage above 0% and below 100%";
            Fault::of(Code::Percent, scalar, what, "write a percentage such as `1%` or `0.25%`")
        })
    }

    fn schema() -> Schema {
        text_schema(PERCENT_PATTERN, "1%")
    }
}

const PERCENT_PATTERN: &str = r"^[0-9]+(\.[0-9]+)?\s*%$";

fn bare_rate(scalar: &Scalar) -> Fault {
    let text = scalar.text.as_str();
    let help = match (percent(text), text.parse::<f64>()) {
        (Some(_), Ok(number)) if number > 0.0 && number < 1.0 => {
            let meant = Ratio::new(number).unwrap_or_default();
            format!("write `{meant}`, or `{text}%` if that is what you mean")
        }
        (Some(_), _) => format!("write `{text}%`"),
        _ => "write a percentage such as `1%` or `0.25%`".to_owned(),
    };
    Fault::of(Code::Percent, scalar, "is not a percentage", help)
}

/// 0 to 100, plain decimal. Read as hundredths at once: 0.1 / 100 would not be 0.001.
fn percent(digits: &str) -> Option<Ratio> {
    plain_decimal(digits).then(|| format!("{digits}e-2").parse().ok())?.and_then(Ratio::new)
}

fn plain_decimal(digits: &str) -> bool {
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain =
        |part: &str| (1..=18).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    plain(whole) && plain(part)
}

/// A number of bytes up to 1 GiB: `64KiB`, `1MiB`, `1MB`; a bare number is bytes.
pub struct Size;

impl Size {
    const MAX: u64 = 1 << 30;
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
        ("", 1),
    ];
}

impl Quantity for Size {
    type Value = u64;

    fn parse(scalar: &Scalar) -> Result<u64, Fault> {
        let text = scalar.text.as_str();
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let unit = Self::UNITS.iter().find(|(name, _)| *name == unit.trim_start());
        let help = "write a whole number with its unit: `512B`, `64KiB`, `1MiB`";
        let (Some((_, unit)), Ok(number)) = (unit, digits.parse::<u64>()) else {
            return Err(Fault::of(Code::Size, scalar, "is not a size", help));
        };
        number.checked_mul(*unit).filter(|bytes| *bytes <= Self::MAX).ok_or_else(|| {
            Fault::of(Code::Size, scalar, "is more than 1GiB", "write at most `1GiB`")
        })
    }

    fn schema() -> Schema {
        json_schema!({
            "anyOf": [
                text_schema(r"^[0-9]+\s*(B|KiB|MiB|GiB|kB|KB|MB|GB)?$", "1MiB"),
                { "type": "integer", "minimum": 0, "maximum": Self::MAX },
            ]
        })
    }
}

/// A whole number from `MIN` to `MAX`.
pub struct Count<const MIN: u32, const MAX: u32>;

impl<const MIN: u32, const MAX: u32> Quantity for Count<MIN, MAX> {
    type Value = u32;

    fn parse(scalar: &Scalar) -> Result<u32, Fault> {
        let digits = scalar.text.as_str();
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let help = format!("write a whole number from {MIN} to {MAX}");
        if !plain {
            return Err(Fault::of(Code::Number, scalar, "is not a whole number", help));
        }
        let number = digits.parse().ok().filter(|number| (MIN..=MAX).contains(number));
        number.ok_or_else(|| {
            Fault::of(Code::Number, scalar, format!("is not within {MIN} to {MAX}"), help)
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// How many times worse than stable: 1 to 1000.
pub struct RatioNumber;

impl Quantity for RatioNumber {
    type Value = f64;

    fn parse(scalar: &Scalar) -> Result<f64, Fault> {
        let number = plain_decimal(&scalar.text).then(|| scalar.text.parse().ok()).flatten();
        number.filter(|number| (1.0..=1000.0).contains(number)).ok_or_else(|| {
            let help = "write how many times stable's rate is too much, as in `1.5`";
            Fault::of(Code::Number, scalar, "is not a number from 1 to 1000", help)
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "number", "minimum": 1, "maximum": 1000 })
    }
}

/// `true` or `false`.
pub struct Flag;

impl Quantity for Flag {
    type Value = bool;

    fn parse(scalar: &Scalar) -> Result<bool, Fault> {
        match (scalar.text.as_str(), scalar.quoted) {
            ("true" | "True" | "TRUE", false) => Ok(true),
            ("false" | "False" | "FALSE", false) => Ok(false),
            _ => {
                let help = "write `true` or `false`, without quotes";
                Err(Fault::of(Code::Flag, scalar, "is neither true nor false", help))
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "boolean" })
    }
}
