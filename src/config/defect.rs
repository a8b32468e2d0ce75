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
    ($($code:ident = $number:literal $severity:ident $title:literal, $remedy:literal;)*) => {
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

            /// What to do about one, in general; a defect's own help knows more.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$code => $remedy,)* }
            }
        }
    };
}

// The one table of codes, of which docs/reference/codes.md is made. A number is never given again.
codes! {
    Unreadable = "0001" Error "the file cannot be read",
        "check the path and its permissions; a folder is not a file";
    TooLarge = "0002" Error "the file is larger than 1MiB",
        "check that it is the right file";
    NotText = "0003" Error "the file is not UTF-8 text",
        "check that it is the right file; save it as UTF-8";
    Syntax = "0004" Error "not YAML",
        "look at indentation, colons and quotes in the line and above it";
    SecondDocument = "0005" Error "more than one YAML document",
        "keep one document: remove `---` or what follows";
    Tag = "0006" Error "a YAML tag that means nothing here",
        "leave it out; a text that starts with `!` needs quotes";
    Alias = "0007" Error "an alias without its anchor, or beyond the budget",
        "write the value out; a text that starts with `*` needs quotes";
    Manifest = "0008" Error "a manifest that holds no config file",
        "put the file under `serin.yaml` in a ConfigMap; give `serin run` the mounted file, not \
         the manifest";

    UnknownKey = "0101" Error "unknown key",
        "the help says which key was probably meant";
    MissingKey = "0102" Error "missing key",
        "add it";
    WrongKind = "0103" Error "text, list or map where another is wanted",
        "the message says which kind is wanted";
    DuplicateKey = "0104" Error "the same key twice in one map",
        "keep one of the two";
    NotSupported = "0105" Error "not supported yet",
        "leave it out; see \"What comes later\" in docs/configuration.md";
    Exclusive = "0106" Error "keys of which exactly one is wanted",
        "keep one of them";
    Empty = "0107" Error "a list that may not be empty",
        "add an entry, or leave the key out where it has a default";
    TooMany = "0108" Error "too many of them",
        "the message says how many may stand there";

    Name = "0201" Error "not a name",
        "see Units in docs/configuration.md";
    Address = "0202" Error "not an address",
        "write IP address and port";
    Duration = "0203" Error "not a duration, or out of range",
        "write a number with its unit";
    Percent = "0204" Error "not a percentage, or out of range",
        "write `1%`, not `0.01` or `1`";
    Size = "0205" Error "not a size, or out of range",
        "write a whole number with its unit";
    Number = "0206" Error "not a number, or out of range",
        "the message says the range";
    Regex = "0207" Error "not a regular expression, or too large",
        "see Units in docs/configuration.md";
    Field = "0208" Error "not a header, cookie or parameter name, or not a header value",
        "a header value is one line of visible ASCII; it is never printed";
    Method = "0209" Error "not a method",
        "write it in capitals";
    Hostname = "0210" Error "not a hostname",
        "leave port and path out; `*` only as the whole first label";
    Path = "0211" Error "not a path",
        "start it with `/`; patterns are `path: { regex: … }`";
    Choice = "0212" Error "not one of the possible values",
        "the help lists them";
    Quantile = "0213" Error "not a quantile",
        "write `p50` to `p99.9`";
    Objective = "0214" Error "an objective that nothing could keep or breach",
        "write one quantile per objective, a limit between 0% and 100%";
    Flag = "0215" Error "neither true nor false",
        "write it without quotes";
    Step = "0216" Error "a step that makes no sense where it stands",
        "the message says why; weights never fall, `bake` is for the end";
    Secret = "0217" Error "a header that holds secrets, which is never logged",
        "leave it out";

    Dangling = "0301" Error "a name that nothing has",
        "the help says which name was probably meant";
    DuplicateName = "0302" Error "the same name twice",
        "choose another name, or keep one of the two";
    DuplicateEndpoint = "0303" Error "the same endpoint twice in one backend",
        "keep it once";
    ZeroWeights = "0304" Error "all weights of a rule are zero",
        "give one of them a weight above 0";
    Overlap = "0305" Error "two sockets on one address",
        "choose another port for one of them";
    OpenAdmin = "0306" Error "an admin port for everyone, without a token",
        "add `token_file`, or listen on loopback";
    TokenFile = "0307" Error "a token file that cannot be used",
        "write one token into it, readable for Serin's user; `--no-files` skips the look";
    SameVersion = "0308" Error "stable and canary are the same backend",
        "name the backend that is to be judged";
    NotInRule = "0309" Error "stable or canary is not a backend of the rule",
        "add it to the rule's backends";
    SecondRollout = "0310" Error "two rollouts on one rule",
        "join them, or remove the one that has ended";
    HopByHop = "0311" Error "a header that is not for a mirror to set",
        "leave it out: Serin sees to it";
    Loop = "0312" Error "an endpoint that is Serin itself",
        "write the model server's address";
    CertificateFile = "0320" Error "a certificate that cannot be used",
        "give a PEM file with the certificate first and then its chain; `--no-files` skips the \
         look";
    KeyFile = "0321" Error "a private key that cannot be used",
        "give a PEM file with one RSA, ECDSA or Ed25519 key, without a password, readable for \
         Serin's user";
    KeyMismatch = "0322" Error "a private key of another certificate",
        "give the key that the certificate was made for";
    AuthorityFile = "0323" Error "authorities, or what they revoked, that cannot be used",
        "give a PEM file of certificates, or of revocation lists";

    UnusedBackend = "0401" Warning "a backend that nothing uses",
        "use it in a rule, or remove it";
    MirrorToServing = "0402" Warning "a mirror to a backend that also serves the rule",
        "mirror to a backend of its own";
    Unreachable = "0403" Warning "a rule that no request can reach",
        "put the more special rule first, or give it a match of its own";
    NoLedger = "0404" Warning "rollouts without a state file",
        "add `state: { file: ./serin-state.json }`";
    NoEndpoints = "0405" Warning "a backend without endpoints",
        "add one; until then requests get 503";
    IdleCanary = "0406" Warning "a rollout whose canary gets no traffic",
        "give it a weight: a rollout without steps keeps the rule's weights";
    IdleFailover = "0407" Warning "failover on a rule without a rollout",
        "leave it out, or name the rule in a rollout; `retry` is for other failures";
    NotValidNow = "0410" Warning "a certificate that is not valid now",
        "renew it; clients that check will refuse this one";
    OpenKey = "0411" Warning "a private key that everyone on the machine can read",
        "let Serin's user alone read it: mode 600";

    NeedsRestart = "0501" Error "a change that a reload cannot make",
        "restart Serin, or undo the change; the running config stays";
    NotTaken = "0502" Error "a file of TLS that was not taken over",
        "put files there that are whole, belong together and are valid now; what was read \
         before stays in force, and they are read again";

    NoService = "0601" Error "a service, or a port of it, that the cluster does not have",
        "`serin check --k8s`: make it, or write the name that it has";
    NoneReady = "0602" Warning "a service without endpoints that are ready",
        "`--k8s`: look at the labels that it selects by, and at why its pods are not ready";
    NoLatch = "0603" Warning "a fleet without its ConfigMap",
        "`--k8s`: make it, without data; Serin does so only if it may create ConfigMaps";
    ClusterUnknown = "0604" Error "a cluster that does not answer, or refuses",
        "`--k8s`: say where it is, or give who asks the rights of \
         `k8s/components/cluster/role.yaml`";
    TooManyReplicas = "0605" Warning "more replicas than `fleet.max_replicas`",
        "`--k8s`: raise it to the most that there will ever be, those of a rolling update included";
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
