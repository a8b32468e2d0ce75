//! The V2 inference protocol (also called Open Inference Protocol) over JSON, as
//! far as one text model needs it: health, metadata and infer, and Triton's
//! `generate_stream` beside them.
//!
//! Never sleeps and never draws: it turns a request into an answer.

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::sentiment::Sentiment;

/// What the server knows itself by.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) version: String,
}

/// A status and its JSON body.
pub(super) type Answer = (StatusCode, Value);

/// What a request line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Answered without a body of the request.
    Now(StatusCode, Value),
    /// An inference: the body has to be read first.
    Infer,
    /// The same, answered token by token.
    Stream,
}

impl Identity {
    /// Finds what `method` and `path` ask for.
    pub(super) fn find(&self, method: &Method, path: &str) -> Asked {
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (answer, verb) = match segments[..] {
            ["v2"] => (found(server_metadata()), Method::GET),
            ["v2", "health", "live"] => (found(json!({ "live": true })), Method::GET),
            ["v2", "health", "ready"] => (found(json!({ "ready": true })), Method::GET),
            ["v2", "models", name, ref rest @ ..] => match self.find_model(name, rest) {
                Ok(found) => found,
                Err(answer) => return answer,
            },
            _ => return refused(StatusCode::NOT_FOUND, "no such path"),
        };
        if *method != verb && !(verb == Method::GET && *method == Method::HEAD) {
            return refused(StatusCode::METHOD_NOT_ALLOWED, &format!("use {verb}"));
        }
        answer
    }

    /// What is asked for and how it has to be; or what is answered instead.
    fn find_model(&self, name: &str, rest: &[&str]) -> Result<(Asked, Method), Asked> {
        let missing = |what: &str| Err(refused(StatusCode::NOT_FOUND, what));
        if name != self.name {
            return missing(&format!("model {name} not found"));
        }
        let rest = match rest {
            ["versions", version, rest @ ..] if *version == self.version => rest,
            ["versions", version, ..] => return missing(&format!("version {version} not found")),
            rest => rest,
        };
        match rest {
            [] => Ok((found(self.model_metadata()), Method::GET)),
            ["ready"] => Ok((found(json!({ "name": self.name, "ready": true })), Method::GET)),
            ["infer"] => Ok((Asked::Infer, Method::POST)),
            ["generate_stream"] => Ok((Asked::Stream, Method::POST)),
            _ => missing("no such path"),
        }
    }

    /// Scores the texts of an inference request.
    pub(super) fn infer(&self, body: &[u8]) -> Answer {
        let request: InferRequest = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => return bad(&format!("invalid inference request: {error}")),
        };
        let [input] = &request.inputs[..] else {
            return bad("one input is expected");
        };
        if input.name != "text" || input.datatype != "BYTES" {
            return bad("the input is expected to be named text and of datatype BYTES");
        }
        let count = input.data.len();
        let elements = input.shape.iter().try_fold(1_usize, |all, size| all.checked_mul(*size));
        if input.shape.is_empty() || elements != Some(count) {
            return bad(&format!("shape {:?} does not fit {count} elements", input.shape));
        }
        let found: Vec<_> = input.data.iter().map(|text| Sentiment::of(text)).collect();
        let scores: Vec<f64> = found.iter().map(|one| one.score).collect();
        let labels: Vec<&str> = found.iter().map(|one| one.label.as_str()).collect();
        let mut answer = json!({ "model_name": self.name, "model_version": self.version });
        if let Some(id) = request.id {
            answer["id"] = id.into();
        }
        answer["outputs"] = json!([
            { "name": "score", "datatype": "FP64", "shape": [count], "data": scores },
            { "name": "label", "datatype": "BYTES", "shape": [count], "data": labels },
        ]);
        (StatusCode::OK, answer)
    }

    /// The events of a stream, one for each word of the request's text. Never empty.
    pub(super) fn events(&self, body: &[u8]) -> Result<Vec<String>, Answer> {
        let request: GenerateRequest = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => return Err(bad(&format!("invalid generate request: {error}"))),
        };
        let event = |word| {
            let output = json!({
                "model_name": self.name,
                "model_version": self.version,
                "text_output": format!(" {word}"),
            });
            format!("data: {output}\n\n")
        };
        let events: Vec<String> = request.text_input.split_whitespace().map(event).collect();
        if events.is_empty() {
            return Err(bad("text_input has no word"));
        }
        Ok(events)
    }

    fn model_metadata(&self) -> Value {
        json!({
            "name": self.name,
            "versions": [self.version],
            "platform": "bag-of-words",
            "inputs": [{ "name": "text", "datatype": "BYTES", "shape": [-1] }],
            "outputs": [
                { "name": "score", "datatype": "FP64", "shape": [-1] },
                { "name": "label", "datatype": "BYTES", "shape": [-1] },
            ],
        })
    }
}

