//! Names, choices and plain texts.
//!
//! Never looks a name up: whether something has it is for the check of the whole file.

use http::StatusCode;
use schemars::{Schema, json_schema};

use crate::config::defect::Code;
use crate::config::quantity::{Count, Fault, Quantity, Rate, text_schema};
use crate::config::read::{listed, similar};
use crate::config::tree::Scalar;
use crate::config::{LineFormat, LineMember, OtlpProtocol};
use crate::names::{RouteName, RuleId, RuleName};
use crate::rollout::objective::{OnBreach, Quantile};
use crate::rollout::plan::{ALERT_DEFAULT, Breach, Deadline};
use crate::traffic::balance::Balance;
use crate::traffic::limit::InFlight;
use crate::traffic::protocol;
use crate::traffic::retry::Condition;
use crate::units::Ratio;

/// The longest name, so that a metric's labels and a `route/rule` stay readable.
const NAME_LEN_MAX: usize = 63;

/// A name: letters, digits, `.`, `_` and `-`, the first a letter or a digit.
pub struct Name;

impl Quantity for Name {
    type Value = String;

    fn parse(scalar: &Scalar) -> Result<String, Fault> {
        let text = scalar.text.as_str();
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if first && text.len() <= NAME_LEN_MAX && text.bytes().all(known) {
            return Ok(text.to_owned());
        }
        let help = "write 1 to 63 letters, digits, `.`, `_` or `-`, the first a letter or a digit";
        Err(Fault::of(Code::Name, scalar, "is not a name", help))
    }

    fn schema() -> Schema {
        text_schema("^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", "sentiment-v2")
    }
}

/// A rule's full name, `route/rule`.
pub struct RuleRef;

impl Quantity for RuleRef {
    type Value = RuleId;

    fn parse(scalar: &Scalar) -> Result<RuleId, Fault> {
        match scalar.text.split_once('/') {
            Some((route, rule)) if !route.is_empty() && !rule.is_empty() => {
                Ok(RuleId { route: RouteName::new(route), rule: RuleName::new(rule) })
            }
            _ => {
                let help = "write the route's name, a slash and the rule's: `sentiment/main`";
                Err(Fault::of(Code::Name, scalar, "is not the full name of a rule", help))
            }
        }
    }

    fn schema() -> Schema {
        text_schema("^[^/]+/[^/]+$", "sentiment/main")
    }
}

/// Any text; a number or a truth value is taken as it is written.
pub struct Text;

impl Quantity for Text {
    type Value = String;

    fn parse(scalar: &Scalar) -> Result<String, Fault> {
        Ok(scalar.text.clone())
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// What tells one attempt at a rollout from the next: 1 to 128 visible characters.
pub struct VersionText;

impl Quantity for VersionText {
    type Value = String;

    fn parse(scalar: &Scalar) -> Result<String, Fault> {
        let text = scalar.text.as_str();
        if (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(text.to_owned());
        }
        let help = "write 1 to 128 visible ASCII characters, as in `2026-11-20.1`";
        Err(Fault::of(Code::Name, scalar, "is not a version", help))
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number"], "maxLength": 128 })
    }
}

/// What a model is called by whoever serves it: 1 to 256 characters.
pub struct ModelName;

impl Quantity for ModelName {
    type Value = String;

    fn parse(scalar: &Scalar) -> Result<String, Fault> {
        let text = scalar.text.as_str();
        if (1..=256).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
            return Ok(text.to_owned());
        }
        let help = "write 1 to 256 characters, as in `chat-v2`";
        Err(Fault::of(Code::Name, scalar, "is no name of a model", help))
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number"], "minLength": 1, "maxLength": 256 })
    }
}

/// What this proxy is called elsewhere: 1 to 128 visible characters.
pub struct ServiceName;

impl Quantity for ServiceName {
    type Value = String;

