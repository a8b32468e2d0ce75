//! What commands share that talk to a running proxy: where it is, and one call to it.
//!
//! Never retries and never waits without a limit: a command that hangs helps nobody.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, SERVER};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::config::{Admin, load};
use crate::control::api::Problem;

/// The exit code when no admin port answers.
pub const UNREACHABLE: u8 = 3;

/// How long a connection may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// How long an answer may take: longer than the admin port itself allows.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(35);

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where the running proxy is.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Which proxy")]
pub struct AdminArgs {
    /// Its admin port, as `host:port`; goes before `--config` [default: 127.0.0.1:9901]
    #[arg(long, value_name = "ADDR", env = "SERIN_ADMIN", value_parser = address)]
    pub admin: Option<Authority>,
    /// The config file that it runs with; tells its admin port and its token file
    #[arg(short, long, value_name = "FILE", env = "SERIN_CONFIG")]
    pub config: Option<PathBuf>,
    /// A file with the token that its admin port wants
    #[arg(long, value_name = "FILE", env = "SERIN_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

/// Reads `host:port`, also as the start of a URL; 9901 where there is no port.
pub fn address(text: &str) -> Result<Authority, String> {
    let help = || format!("`{text}` is not an address; write it like {}", Admin::ADDRESS);
    if text.starts_with("https:") {
        return Err("the admin port speaks plain HTTP; write it as host:port".to_owned());
    }
    let plain = text.strip_prefix("http://").unwrap_or(text);
    let plain = plain.strip_suffix('/').unwrap_or(plain);
    let authority: Authority = plain.parse().map_err(|_| help())?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(help());
    }
    match (authority.port(), authority.port_u16()) {
        (Some(_), Some(1..)) => Ok(authority),
        (None, _) if !plain.ends_with(':') => {
            format!("{authority}:9901").parse().map_err(|_| help())
        }
        _ => Err(help()),
    }
}

/// Parses `90`, `500ms`, `20s`, `1.5m` or `1h`.
pub fn span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => 0.0,
    };
    let seconds = digits.parse::<f64>().ok().map(|number| number * unit);
    let seconds = seconds.filter(|seconds| (0.001..=86_400.0).contains(seconds));
    let help = || "not a time from 1ms to 24h: write 20s, 1.5m or 1h".to_owned();
    seconds.map(Duration::from_secs_f64).ok_or_else(help)
}

/// An address that is listened on, as one that can be connected to.
pub fn reachable(address: SocketAddr) -> anyhow::Result<Authority> {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    anyhow::ensure!(address.port() != 0, "it takes a free port, which only the proxy knows");
    Ok(SocketAddr::new(ip, address.port()).to_string().parse()?)
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answered, or not in time.
    #[error(
        "no answer from {address}: {why}\nis `serin run` running there? Name its admin port \
         with --admin HOST:PORT, or its config file with -c FILE"
    )]
    Unreachable {
        /// Who was asked.
        address: String,
        /// What the system said.
        why: String,
    },
    /// Something else answered.
    #[error(
        "what answers at {address} is not the admin port of Serin\nname the admin port with \
         --admin HOST:PORT, or the proxy's config file with -c FILE"
    )]
    Stranger {
        /// Who was asked.
        address: String,
    },
    /// The admin port said no.
    #[error("{0}")]
    Refused(String),
    /// What was found cannot be printed.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

impl ClientError {
    /// What the command exits with.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } | Self::Stranger { .. } => UNREACHABLE,
            Self::Refused(_) | Self::Print(_) => 1,
        }
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Client {
    address: Authority,
    token: Option<String>,
    runtime: Runtime,
}

