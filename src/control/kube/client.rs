//! One call to the Kubernetes API at a time, each on a connection of its own.
//!
//! Never keeps a token or an authority: a kubelet renews both, so they are read for each call.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Kubernetes;
use crate::tls::client::{Encryption, Offer};

/// From the connection to the end of an answer; of a watch, to its head.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);

/// A longer answer, or line of a watch, is not taken: an object has 1.5 MiB at most.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where a pod has its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The way to the Kubernetes API.
#[derive(Clone, Debug)]
pub struct Api {
    server: Uri,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nobody answered, or not in time, or not to be understood.
    #[error("the Kubernetes API cannot be reached: {0}")]
    Away(String),
    /// It said no.
    #[error("the Kubernetes API says {status}: {message}")]
    Refused {
        /// 400 or above.
        status: u16,
        /// What it says about it.
        message: String,
    },
}

impl Fault {
    /// There is no such object.
    pub fn is_missing(&self) -> bool {
        self.is(404)
    }

    /// It does not know who asks, or has not given it the right to.
    pub fn is_forbidden(&self) -> bool {
        self.is(401) || self.is(403)
    }

    /// Somebody else wrote it first.
    pub fn is_conflict(&self) -> bool {
        self.is(409)
    }

    /// What was asked for is older than what the API remembers.
    pub fn is_gone(&self) -> bool {
        self.is(410)
    }

    fn is(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }

    fn away(error: impl std::fmt::Display) -> Self {
        Self::Away(error.to_string())
    }
}

impl Api {
    /// As the config says; what it leaves out is that of the pod that this process runs in.
    pub fn new(settings: &Kubernetes) -> Result<Self, Fault> {
        let in_pod = settings.server.is_none();
        let server = match &settings.server {
            Some(server) => server.clone(),
            None => pod_server().ok_or_else(|| {
                Fault::away("this is not a pod of Kubernetes; set `kubernetes.server`")
            })?,
        };
        let of_pod = |name: &str| in_pod.then(|| Path::new(ACCOUNT).join(name));
        let token_file = settings.token_file.clone().or_else(|| of_pod("token"));
        let ca = settings.ca.clone().or_else(|| of_pod("ca.crt"));
        Ok(Self { server, token_file, ca })
    }

    /// Reads an object, or a list.
    pub async fn get(&self, path: &str) -> Result<Value, Fault> {
        self.call(Method::GET, path, None).await
    }

    /// Makes an object in a collection.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, Fault> {
        self.call(Method::POST, path, Some(object)).await
    }

    /// Replaces an object, if it is still the one that `object` was made of.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value, Fault> {
        self.call(Method::PUT, path, Some(object)).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        object: Option<&Value>,
    ) -> Result<Value, Fault> {
        let answered = async {
            let (response, _connection) = self.send(method, path, object).await?;
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let bytes = body.collect().await.map_err(Fault::away)?.to_bytes();
            serde_json::from_slice(&bytes).map_err(Fault::away)
        };
        timeout(CALL_TIME_MAX, answered).await.unwrap_or_else(|_| Err(Fault::away("no answer")))
    }

    /// Watches a list: an event for each change, until either side ends it.
    pub async fn watch(&self, path: &str) -> Result<Events, Fault> {
        let begun = timeout(CALL_TIME_MAX, self.send(Method::GET, path, None)).await;
        let (response, connection) = begun.unwrap_or_else(|_| Err(Fault::away("no answer")))?;
        let body = response.into_body();
        Ok(Events { body, buffer: Vec::new(), _connection: connection })
    }

    /// An answer that is not a refusal, and what keeps its connection going.
    async fn send(
        &self,
        method: Method,
        path: &str,
        object: Option<&Value>,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), Fault> {
        let is_encrypted = self.server.scheme_str() == Some("https");
        let authority = self.server.authority().ok_or_else(|| Fault::away("it has no host"))?;
        let port = authority.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 });
        let host = authority.host().trim_matches(['[', ']']);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, authority.as_str())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("serin/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &self.token_file {
            let token = std::fs::read_to_string(path)
                .map_err(|error| Fault::Away(format!("{}: {error}", path.display())))?;
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(Fault::away)?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let body = match object {
            None => Bytes::new(),
            Some(object) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(object.to_string())
            }
        };
        let request = request.body(Full::new(body)).map_err(Fault::away)?;
        let stream = TcpStream::connect((host, port)).await.map_err(Fault::away)?;
        let (response, connection) = if is_encrypted {
            let name = ServerName::try_from(host.to_owned()).map_err(Fault::away)?;
            let roots = self.authorities()?;
            let encryption = Encryption::new(roots, Some(name), None).map_err(Fault::away)?;
            let address = stream.peer_addr().map_err(Fault::away)?.ip();
            let stream = encryption.connect(stream, address, Offer::Http1).await;
            exchange(stream.map_err(Fault::away)?, request).await?
        } else {
            exchange(stream, request).await?
        };
        if response.status().is_success() {
            return Ok((response, connection));
        }
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = said["message"].as_str().unwrap_or("no reason given").to_owned();
        Err(Fault::Refused { status, message })
    }

    /// Whom to believe that they are the API.
    fn authorities(&self) -> Result<Arc<RootCertStore>, Fault> {
        let Some(path) = &self.ca else {
            return crate::tls::client::system_authorities().map_err(Fault::away);
        };
        let told = |error: String| Fault::Away(format!("{}: {error}", path.display()));
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| told(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            let certificate = certificate.map_err(|error| told(error.to_string()))?;
            roots.add(certificate).map_err(|error| told(error.to_string()))?;
        }
        Ok(Arc::new(roots))
    }
}

async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(Fault::away)?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // Its error is that of the request, too.
        let _ = connection.await;
    }));
    let response = sender.send_request(request).await.map_err(Fault::away)?;
    Ok((response, connection))
}

/// What a watch tells, line by line.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
    _connection: AbortOnDropHandle<()>,
}

impl Events {
    /// The next event; `None` when the watch has ended. May be dropped while it waits.
    pub async fn next(&mut self) -> Result<Option<Value>, Fault> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(Fault::away);
            }
            if self.buffer.len() > ANSWER_BYTES_MAX {
                return Err(Fault::away("an event is too long"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Fault::away(error)),
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().unwrap_or_default()),
            }
        }
    }
}

/// Where the API is, as a pod is told.
fn pod_server() -> Option<Uri> {
    let host = std::env::var("KUBERNETES_SERVICE_HOST").ok()?;
    let port = std::env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".to_owned());
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    format!("https://{host}:{port}").parse().ok()
}

/// The namespace of the pod that this process runs in.
pub fn pod_namespace() -> Option<String> {
    let text = std::fs::read_to_string(Path::new(ACCOUNT).join("namespace")).ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_missing_where_the_api_says_so_and_not_where_it_is_busy() {
        let refused = |status| Fault::Refused { status, message: String::new() };
        for (status, is_forbidden) in
            [(401, true), (403, true), (404, false), (409, false), (429, false), (503, false)]
        {
            assert_eq!(refused(status).is_forbidden(), is_forbidden, "{status}");
        }
        assert!(!Fault::Away(String::new()).is_forbidden());
    }
}
