//! What is sent, over and over.
//!
//! Never varies by chance: the n-th request of a template is always the same.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use http_body_util::Full;

/// Stands for the request's number in a header's value.
const NUMBER: &str = "{n}";

/// A request to send many times.
#[derive(Clone, Debug)]
pub struct RequestTemplate {
    method: Method,
    path: PathAndQuery,
    headers: Vec<(HeaderName, String)>,
    bodies: Vec<Bytes>,
}

impl RequestTemplate {
    /// A GET of `path`. Fails when it is not a path.
    pub fn get(path: &str) -> Result<Self, http::Error> {
        Self::new(Method::GET, path)
    }

    /// A request without headers and body.
    pub fn new(method: Method, path: &str) -> Result<Self, http::Error> {
        let path = PathAndQuery::try_from(path)?;
        Ok(Self { method, path, headers: Vec::new(), bodies: Vec::new() })
    }

    /// A V2 inference of the model server of this crate: a few texts, taken in turn.
    pub fn sentiment(model: &str) -> Result<Self, http::Error> {
        let body = |text: &&str| {
            let input = serde_json::json!({
                "name": "text", "shape": [1], "datatype": "BYTES", "data": [text],
            });
            Bytes::from(serde_json::json!({ "inputs": [input] }).to_string())
        };
        let template = Self::new(Method::POST, &format!("/v2/models/{model}/infer"))?;
        Ok(template.bodies(TEXTS.iter().map(body).collect()).json())
    }

    /// Adds a header. `{n}` in the value becomes the request's number, from 0.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, http::Error> {
        HeaderValue::from_str(value)?;
        self.headers.push((HeaderName::try_from(name)?, value.to_owned()));
        Ok(self)
    }

    /// The bodies, taken in turn. None is an empty body.
    #[must_use]
    pub fn bodies(mut self, bodies: Vec<Bytes>) -> Self {
        self.bodies = bodies;
        self
    }

    /// Says that the bodies are JSON.
    #[must_use]
    pub fn json(mut self) -> Self {
        self.headers.push((CONTENT_TYPE, "application/json".to_owned()));
        self
    }

    /// The request of this number. `host` is used when the template names none.
    pub(super) fn build(&self, number: u64, host: &HeaderValue) -> Request<Full<Bytes>> {
        let body = match self.bodies.len() as u64 {
            0 => Bytes::new(),
            count => self.bodies[(number % count) as usize].clone(),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.path.clone());
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            let value = value.replace(NUMBER, &number.to_string());
            // The template was checked with the placeholder in it, and digits are fine.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.append(name, value);
            }
        }
        headers.entry(HOST).or_insert_with(|| host.clone());
        request
    }
}

/// Something for a sentiment model to think about.
const TEXTS: &[&str] = &[
    "What a wonderful little restaurant, we loved every dish",
    "The worst support I have ever had, rude and useless",
    "It arrived on Tuesday in a brown box",
    "Not bad at all, the battery is really good",
    "I would never recommend this hotel: dirty, noisy and slow",
    "A charming, funny film with a brilliant ending",
    "The update failed again and my settings are lost",
    "Thanks, very helpful and extremely fast",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HeaderValue {
        HeaderValue::from_static("127.0.0.1:1")
    }

    #[test]
    fn bodies_are_taken_in_turn() {
        let template = RequestTemplate::new(Method::POST, "/")
            .unwrap()
            .bodies(vec![Bytes::from("a"), Bytes::from("bb")]);
        let lengths = [0, 1, 2].map(|n| {
            let body = template.build(n, &host()).into_body();
            hyper::body::Body::size_hint(&body).exact()
        });
        assert_eq!(lengths, [Some(1), Some(2), Some(1)]);
    }

    #[test]
    fn the_number_stands_in_headers() {
        let template = RequestTemplate::get("/").unwrap().header("x-user-id", "u{n}").unwrap();
        assert_eq!(template.build(41, &host()).headers()["x-user-id"], "u41");
    }

    #[test]
    fn a_host_of_the_template_wins() {
        let template = RequestTemplate::get("/x?y=1").unwrap();
        assert_eq!(template.build(0, &host()).headers()["host"], "127.0.0.1:1");
        let template = template.header("host", "models.example.com").unwrap();
        let request = template.build(0, &host());
        assert_eq!(request.headers()["host"], "models.example.com");
        assert_eq!(request.headers().get_all("host").iter().count(), 1);
        assert_eq!(request.uri(), "/x?y=1");
    }

    #[test]
    fn nonsense_is_refused_at_once() {
        assert!(RequestTemplate::get("a b").is_err());
        assert!(RequestTemplate::get("/").unwrap().header("bad name", "x").is_err());
        assert!(RequestTemplate::get("/").unwrap().header("x", "a\r\nb").is_err());
    }
}
