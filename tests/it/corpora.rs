//! The fuzz targets over what their corpora hold, and over a seeded lot of what is made of it.

#[path = "../../fuzz/checks.rs"]
mod checks;

use std::path::Path;

/// So many changed entries are tried for each target.
const CHANGED: usize = 20_000;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpora").join(target);
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let entries: Vec<_> = entries.map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!entries.is_empty(), "{} is empty", folder.display());
    for entry in &entries {
        check(entry);
    }
    let mut draws = fastrand::Rng::with_seed(serin_testkit::seed());
    let alphabet = b"\r\n :;,0159aAzZ\t\x00\xff-/.@?#[]%*_=\"";
    for case in 0..CHANGED {
        let mut entry = entries[case % entries.len()].clone();
        for _ in 0..draws.usize(1..5) {
            let at = draws.usize(0..entry.len().max(1)).min(entry.len());
            let byte = alphabet[draws.usize(0..alphabet.len())];
            match draws.u8(0..4) {
                0 if at < entry.len() => entry[at] = byte,
                1 if at < entry.len() => drop(entry.remove(at)),
                2 => {
                    let other = &entries[draws.usize(0..entries.len())];
                    let from = draws.usize(0..=other.len());
                    let piece = other[from..].iter().copied().take(draws.usize(0..40));
                    entry.splice(at..at, piece);
                }
                _ => entry.insert(at, byte),
            }
        }
        check(&entry);
    }
}

#[test]
fn request_heads_go_on_as_one_message_or_not_at_all() {
    replay("request_head", checks::request_head);
}

#[test]
fn response_heads_are_framed_in_one_way_or_not_at_all() {
    replay("response_head", checks::response_head);
}

#[test]
fn chunked_bodies_go_on_as_they_came_or_not_at_all() {
    replay("chunked", checks::chunked);
}

#[test]
fn requests_over_http2_go_on_as_one_message_or_not_at_all() {
    replay("http2", checks::http2::check);
}

#[test]
fn answers_over_http2_come_as_one_message_or_not_at_all() {
    replay("http2_answer", checks::http2_answer::check);
}

#[test]
fn what_an_endpoint_answers_reads_as_it_does_with_another_client() {
    replay("upstream", checks::upstream::check);
}

#[test]
fn fields_go_on_by_the_rules() {
    replay("header_rules", checks::header_rules::check);
}

#[test]
fn a_proxy_header_is_the_same_however_it_arrives() {
    replay("proxy_protocol", checks::proxy_protocol::check);
}

#[test]
fn the_model_is_the_one_that_a_parser_finds() {
    replay("model", checks::model::check);
}
