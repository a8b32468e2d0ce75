//! The `model` of a JSON body, beside what a whole parse of it says.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serin::traffic::model::{Named, quoted};

/// The name that is found is the one that a parser finds, and another one in its place changes
/// nothing else.
///
/// The first byte tells how many of the next are the new name; the body follows.
pub fn check(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let (new, body) = rest.split_at(rest.len().min(usize::from(*length % 32)));
    let new = String::from_utf8_lossy(new);
    let named = Named::of(body);
    let members = serde_json::from_slice::<Members>(body).map(|members| members.0);
    if let Ok(members) = &members {
        let models: Vec<_> = members.iter().filter(|(key, _)| key == "model").collect();
        let wanted = match models[..] {
            [(_, Value::String(name))] => Some(&**name),
            _ => None,
        };
        assert_eq!(named.name(), wanted, "{named:?}");
        assert_eq!(named == Named::Twice, models.len() > 1);
    }
    let Named::Once { name, at } = named else { return };
    let old = &body[at.clone()];
    assert_eq!(serde_json::from_slice::<String>(old).ok(), Some(name), "{old:?}");
    let other = [&body[..at.start], quoted(&new).as_bytes(), &body[at.end..]].concat();
    let again = Named::of(&other);
    let end = at.start + quoted(&new).len();
    assert_eq!(again, Named::Once { name: new.clone().into_owned(), at: at.start..end });
    // What one parser takes as a whole, it takes as a whole with another name.
    if let Ok(mut members) = members {
        let model = members.iter_mut().find(|(key, _)| key == "model");
        model.expect("there is one").1 = Value::String(new.into_owned());
        let changed = serde_json::from_slice::<Members>(&other).map(|members| members.0);
        assert_eq!(changed.ok(), Some(members));
    }
}

/// All members of an object, those of one name too.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Object)
    }
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}
