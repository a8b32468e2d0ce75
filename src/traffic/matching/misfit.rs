//! Which conditions of a match a request does not meet, in words.
//!
//! Never decides by itself: each condition is asked as the request path asks it.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::traffic::client::ClientMatch;
use crate::traffic::matching::{
    Match, ModelView, PathMatch, RequestView, ValueMatch, cookie_fits, cookies, header_fits,
    model_fits, parameter_fits, query_value,
};

/// A condition that is not met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Misfit {
    /// `hostname`, `path`, `method`, `header`, `cookie`, `query`, `client` or `model`.
    pub part: String,
    /// Of the header, cookie or parameter; null for other parts.
    pub name: Option<String>,
    /// What the match asks for, in words.
    pub wants: String,
    /// What the request has; null for nothing.
    pub got: Option<String>,
}

impl std::fmt::Display for Misfit {
    /// Such as: header x-tier is to be `gold`, and is `silver`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.part)?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        write!(f, " is to be {}", self.wants)?;
        match &self.got {
            Some(got) => write!(f, ", and is `{got}`"),
            None => f.write_str(", and there is none"),
        }
    }
}

impl Match {
    /// Every condition that `request` does not meet; none exactly if the match fits.
    pub fn misfits(&self, request: &RequestView<'_>) -> Vec<Misfit> {
        let mut all = Vec::new();
        let mut add = |part: &str, name: Option<&str>, wants: String, got: Option<Cow<'_, str>>| {
            let (part, name) = (part.to_owned(), name.map(ToOwned::to_owned));
            all.push(Misfit { part, name, wants, got: got.map(Cow::into_owned) });
        };
        if let Some(path) = self.path.as_ref().filter(|path| !path.fits(request.path)) {
            add("path", None, path_words(path), Some(request.path.into()));
        }
        if let Some(method) = self.method.as_ref().filter(|method| *method != request.method) {
            add("method", None, format!("`{method}`"), Some(request.method.as_str().into()));
        }
        if let Some(client) = self.client.as_ref().filter(|one| !one.fits(request.client)) {
            let got = request.client.map(|client| client.identity().into());
            add("client", None, client_words(client), got);
        }
        for one in self.headers.iter().filter(|one| !header_fits(one, request)) {
            let got = request.fields.all(&one.0).next();
            let got = got.map(String::from_utf8_lossy);
            add("header", Some(one.0.as_str()), value_words(&one.1), got);
        }
        for one in self.cookies.iter().filter(|one| !cookie_fits(one, request)) {
            let got = cookies(request.fields, one.0.as_bytes()).next();
            add("cookie", Some(&one.0), value_words(&one.1), got.map(String::from_utf8_lossy));
        }
        for one in self.query.iter().filter(|one| !parameter_fits(one, request)) {
            let got = query_value(request.query, &one.0);
            add("query", Some(&one.0), value_words(&one.1), got);
        }
        if let Some(value) = self.model.as_ref().filter(|value| !model_fits(value, request)) {
            let got = match request.model {
                ModelView::Read(name) => name.map(Into::into),
                ModelView::Unread => None,
            };
            add("model", None, value_words(value), got);
        }
        all
    }
}

fn path_words(path: &PathMatch) -> String {
    match path {
        PathMatch::Prefix(prefix) => format!("`{prefix}` or below it"),
        PathMatch::Exact(path) => format!("`{path}`"),
        PathMatch::Regex(regex) => format!("what `{regex}` finds something in"),
    }
}

fn value_words(value: &ValueMatch) -> String {
    match value {
        ValueMatch::Exact(value) => format!("`{value}`"),
        ValueMatch::Regex(regex) => format!("what `{regex}` finds something in"),
        ValueMatch::Present(true) => "there".to_owned(),
        ValueMatch::Present(false) => "absent".to_owned(),
    }
}

fn client_words(client: &ClientMatch) -> String {
    match client {
        ClientMatch::Spiffe(id) => format!("`{id}`"),
        ClientMatch::Subject(subject) => format!("`{subject}`"),
        ClientMatch::Regex(regex) => format!("what `{regex}` finds something in"),
        ClientMatch::Present(true) => "known by a certificate".to_owned(),
        ClientMatch::Present(false) => "without a certificate".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::*;
    use regex::bytes::Regex;

    use super::*;
    use crate::traffic::fields::Fields;

    fn view<'a>(path: &'a str, fields: &'a Fields, query: &'a str) -> RequestView<'a> {
        RequestView {
            method: &Method::GET,
            host: None,
            path,
            query: Some(query),
            fields,
            client: None,
            model: ModelView::Read(Some("chat")),
        }
    }

    fn demanding() -> Match {
        Match {
            path: Some(PathMatch::prefix("/v2").unwrap()),
            method: Some(Method::POST),
            headers: vec![("x-tier".parse().unwrap(), ValueMatch::Exact("gold".to_owned()))],
            cookies: vec![("beta".to_owned(), ValueMatch::Present(true))],
            query: vec![("q".to_owned(), ValueMatch::Regex(Regex::new("^1$").unwrap()))],
            client: Some(ClientMatch::Present(true)),
            model: Some(ValueMatch::Exact("code".to_owned())),
        }
    }

    #[test]
    fn every_condition_that_fails_is_told_with_what_was_found() {
        let fields = Fields::of(&[("x-tier", "silver")]);
        let misfits = demanding().misfits(&view("/v20", &fields, "q=2"));
        let told: Vec<_> = misfits.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "path is to be `/v2` or below it, and is `/v20`",
                "method is to be `POST`, and is `GET`",
                "client is to be known by a certificate, and there is none",
                "header x-tier is to be `gold`, and is `silver`",
                "cookie beta is to be there, and there is none",
                "query q is to be what `^1$` finds something in, and is `2`",
                "model is to be `code`, and is `chat`",
            ]
        );
    }

    proptest! {
        #[test]
        fn there_is_none_exactly_if_the_match_fits(
            path in "/(v2|v20)(/a)?", tier in "gold|silver", query in "q=[12]", keep in 0u8..128,
        ) {
            let fields = Fields::of(&[("x-tier", &tier), ("cookie", "beta=1")]);
            let mut one = demanding();
            let keeps = |bit: u8| keep & (1 << bit) != 0;
            one.path = one.path.filter(|_| keeps(0));
            one.method = one.method.filter(|_| keeps(1));
            one.headers.truncate(usize::from(keeps(2)));
            one.cookies.truncate(usize::from(keeps(3)));
            one.query.truncate(usize::from(keeps(4)));
            one.client = one.client.filter(|_| keeps(5));
            one.model = one.model.filter(|_| keeps(6));
            let view = view(&path, &fields, &query);
            prop_assert_eq!(one.misfits(&view).is_empty(), one.fits(&view));
        }
    }
}