/// Lets `work` talk to the proxy that `args` name; what goes wrong is told on stderr.
pub fn with(
    args: &AdminArgs,
    work: impl FnOnce(&Client) -> Result<ExitCode, ClientError>,
) -> anyhow::Result<ExitCode> {
    let client = Client::new(args)?;
    Ok(work(&client).unwrap_or_else(|error| match error {
        // Whoever reads has seen enough, as `head` does.
        ClientError::Print(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        error => {
            let code = error.exit_code();
            eprintln!("serin: {:#}", anyhow::Error::new(error));
            ExitCode::from(code)
        }
    }))
}

impl Client {
    /// Finds out where the proxy is; connects to nothing yet.
    pub fn new(args: &AdminArgs) -> anyhow::Result<Self> {
        let (mut address, mut token_file) = (args.admin.clone(), args.token_file.clone());
        if let (None, Some(path)) = (&address, &args.config) {
            let admin = read_config(path)?.admin;
            let found = reachable(admin.address);
            address = Some(found.with_context(|| format!("admin port of {}", path.display()))?);
            token_file = token_file.or(admin.token_file);
        }
        let token = token_file.map(|path| {
            let text = std::fs::read_to_string(&path);
            text.with_context(|| format!("cannot read the token file {}", path.display()))
        });
        Ok(Self {
            address: address.map_or_else(|| Admin::ADDRESS.parse(), Ok)?,
            token: token.transpose()?.map(|text| text.trim().to_owned()),
            runtime: Builder::new_current_thread().enable_all().build()?,
        })
    }

    /// Where it is.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Asks for `path`.
    pub fn get(&self, path: &str) -> Result<Bytes, ClientError> {
        self.call(&Method::GET, path)
    }

    /// Asks for something to be done.
    pub fn post(&self, path: &str) -> Result<Bytes, ClientError> {
        self.call(&Method::POST, path)
    }

    fn call(&self, method: &Method, path: &str) -> Result<Bytes, ClientError> {
        let call = call(&self.address, self.token.as_deref(), method, path);
        let answer = self.runtime.block_on(call)?;
        if answer.headers.get(SERVER).is_none_or(|name| name != "serin") {
            return Err(ClientError::Stranger { address: self.address.to_string() });
        }
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        Err(ClientError::Refused(match serde_json::from_slice::<Problem>(&answer.body) {
            Ok(problem) => problem.detail,
            Err(_) => format!("{} answered {}", self.address, answer.status),
        }))
    }

    /// What `read` cannot make sense of did not come from an admin port.
    pub fn stranger(&self) -> ClientError {
        ClientError::Stranger { address: self.address.to_string() }
    }
}

/// The config file at `path`; of its defects only the number is told.
pub fn read_config(path: &std::path::Path) -> anyhow::Result<crate::config::Config> {
    let source = load::Source::read(path)?;
    let options = load::Options { touch_files: false, manifests: true };
    let loaded = source.load(options).map_err(|defects| {
        let (count, path) = (defects.list.len(), path.display());
        anyhow::anyhow!("{path} has {count} defects; `serin check {path}` shows them")
    })?;
    Ok(loaded.config)
}

/// An answer with its body.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its head's fields.
    pub headers: HeaderMap,
    /// All of it.
    pub body: Bytes,
}

/// One call on a connection of its own.
pub async fn call(
    address: &Authority,
    token: Option<&str>,
    method: &Method,
    path: &str,
) -> Result<Answer, ClientError> {
    let unreachable = |why: String| ClientError::Unreachable { address: address.to_string(), why };
    let late = |_| unreachable("it takes too long".to_owned());
    let connected = timeout(CONNECT_TIME_MAX, TcpStream::connect(address.as_str())).await;
    let stream = connected.map_err(late)?.map_err(|error| unreachable(error.to_string()))?;
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.as_str())
        .header(CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|_| ClientError::Refused("the token is not one line of ASCII".to_owned()))?;
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    let answered = timeout(ANSWER_TIME_MAX, exchange).await.map_err(late)?;
    answered
        .map_err(|error: Box<dyn std::error::Error + Send + Sync>| unreachable(error.to_string()))
}

