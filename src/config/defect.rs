//! What is wrong with a config file: codes, places, messages and remedies.
//!
//! Never finds a defect itself, and never holds more of the file than its name and its
//! lines: who finds one brings the words.

use std::fmt;

/// How much a defect matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The file does what it says, but probably not what was meant.
    Warning,
    /// The file is refused.
    Error,
}

impl Severity {
    /// `warning` or `error`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

macro_rules! codes {
    ($($code:ident = $number:literal $severity:ident $title:literal;)*) => {
        /// A class of defects. The number is stable: scripts and searches hold on to it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $code,)*
        }

        impl Code {
            /// Every code, by number.
            pub const ALL: &[Self] = &[$(Self::$code),*];

            /// `SRN0101`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$code => concat!("SRN", $number),)* }
            }

            /// How much a defect of this class matters.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$code => Severity::$severity,)* }
            }

            /// The class in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)* }
            }
        }
    };
}

// The one table of codes. A number is never given again; docs/configuration.md explains each.
codes! {
    Unreadable = "0001" Error "the file cannot be read";
    TooLarge = "0002" Error "the file is larger than 1MiB";
    NotText = "0003" Error "the file is not UTF-8 text";
    Syntax = "0004" Error "not YAML";
    SecondDocument = "0005" Error "more than one YAML document";
    Tag = "0006" Error "a YAML tag that means nothing here";
    Alias = "0007" Error "an alias without its anchor, or beyond the budget";
    Manifest = "0008" Error "a manifest that holds no config file";

    UnknownKey = "0101" Error "unknown key";
    MissingKey = "0102" Error "missing key";
    WrongKind = "0103" Error "text, list or map where another is wanted";
    DuplicateKey = "0104" Error "the same key twice in one map";
    NotSupported = "0105" Error "not supported yet";
    Exclusive = "0106" Error "keys of which exactly one is wanted";
    Empty = "0107" Error "a list that may not be empty";
    TooMany = "0108" Error "too many of them";

    Name = "0201" Error "not a name";
    Address = "0202" Error "not an address";
    Duration = "0203" Error "not a duration, or out of range";
    Percent = "0204" Error "not a percentage, or out of range";
    Size = "0205" Error "not a size, or out of range";
    Number = "0206" Error "not a number, or out of range";
    Regex = "0207" Error "not a regular expression, or too large";
    Field = "0208" Error "not a header, cookie or parameter name, or not a header value";
    Method = "0209" Error "not a method";
    Hostname = "0210" Error "not a hostname";
    Path = "0211" Error "not a path";
    Choice = "0212" Error "not one of the possible values";
    Quantile = "0213" Error "not a quantile";
    Objective = "0214" Error "an objective that nothing could keep or breach";
    Flag = "0215" Error "neither true nor false";
    Step = "0216" Error "a step that makes no sense where it stands";
    Secret = "0217" Error "a header that holds secrets, which is never logged";

    Dangling = "0301" Error "a name that nothing has";
    DuplicateName = "0302" Error "the same name twice";
    DuplicateEndpoint = "0303" Error "the same endpoint twice in one backend";
    ZeroWeights = "0304" Error "all weights of a rule are zero";
    Overlap = "0305" Error "two sockets on one address";
    OpenAdmin = "0306" Error "an admin port for everyone, without a token";
    TokenFile = "0307" Error "a token file that cannot be used";
    SameVersion = "0308" Error "stable and canary are the same backend";
    NotInRule = "0309" Error "stable or canary is not a backend of the rule";
    SecondRollout = "0310" Error "two rollouts on one rule";
    HopByHop = "0311" Error "a header that is not for a mirror to set";
    Loop = "0312" Error "an endpoint that is Serin itself";
    CertificateFile = "0320" Error "a certificate that cannot be used";
    KeyFile = "0321" Error "a private key that cannot be used";
    KeyMismatch = "0322" Error "a private key of another certificate";
    AuthorityFile = "0323" Error "authorities, or what they revoked, that cannot be used";

    UnusedBackend = "0401" Warning "a backend that nothing uses";
    MirrorToServing = "0402" Warning "a mirror to a backend that also serves the rule";
    Unreachable = "0403" Warning "a rule that no request can reach";
    NoLedger = "0404" Warning "rollouts without a state file";
    NoEndpoints = "0405" Warning "a backend without endpoints";
    IdleCanary = "0406" Warning "a rollout whose canary gets no traffic";
    IdleFailover = "0407" Warning "failover on a rule without a rollout";
    NotValidNow = "0410" Warning "a certificate that is not valid now";
    OpenKey = "0411" Warning "a private key that everyone on the machine can read";

    NeedsRestart = "0501" Error "a change that a reload cannot make";
    NotTaken = "0502" Error "a file of TLS that was not taken over";

    NoService = "0601" Error "a service, or a port of it, that the cluster does not have";
    NoneReady = "0602" Warning "a service without endpoints that are ready";
    NoLatch = "0603" Warning "a fleet without its ConfigMap";
    ClusterUnknown = "0604" Error "a cluster that does not answer, or refuses";
}

/// Where something stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Characters on that line; 0 is a point.
    pub len: usize,
}

impl Place {
    /// The start of the file.
    pub const START: Self = Self { line: 1, column: 1, len: 0 };
}

/// One thing wrong with a file, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// Its class.
    pub code: Code,
    /// Where to look first.
    pub place: Place,
    /// The key, as in `rollouts[0].objectives[1]`; empty where there is none.
    pub path: String,
    /// What is wrong: one line, lower case.
    pub message: String,
    /// What to do about it: one line, lower case.
    pub help: String,
}

impl Defect {
    /// How much it matters.
    pub const fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// Whether the file is refused because of it.
    pub fn is_error(&self) -> bool {
        self.severity() == Severity::Error
    }
}

impl fmt::Display for Defect {
    /// One line, for logs: `12:7: error[SRN0101]: routes[0]: message (help)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column, .. } = self.place;
        let (severity, code) = (self.severity().as_str(), self.code.as_str());
        write!(f, "{line}:{column}: {severity}[{code}]: ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} ({})", self.message, self.help)
    }
}

/// Everything that is wrong with one file, by place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defects {
    /// The file's name as given; `-` is standard input.
    pub origin: String,
    /// Its text, for snippets; empty when there is none to show.
    pub text: String,
    /// Of the content; `None` when it could not be read.
    pub hash: Option<String>,
    /// At least one error; warnings among them.
    pub list: Vec<Defect>,
}

impl fmt::Display for Defects {
    /// A line for each, for logs; the renderer makes it readable for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, defect) in self.list.iter().enumerate() {
            let end = if index + 1 < self.list.len() { "\n" } else { "" };
            write!(f, "{}:{defect}{end}", self.origin)?;
        }
        Ok(())
    }
}

impl std::error::Error for Defects {}
