//! One file per command: what its arguments mean, and what it prints.

pub mod backend;
pub mod drive;
pub mod load;
pub mod model;
pub mod relay;

use std::time::Duration;

/// Parses `250ms`, `20s` or `5m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} has no number"))?;
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        unit => return Err(format!("unit {unit:?}: use ms, s, m or h, as in 250ms")),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}

/// Parses `NAME: VALUE`, as curl's `-H`.
pub fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("use NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Parses a share from 0 to 1, also written as `5%`.
pub fn ratio(text: &str) -> Result<f64, String> {
    let parsed = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse(),
    };
    match parsed {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err(format!("{text:?} is not a share from 0 to 1, or from 0% to 100%")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, millis) in [("250ms", 250), ("20s", 20_000), ("1.5m", 90_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "10", "10d", "-1s", "1e400s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ratios_are_shares_or_percentages() {
        for (text, share) in [("0.05", 0.05), ("5%", 0.05), ("0", 0.0), ("100%", 1.0)] {
            assert_eq!(ratio(text), Ok(share), "{text}");
        }
        for text in ["", "%", "5", "-1%", "101%", "NaN"] {
            assert!(ratio(text).is_err(), "{text}");
        }
    }

    #[test]
    fn headers_are_written_as_for_curl() {
        assert_eq!(header("x-cohort: beta"), Ok(("x-cohort".into(), "beta".into())));
        assert!(header("x-cohort").is_err());
    }
}