/// Unknown fields are allowed, as the protocol asks.
#[derive(Deserialize)]
struct InferRequest {
    id: Option<String>,
    inputs: Vec<Input>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    data: Vec<String>,
}

/// Parameters and other fields are allowed, and not minded.
#[derive(Deserialize)]
struct GenerateRequest {
    text_input: String,
}

fn server_metadata() -> Value {
    json!({ "name": "loadtest-model", "version": env!("CARGO_PKG_VERSION"), "extensions": [] })
}

/// The protocol's error body.
pub(super) fn error_body(message: &str) -> Value {
    json!({ "error": message })
}

fn found(body: Value) -> Asked {
    Asked::Now(StatusCode::OK, body)
}

fn refused(status: StatusCode, message: &str) -> Asked {
    Asked::Now(status, error_body(message))
}

fn bad(message: &str) -> Answer {
    (StatusCode::BAD_REQUEST, error_body(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { name: "sentiment".into(), version: "v1".into() }
    }

    #[track_caller]
    fn check_find(method: &str, path: &str, expected: Option<u16>) {
        let found = match identity().find(&method.parse().unwrap(), path) {
            Asked::Now(status, _) => Some(status.as_u16()),
            Asked::Infer | Asked::Stream => None,
        };
        assert_eq!(found, expected, "{method} {path}");
    }

    #[test]
    fn paths_are_those_of_the_protocol() {
        for path in ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/sentiment"] {
            check_find("GET", path, Some(200));
            check_find("HEAD", path, Some(200));
            check_find("POST", path, Some(405));
        }
        check_find("GET", "/v2/models/sentiment/ready", Some(200));
        check_find("GET", "/v2/models/sentiment/versions/v1", Some(200));
        check_find("POST", "/v2/models/sentiment/infer", None);
        check_find("POST", "/v2/models/sentiment/versions/v1/infer", None);
        check_find("POST", "/v2/models/sentiment/generate_stream", None);
        check_find("GET", "/v2/models/sentiment/infer", Some(405));
        check_find("GET", "/v2/models/sentiment/generate_stream", Some(405));
    }

    #[test]
    fn unknown_models_versions_and_paths_are_not_found() {
        check_find("POST", "/v2/models/other/infer", Some(404));
        check_find("POST", "/v2/models/sentiment/versions/v9/infer", Some(404));
        check_find("POST", "/v2/models/sentiment/generate", Some(404));
        check_find("GET", "/", Some(404));
    }

    #[test]
    fn an_inference_scores_every_text() {
        let body = br#"{"id":"7","inputs":[{"name":"text","shape":[2],"datatype":"BYTES",
            "data":["I love it","terrible"]}]}"#;
        let (status, answer) = identity().infer(body);
        assert_eq!(status, StatusCode::OK);
        assert_eq!(answer["model_name"], "sentiment");
        assert_eq!(answer["model_version"], "v1");
        assert_eq!(answer["id"], "7");
        assert_eq!(answer["outputs"][0]["shape"], json!([2]));
        assert!(answer["outputs"][0]["data"][0].as_f64().unwrap() > 0.8);
        assert_eq!(answer["outputs"][1]["data"], json!(["positive", "negative"]));
    }

    #[test]
    fn a_bad_inference_is_400_with_an_error() {
        let input = |fields: &str| format!(r#"{{"inputs":[{{{fields}}}]}}"#);
        for body in [
            String::new(),
            "{".into(),
            "[]".into(),
            r#"{"inputs":[]}"#.into(),
            input(r#""name":"text","shape":[2],"datatype":"BYTES","data":["a"]"#),
            input(r#""name":"text","shape":[],"datatype":"BYTES","data":["a"]"#),
            input(r#""name":"text","shape":[1],"datatype":"FP32","data":["a"]"#),
            input(r#""name":"image","shape":[1],"datatype":"BYTES","data":["a"]"#),
            input(r#""name":"text","shape":[1],"datatype":"BYTES","data":[1]"#),
            input(r#""name":"text","shape":[-1],"datatype":"BYTES","data":["a"]"#),
        ] {
            let (status, answer) = identity().infer(body.as_bytes());
            assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
            assert!(answer["error"].is_string(), "{body}");
        }
    }

    #[test]
    fn a_stream_has_an_event_for_each_word() {
        let events = identity().events(br#"{"text_input":"so  good\n","stream":true}"#).unwrap();
        let expected = [" so", " good"].map(|word| {
            format!(
                "data: {{\"model_name\":\"sentiment\",\"model_version\":\"v1\",\
                 \"text_output\":\"{word}\"}}\n\n"
            )
        });
        assert_eq!(events, expected);
        for body in ["", "{}", r#"{"text_input":" "}"#, r#"{"text_input":1}"#] {
            let (status, answer) = identity().events(body.as_bytes()).unwrap_err();
            assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
            assert!(answer["error"].is_string(), "{body}");
        }
    }
}
