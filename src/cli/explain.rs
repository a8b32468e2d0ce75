//! `serin explain`: what would become of a request, and why.
//!
//! Never sends the request, and decides nothing: the code of the request path is asked.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bytes::Bytes;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::app::explain::{Explanation, Thought, explain};
use crate::cli::client::{self, AdminArgs, Client, ClientError};
use crate::config::Config;
use crate::config::load::{Options, Source};
use crate::control::api::{RolloutView, RolloutsView};

mod words;

/// What `serin explain` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Without --admin, rollouts stand at their beginning. With it, or without -c, \
    a running proxy is asked how they stand now; nothing is sent through it.\n\nExit codes: 0; \
    1 no rule, or the request is refused; 3 no proxy answers.\n\nExamples:\n  \
    serin explain -c serin.yaml http://models.example.com/v2/models/sentiment/infer\n  \
    serin explain -c serin.yaml -X POST -H 'x-user: ada' /v2/models/sentiment/infer\n  \
    serin explain -c serin.yaml -d '{\"model\":\"chat\"}' /v1/chat/completions\n  \
    serin explain -c serin.yaml --client spiffe://example.org/batch /v2/models/sentiment/infer\n  \
    serin explain --admin 127.0.0.1:9901 -o json /v2/models/sentiment/infer"
)]
pub struct ExplainArgs {
    /// What is asked for: a URL, or a path alone
    #[arg(value_name = "URL", value_parser = url)]
    pub url: Uri,
    /// The method [default: GET, with --data POST]
    #[arg(short = 'X', long = "request", value_name = "METHOD", env = "SERIN_REQUEST")]
    pub method: Option<Method>,
    /// A header field, `name: value`; may be repeated. `host` goes before the URL's
    #[arg(short = 'H', long = "header", value_name = "FIELD", value_parser = field)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body; `@FILE` reads it, `@-` from standard input. JSON, unless a header says else
    #[arg(short, long, value_name = "BODY", env = "SERIN_DATA")]
    pub data: Option<String>,
    /// Who asks, by a verified certificate: its SPIFFE id, `spiffe://…`, or its subject, `CN=…`
    #[arg(long, value_name = "IDENTITY", env = "SERIN_CLIENT",
          value_parser = NonEmptyStringValueParser::new())]
    pub client: Option<String>,
    /// The config file whose rules are explained
    #[arg(short, long, value_name = "FILE", env = "SERIN_CONFIG")]
    pub config: Option<PathBuf>,
    /// The admin port of a running proxy: with --config it tells weights and states, without it
    /// the config as well [env: `SERIN_ADMIN`, without --config] [default: 127.0.0.1:9901]
    #[arg(long, value_name = "ADDR", value_parser = client::address)]
    pub admin: Option<Authority>,
    /// A file with the token that the admin port wants
    #[arg(long, value_name = "FILE", env = "SERIN_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t, env = "SERIN_OUTPUT")]
    pub output: Output,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[value(alias = "table")]
    #[default]
    Text,
    /// For scripts.
    Json,
}

fn url(text: &str) -> Result<Uri, String> {
    let help = |why: &str| format!("{why}; write it like http://host/path?query, or /path alone");
    // A fragment is never sent.
    let text = text.split('#').next().unwrap_or_default();
    let uri: Uri = match text.parse() {
        Ok(uri) => uri,
        Err(error) => return Err(help(&error.to_string())),
    };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        (None, None) if text.starts_with('/') => Ok(uri),
        _ => Err(help("not a URL of http or https")),
    }
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as `name: value`")?;
    let name = name.trim().parse().map_err(|_| format!("`{name}` is not the name of a field"))?;
    let value = value.trim().parse();
    Ok((name, value.map_err(|_| "the value has characters that no field may have".to_owned())?))
}

