//! The events of the log: each line has one, and docs/logs.md has a row for each.

use std::collections::{BTreeMap, BTreeSet};

const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];

/// An event's levels and the names of its fields.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    levels: BTreeSet<String>,
    fields: BTreeSet<String>,
}

pub type Events = BTreeMap<String, Event>;

/// What `code` logs. `Err` is the line of a macro without an event.
pub fn logged(code: &str, into: &mut Events) -> Result<(), usize> {
    for (at, _) in code.match_indices("tracing::") {
        let rest = &code[at + "tracing::".len()..];
        let call = LEVELS
            .iter()
            .find_map(|level| Some((*level, rest.strip_prefix(level)?.strip_prefix("!(")?)));
        let Some((level, arguments)) = call else { continue };
        let line = code[..at].matches('\n').count() + 1;
        let (mut name, mut fields) = (None, BTreeSet::new());
        for argument in split(arguments) {
            let (field, value) = argument.split_once(" = ").unwrap_or((argument, ""));
            match field.trim_start_matches(['%', '?']) {
                "event" => name = Some(value.trim_matches('"').to_owned()),
                text if text.starts_with('"') => break,
                field => {
                    fields.insert(field.to_owned());
                }
            }
        }
        let event = into.entry(name.ok_or(line)?).or_default();
        event.levels.insert(level.to_owned());
        event.fields.append(&mut fields);
    }
    Ok(())
}

/// The arguments of a call, of which `rest` is all behind its parenthesis.
fn split(rest: &str) -> Vec<&str> {
    let (mut depth, mut quoted, mut escaped, mut from) = (0, false, false, 0);
    let mut parts = Vec::new();
    for (at, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => {
                parts.push(rest[from..at].trim());
                break;
            }
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(rest[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// What the table in `text` says: rows of event, level, fields and meaning.
pub fn documented(text: &str) -> Events {
    let words = |cell: &str| -> BTreeSet<String> {
        let words = cell.split(',').map(|word| word.trim().trim_matches('`').to_owned());
        words.filter(|word| !word.is_empty() && word != "–").collect()
    };
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| {
        let (name, cells) = row.split_once("` | ")?;
        let mut cells = cells.split(" | ");
        let (levels, fields) = (words(cells.next()?), words(cells.next()?));
        let known = levels.iter().all(|level| LEVELS.contains(&level.as_str()));
        known.then(|| (name.to_owned(), Event { levels, fields }))
    })
    .collect()
}

/// What is in one and not in the other, for people.
pub fn differences(code: &Events, table: &Events) -> Vec<String> {
    let names: BTreeSet<&String> = code.keys().chain(table.keys()).collect();
    let differing = names.into_iter().filter(|name| code.get(*name) != table.get(*name));
    differing
        .map(|name| format!("{name}: code {:?}, table {:?}", code.get(name), table.get(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_an_event_and_a_row_that_differs_are_found() {
        let code = r#"
            tracing::warn!(
                event = "a", %backend, why = f(x, "y, z"), ?error, "text, {a}: {}", more
            );
            tracing::info!(event = "a", count, "again");
            tracing::error!(event = "b", "alone");
        "#;
        let mut events = Events::new();
        assert_eq!(logged(code, &mut events), Ok(()));
        let table = "\n| `a` | info, warn | `backend`, `count`, `error`, `why` | x |\n\
            | `b` | error | – | y |\n| `other` | 3 | no | event |\n";
        assert_eq!(differences(&events, &documented(table)), Vec::<String>::new());
        let wrong = table.replace("`why`", "`reason`");
        assert_eq!(differences(&events, &documented(&wrong)).len(), 1);
        assert_eq!(logged("\n\ntracing::info!(%x, \"text\");", &mut events), Err(3));
    }
}