/// The path of a rollout, whatever characters somebody typed.
pub fn rollout_path(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut path = "/api/rollouts/".to_owned();
    for byte in name.bytes() {
        if plain(byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

/// Data for stdout.
pub fn print(text: &str) -> Result<(), ClientError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Whether what goes to stdout may have colours. An empty `NO_COLOR` is as good as none.
pub fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn a_time_is_seconds_or_has_a_unit() {
        for (text, millis) in
            [("90", 90_000), ("500ms", 500), ("20s", 20_000), ("1.5m", 90_000), ("1h", 3_600_000)]
        {
            assert_eq!(span(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "-1s", "25h", "5parsecs", "s", "NaNs"] {
            assert!(span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, expected) in [
            ("127.0.0.1:9901", Some("127.0.0.1:9901")),
            ("localhost:1234", Some("localhost:1234")),
            ("serin.models.svc", Some("serin.models.svc:9901")),
            ("http://127.0.0.1:9901/", Some("127.0.0.1:9901")),
            ("[::1]:9901", Some("[::1]:9901")),
            ("[::1]", Some("[::1]:9901")),
            ("https://127.0.0.1:9901", None),
            ("127.0.0.1:0", None),
            ("127.0.0.1:99999", None),
            ("127.0.0.1:", None),
            (":9901", None),
            ("me@host:9901", None),
            ("a b", None),
            ("", None),
            ("http://host:1/path", None),
        ] {
            let found = address(text).ok();
            assert_eq!(found.as_ref().map(Authority::as_str), expected, "{text}");
        }
    }

    #[test]
    fn what_is_listened_on_is_connected_to() {
        for (listened, expected) in [
            ("127.0.0.1:9901", Some("127.0.0.1:9901")),
            ("0.0.0.0:9901", Some("127.0.0.1:9901")),
            ("[::]:9901", Some("[::1]:9901")),
            ("127.0.0.1:0", None),
        ] {
            let found = reachable(listened.parse().unwrap()).ok();
            assert_eq!(found.as_ref().map(Authority::as_str), expected, "{listened}");
        }
    }

    #[test]
    fn a_name_cannot_leave_its_path() {
        assert_eq!(rollout_path("sentiment-v2.1"), "/api/rollouts/sentiment-v2.1");
        assert_eq!(rollout_path("a/../b?c ü"), "/api/rollouts/a%2F..%2Fb%3Fc%20%C3%BC");
    }

    /// What a client makes of the first answer it gets.
    fn asked(answer: &'static str) -> Result<Bytes, ClientError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret\n").unwrap();
        let args = AdminArgs {
            admin: Some(address.to_string().parse().unwrap()),
            config: None,
            token_file: Some(file.path().to_owned()),
        };
        let answer = Client::new(&args).unwrap().post("/reload");
        let request = server.join().unwrap();
        assert!(request.starts_with("POST /reload HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Bearer s3cret\r\n"), "{request}");
        assert!(request.contains("content-type: application/json\r\n"), "{request}");
        answer
    }

    #[test]
    fn only_serin_is_believed() {
        let body = asked("HTTP/1.1 200 OK\r\nserver: serin\r\ncontent-length: 2\r\n\r\n{}");
        assert_eq!(body.unwrap(), "{}");
        for (answer, code, text) in [
            ("HTTP/1.1 200 OK\r\nserver: nginx\r\ncontent-length: 2\r\n\r\n{}", 3, "is not the"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", 3, "is not the admin port"),
            ("SSH-2.0-OpenSSH_9.2\r\n", 3, "no answer from"),
            (
                "HTTP/1.1 409 Conflict\r\nserver: serin\r\nconnection: close\r\n\r\n{\"type\":\
                 \"about:blank\",\"title\":\"Conflict\",\"status\":409,\"detail\":\"ended\"}",
                1,
                "ended",
            ),
            (
                "HTTP/1.1 502 Bad Gateway\r\nserver: serin\r\ncontent-length: 0\r\n\r\n",
                1,
                "502 Bad Gateway",
            ),
        ] {
            let error = asked(answer).unwrap_err();
            assert_eq!(error.exit_code(), code, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn a_port_where_nobody_listens_is_unreachable_and_says_a_way_out() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let admin = Some(free.to_string().parse().unwrap());
        let args = AdminArgs { admin, config: None, token_file: None };
        let error = Client::new(&args).unwrap().get("/livez").unwrap_err();
        assert_eq!(error.exit_code(), UNREACHABLE);
        let text = error.to_string();
        assert!(text.contains(&free.to_string()) && text.contains("--admin"), "{text}");
    }

    #[test]
    fn a_config_file_tells_the_admin_port_and_its_token() {
        let folder = tempfile::tempdir().unwrap();
        let (config, token) = (folder.path().join("serin.yaml"), folder.path().join("token"));
        let text = include_str!("../../config/canary.yaml").replace(
            "admin:\n  address: 127.0.0.1:9901",
            &format!("admin:\n  address: 0.0.0.0:9955\n  token_file: {}", token.display()),
        );
        std::fs::write(&config, text).unwrap();
        std::fs::write(&token, "s3cret\n").unwrap();
        let args = AdminArgs { admin: None, config: Some(config), token_file: None };
        let client = Client::new(&args).unwrap();
        assert_eq!(client.address.as_str(), "127.0.0.1:9955");
        assert_eq!(client.token.as_deref(), Some("s3cret"));
    }
}