    fn parse(scalar: &Scalar) -> Result<String, Fault> {
        VersionText::parse(scalar).map_err(|_| {
            let help = "write 1 to 128 visible ASCII characters, as in `serin-eu`";
            Fault::of(Code::Name, scalar, "is not a service's name", help)
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": 128 })
    }
}

/// `p50` to `p99.9`.
pub struct QuantileKey;

impl Quantity for QuantileKey {
    type Value = Quantile;

    fn parse(scalar: &Scalar) -> Result<Quantile, Fault> {
        scalar.text.parse().map_err(|_| {
            let help = "write `p50` to `p99.9`, with at most one decimal";
            Fault::of(Code::Quantile, scalar, "is not a quantile", help)
        })
    }

    fn schema() -> Schema {
        text_schema(r"^p[5-9][0-9](\.[0-9])?$", "p99")
    }
}

/// Values of which one is wanted.
pub(super) fn choose<T: Copy>(
    scalar: &Scalar,
    now: &[(&'static str, T)],
    later: &[&'static str],
) -> Result<T, Fault> {
    let text = scalar.text.as_str();
    if let Some((_, value)) = now.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<_> = now.iter().map(|(name, _)| *name).collect();
    let help = format!("write {}", listed(&names).replace(" and ", " or "));
    if later.contains(&text) {
        return Err(Fault::of(Code::NotSupported, scalar, "is not supported yet", help));
    }
    let help = match similar(text, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => help,
    };
    Err(Fault::of(Code::Choice, scalar, "is not a value that this key takes", help))
}

/// How Serin speaks to endpoints.
pub struct Protocol;

impl Quantity for Protocol {
    type Value = protocol::Protocol;

    fn parse(scalar: &Scalar) -> Result<protocol::Protocol, Fault> {
        choose(scalar, &protocol::Protocol::ALL.map(|one| (one.as_str(), one)), &[])
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["http1", "http2", "auto"] })
    }
}

/// How endpoints share requests.
pub struct BalanceWord;

impl Quantity for BalanceWord {
    type Value = Balance;

    fn parse(scalar: &Scalar) -> Result<Balance, Fault> {
        choose(scalar, &Balance::ALL.map(|one| (one.as_str(), one)), &[])
    }

    fn schema() -> Schema {
        json_schema!({ "enum": Balance::ALL.map(Balance::as_str) })
    }
}

/// What a line of the access log looks like.
pub struct LineFormatWord;

impl Quantity for LineFormatWord {
    type Value = LineFormat;

    fn parse(scalar: &Scalar) -> Result<LineFormat, Fault> {
        choose(scalar, &[("json", LineFormat::Json), ("text", LineFormat::Text)], &[])
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["json", "text"] })
    }
}

/// What a line of the access log may have.
pub struct LineMemberWord;

impl Quantity for LineMemberWord {
    type Value = LineMember;

    fn parse(scalar: &Scalar) -> Result<LineMember, Fault> {
        choose(scalar, &LineMember::ALL.map(|one| (one.as_str(), one)), &[])
    }

    fn schema() -> Schema {
        json_schema!({ "enum": LineMember::ALL.map(LineMember::as_str) })
    }
}

/// What a collector of spans speaks.
pub struct OtlpProtocolWord;

impl Quantity for OtlpProtocolWord {
    type Value = OtlpProtocol;

    fn parse(scalar: &Scalar) -> Result<OtlpProtocol, Fault> {
        choose(scalar, &[("http", OtlpProtocol::Http), ("grpc", OtlpProtocol::Grpc)], &[])
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["http", "grpc"] })
    }
}

/// `off`, for what is on where the file does not say.
pub struct OffWord;

impl Quantity for OffWord {
    type Value = ();

    fn parse(scalar: &Scalar) -> Result<(), Fault> {
        choose(scalar, &[("off", ())], &[]).map_err(|fault| Fault {
            help: "write `off`, or a map with what differs".to_owned(),
            ..fault
        })
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["off"] })
    }
}

/// How many requests may be under way: a number, or `auto`.
pub struct InFlightWord;

impl Quantity for InFlightWord {
    type Value = InFlight;

    fn parse(scalar: &Scalar) -> Result<InFlight, Fault> {
        if scalar.text == "auto" {
            return Ok(InFlight::Auto);
        }
        Count::<1, 1_000_000>::parse(scalar).map(InFlight::Fixed).map_err(|fault| {
            let help = format!("{}, or `auto`", fault.help);
            Fault { help, ..fault }
        })
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [Count::<1, 1_000_000>::schema(), { "enum": ["auto"] }] })
    }
}

/// What of an attempt is tried again.
pub struct RetryWord;

impl Quantity for RetryWord {
    type Value = Condition;

