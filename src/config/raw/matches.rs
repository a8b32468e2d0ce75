//! Matches as written.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::config::quantity::{
    CookieName, FieldName, Flag, MethodName, Parameter, PathExact, PathPrefix, Pattern, Text,
};
use crate::config::raw::ClientMatch;
use crate::config::read::{As, At, Form, Keys, ObjectSchema, Read, maps};
use crate::config::tree::{Node, Report};

/// A prefix, or a map that says which kind of path it is.
pub type PathForm = Form<As<PathPrefix>, Path>;
/// A name, or a map that says which names are meant.
pub type ModelForm = Form<As<Text>, ModelMatch>;

maps! {
    /// Conditions that must all hold.
    Match later [] {
        /// A prefix of whole segments, or a map. Default: every path.
        may path: PathForm,
        /// In capitals. Default: every method.
        may method: As<MethodName>,
        /// Conditions on headers.
        may headers: Vec<At<HeaderMatch>>,
        /// Conditions on cookies.
        may cookies: Vec<At<CookieMatch>>,
        /// Conditions on query parameters.
        may query: Vec<At<QueryMatch>>,
        /// A condition on the client's verified certificate.
        may client: ClientMatch,
        /// A condition on the `model` of a JSON body: the name, or a map.
        may model: ModelForm,
    }

    /// A path: exactly one of these keys.
    Path later [] {
        /// A prefix of whole segments: `/v2` fits `/v2` and `/v2/x`, not `/v20`.
        may prefix: As<PathPrefix>,
        /// The whole path.
        may exact: As<PathExact>,
        /// Searched for anywhere in the path; write `^` and `$` when you mean them.
        may regex: As<Pattern>,
    }

    /// A condition on a header; exactly one of `value`, `regex` and `present`.
    HeaderMatch later [] {
        /// The header's name; case does not matter.
        must name: As<FieldName>,
        /// Exactly this value.
        may value: As<Text>,
        /// Searched for anywhere in the value.
        may regex: As<Pattern>,
        /// Whether it has to be there, whatever its value.
        may present: As<Flag>,
    }

    /// A condition on a cookie; exactly one of `value`, `regex` and `present`.
    CookieMatch later [] {
        /// The cookie's name; case matters.
        must name: As<CookieName>,
        /// Exactly this value.
        may value: As<Text>,
        /// Searched for anywhere in the value.
        may regex: As<Pattern>,
        /// Whether it has to be there, whatever its value.
        may present: As<Flag>,
    }

    /// A condition on a query parameter; exactly one of `value`, `regex` and `present`.
    QueryMatch later [] {
        /// The parameter's name, decoded; case matters.
        must name: As<Parameter>,
        /// Exactly this value, decoded.
        may value: As<Text>,
        /// Searched for anywhere in the value, decoded.
        may regex: As<Pattern>,
        /// Whether it has to be there, whatever its value.
        may present: As<Flag>,
    }

    /// A condition on the model that a body names; exactly one of these keys.
    ModelMatch later [] {
        /// Exactly this name.
        may value: As<Text>,
        /// Searched for anywhere in the name; write `^` and `$` when you mean them.
        may regex: As<Pattern>,
        /// Whether one has to be named, whatever it is.
        may present: As<Flag>,
    }
}
