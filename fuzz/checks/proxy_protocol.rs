//! The header of the PROXY protocol.

use serin::traffic::proxy_protocol::{V1_BYTES_MAX, V2_BYTES_MAX, parse};

/// A header is the same however it arrives and whatever follows; what is none never becomes one.
pub fn check(data: &[u8]) {
    let whole = parse(data);
    let mut end = data.len();
    if let Ok(Some(header)) = whole {
        assert!(header.len <= data.len() && header.len <= V1_BYTES_MAX.max(V2_BYTES_MAX));
        end = header.len;
        // Not a byte of it is too many.
        assert_eq!(parse(&data[..end - 1]), Ok(None));
        if data.starts_with(b"PROXY ")
            && let Some(source) = header.source
        {
            let line = String::from_utf8(data[..end].to_vec()).expect("a line of text");
            let words: Vec<_> = line.trim_end_matches(['\r', '\n']).split(' ').collect();
            assert_eq!(words.len(), 6, "{line:?}");
            assert_eq!(words[2].parse(), Ok(source), "{line:?}");
            assert_eq!(words[1] == "TCP4", source.is_ipv4(), "{line:?}");
        }
    }
    // From the first prefix that is decided on, nothing changes any more.
    let mut decided = None;
    for length in 0..=data.len().min(end + 16) {
        let now = parse(&data[..length]);
        match decided {
            None if now == Ok(None) => {}
            None => decided = Some(now),
            Some(Err(_)) => assert!(now.is_err(), "refused, and then {now:?}"),
            Some(before) => assert_eq!(before, now),
        }
    }
    if let Some(decided) = decided {
        assert_eq!(decided.is_ok(), whole.is_ok());
    }
}