    fn parse(scalar: &Scalar) -> Result<Condition, Fault> {
        let text = scalar.text.as_str();
        // What is answered below 400 is an answer.
        let status = text.parse().ok().filter(|code| (400..600).contains(code));
        if let Some(status) = status.and_then(|code| StatusCode::from_u16(code).ok()) {
            return Ok(Condition::Status(status));
        }
        let words = [
            ("connect", Condition::Connect),
            ("reset", Condition::Reset),
            ("first_byte", Condition::FirstByte),
            ("5xx", Condition::ServerError),
        ];
        choose(scalar, &words, &[]).map_err(|mut fault| {
            fault.help.push_str(", or a status from 400 to 599");
            fault
        })
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "enum": ["connect", "reset", "first_byte", "5xx"] },
            { "type": ["string", "integer"], "pattern": "^[45][0-9][0-9]$",
              "minimum": 400, "maximum": 599 },
        ] })
    }
}

/// What a proven breach of any objective leads to.
pub struct RolloutBreach;

impl Quantity for RolloutBreach {
    type Value = Breach;

    fn parse(scalar: &Scalar) -> Result<Breach, Fault> {
        let now =
            [("rollback", Breach::Rollback), ("pause", Breach::Pause), ("alert", Breach::Alert)];
        choose(scalar, &now, &[])
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["rollback", "pause", "alert"] })
    }
}

/// What becomes of a canary's answers when it is taken out; `true` is that they are cut.
pub struct StreamsWord;

impl Quantity for StreamsWord {
    type Value = bool;

    fn parse(scalar: &Scalar) -> Result<bool, Fault> {
        choose(scalar, &[("finish", false), ("cut", true)], &[])
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["finish", "cut"] })
    }
}

/// What a step waits for.
pub struct UntilWord;

impl Quantity for UntilWord {
    type Value = ();

    fn parse(scalar: &Scalar) -> Result<(), Fault> {
        choose(scalar, &[("proven", ())], &[])
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["proven"] })
    }
}

/// What a proven breach of one objective leads to.
pub struct ObjectiveBreach;

impl Quantity for ObjectiveBreach {
    type Value = OnBreach;

    fn parse(scalar: &Scalar) -> Result<OnBreach, Fault> {
        let now = [("rollback", OnBreach::Rollback), ("hold", OnBreach::Hold)];
        choose(scalar, &now, &["pause", "alert"])
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["rollback", "hold"] })
    }
}

/// What becomes of a reason to hold, in a word.
pub struct HoldWord;

impl Quantity for HoldWord {
    type Value = Deadline;

    fn parse(scalar: &Scalar) -> Result<Deadline, Fault> {
        let words = [("hold", Deadline::Hold), ("alert", Deadline::AlertAfter(ALERT_DEFAULT))];
        choose(scalar, &words, &[]).map_err(|fault| {
            let help = "write `hold`, `alert` or `{ rollback_after: 5m }`".to_owned();
            Fault { help, ..fault }
        })
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["hold", "alert"] })
    }
}

/// Stable is the measure.
const RELATIVE: &str = "not-worse-than-stable";
/// Stable's p90 is.
const RELATIVE_BODY: &str = "body-not-worse-than-stable";

/// What an objective is measured by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// At most so much.
    Rate(Ratio),
    /// What stable does.
    Stable,
}

/// The limit of `errors`: a rate that is never written as a bare number, or stable's.
pub struct ErrorLimit;

impl Quantity for ErrorLimit {
    type Value = Limit;

    fn parse(scalar: &Scalar) -> Result<Limit, Fault> {
        match scalar.text.as_str() {
            RELATIVE => Ok(Limit::Stable),
            _ => Rate::parse(scalar).map(Limit::Rate),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [Rate::schema(), { "enum": [RELATIVE] }] })
    }
}

/// What stands for a limit of latency where no quantile is named.
pub struct LatencyWord;

/// How latency is compared with stable's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relative {
    /// The share that is slow, as another objective calls slow.
    Slow,
    /// The share over stable's p90.
    Body,
}

impl Quantity for LatencyWord {
    type Value = Relative;

    fn parse(scalar: &Scalar) -> Result<Relative, Fault> {
        let help = "write a quantile and its limit: `{ p99: 200ms }`";
        match scalar.text.as_str() {
            RELATIVE => Ok(Relative::Slow),
            RELATIVE_BODY => Ok(Relative::Body),
            _ => {
                let what = "does not say which quantile it limits";
                Err(Fault::of(Code::WrongKind, scalar, what, help))
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "enum": [RELATIVE, RELATIVE_BODY] })
    }
}