/// Explains; 1 when no rule takes the request.
pub fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let admin = match (&args.admin, &args.config, std::env::var("SERIN_ADMIN")) {
        (None, None, Ok(text)) if !text.is_empty() => {
            Some(client::address(&text).map_err(|why| anyhow::anyhow!("SERIN_ADMIN: {why}"))?)
        }
        (admin, ..) => admin.clone(),
    };
    let file = args.config.as_deref().map(client::read_config).transpose()?;
    let thought = thought(args)?;
    if let (Some(config), None) = (&file, &admin) {
        return Ok(show(args, &explain(config, None, thought))?);
    }
    let token_file = args.token_file.clone().or_else(|| file.as_ref()?.admin.token_file.clone());
    let which = AdminArgs { admin, config: None, token_file };
    client::with(&which, |client| {
        let rollouts = rollouts(client)?;
        let config = match file {
            Some(config) => config,
            None => config_of(client)?,
        };
        show(args, &explain(&config, Some(&rollouts), thought))
    })
}

fn show(args: &ExplainArgs, explanation: &Explanation) -> Result<ExitCode, ClientError> {
    client::print(&match args.output {
        Output::Text => words::text(explanation),
        Output::Json => format!("{:#}\n", serde_json::json!(explanation)),
    })?;
    let is_served = explanation.rule.is_some();
    Ok(if is_served { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The request as a client would send it.
fn thought(args: &ExplainArgs) -> anyhow::Result<Thought> {
    let body = match args.data.as_deref() {
        None => Bytes::new(),
        Some(text) => match text.strip_prefix('@') {
            None => Bytes::copy_from_slice(text.as_bytes()),
            Some("-") => {
                let mut all = Vec::new();
                std::io::stdin().read_to_end(&mut all).context("cannot read standard input")?;
                all.into()
            }
            Some(path) => {
                let all = std::fs::read(path);
                all.with_context(|| format!("cannot read the body {path}"))?.into()
            }
        },
    };
    let method = if args.data.is_some() { Method::POST } else { Method::GET };
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = args.method.clone().unwrap_or(method);
    // Its host is checked as strictly as HTTP/2's.
    head.version = Version::HTTP_2;
    if args.data.is_some() {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    for (name, value) in &args.headers {
        head.headers.append(name, value.clone());
    }
    if args.data.is_some() && !head.headers.contains_key(CONTENT_TYPE) {
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let target = args.url.path_and_query().cloned();
    head.uri = target.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    if !head.headers.contains_key(HOST) {
        let host = args.url.authority().map_or("localhost", Authority::as_str);
        head.headers.insert(HOST, HeaderValue::from_str(host)?);
    }
    Ok(Thought::new(&head, body, args.client.clone()))
}

fn rollouts(client: &Client) -> Result<Vec<RolloutView>, ClientError> {
    let answer = client.get("/api/rollouts")?;
    let all: Result<RolloutsView, _> = serde_json::from_slice(&answer);
    Ok(all.map_err(|_| client.stranger())?.rollouts)
}

/// The config that a proxy runs with: its dump is a file that means the same, but for secrets.
fn config_of(client: &Client) -> Result<Config, ClientError> {
    let answer = client.get("/config_dump")?;
    let dump: serde_json::Value = serde_json::from_slice(&answer).map_err(|_| client.stranger())?;
    let text = dump["config"].to_string();
    if text.contains("[redacted]") {
        eprintln!(
            "serin: the admin port tells no secrets, so a match on one never fits here; give \
             the config file with -c to be sure"
        );
    }
    let options = Options { touch_files: false, manifests: false };
    let loaded = Source::of("/config_dump", text).and_then(|source| source.load(options));
    let loaded = loaded.map_err(|defects| {
        let first = defects.list.iter().find(|defect| defect.is_error());
        let why = first.map(|defect| defect.message.clone()).unwrap_or_default();
        ClientError::Refused(format!(
            "the config of the proxy cannot be read here ({why}): is it another version of \
             Serin? Give its file with -c"
        ))
    })?;
    Ok(loaded.config)
}
