//! The head of a request and of a response, as the way of a request hands them on.
//!
//! Never knows what is spoken: both HTTP versions are read into these and written from them.

use http::{HeaderValue, Method, StatusCode, Uri, Version};

use crate::traffic::fields::Fields;

/// A request's head.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// As sent.
    pub method: Method,
    /// As it came, or in origin form once it is addressable.
    pub uri: Uri,
    /// What the client speaks.
    pub version: Version,
    /// Its fields.
    pub fields: Fields,
    /// What it asks for instead of HTTP.
    pub upgrade: Option<Upgrade>,
}

/// A response's head.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// Of three digits.
    pub status: StatusCode,
    /// What the endpoint speaks.
    pub version: Version,
    /// Its fields.
    pub fields: Fields,
    /// What it grants instead of HTTP.
    pub upgrade: Option<Upgrade>,
}

/// The protocols that a client asks for instead of HTTP: its `upgrade` field; of a response, the
/// one that is granted.
#[derive(Clone, Debug)]
pub struct Upgrade(pub HeaderValue);

/// A request: its head, and what comes behind it.
#[derive(Debug)]
pub struct Request<B> {
    /// What came first. It is handed on often, so it stays where it lies.
    pub head: Box<RequestHead>,
    /// The rest.
    pub body: B,
}

/// A response: its head, and what comes behind it.
#[derive(Debug)]
pub struct Response<B> {
    /// What came first. It is handed on often, so it stays where it lies.
    pub head: Box<ResponseHead>,
    /// The rest.
    pub body: B,
}

impl RequestHead {
    /// Of HTTP/1.1, without fields.
    pub fn new(method: Method, uri: Uri) -> Self {
        let (version, fields) = (Version::HTTP_11, Fields::default());
        Self { method, uri, version, fields, upgrade: None }
    }
}

impl From<&http::request::Parts> for RequestHead {
    fn from(parts: &http::request::Parts) -> Self {
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            fields: Fields::from(&parts.headers),
            upgrade: None,
        }
    }
}

impl ResponseHead {
    /// Without fields.
    pub fn new(status: StatusCode) -> Self {
        Self { status, version: Version::HTTP_11, fields: Fields::default(), upgrade: None }
    }

    /// As HTTP/2 sends it.
    pub fn to_http2(&self) -> http::Response<()> {
        let mut response = http::Response::new(());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.fields.to_map();
        response
    }
}

impl From<&http::response::Parts> for ResponseHead {
    fn from(parts: &http::response::Parts) -> Self {
        let fields = Fields::from(&parts.headers);
        Self { status: parts.status, version: parts.version, fields, upgrade: None }
    }
}

impl<B> Response<B> {
    /// The same with another body.
    pub fn map<C>(self, body: impl FnOnce(B) -> C) -> Response<C> {
        Response { head: self.head, body: body(self.body) }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }
}
