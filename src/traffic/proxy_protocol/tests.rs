use proptest::prelude::*;

use super::*;

fn source(text: &str) -> Option<IpAddr> {
    (!text.is_empty()).then(|| text.parse().unwrap())
}

#[test]
fn lines_of_version_one_tell_who_is_behind() {
    for (line, expected) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", "192.0.2.1"),
        ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
        ("PROXY TCP6 2001:db8::1 ::1 56324 443\r\n", "2001:db8::1"),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 0 0\r\n", "192.0.2.1"),
        ("PROXY UNKNOWN\r\n", ""),
        ("PROXY UNKNOWN whatever 1 2 3\r\n", ""),
    ] {
        let expected = Header { source: source(expected), len: line.len() };
        let more = format!("{line}GET / HTTP/1.1\r\n");
        assert_eq!(parse(more.as_bytes()), Ok(Some(expected)), "{line}");
        for end in 0..line.len() {
            assert_eq!(parse(&line.as_bytes()[..end]), Ok(None), "{end} of {line}");
        }
    }
}

#[test]
fn lines_in_doubt_are_refused() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
        "PROXY TCP4 192.0.2.1  198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 -1 2\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2 198.51.100.2 1 2\r\n",
        "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1\t198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1\0 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1\r198.51.100.2 1 2\r\n",
        "PROXY UNKNOWN \x7f\r\n",
    ] {
        assert!(parse(line.as_bytes()).is_err(), "{line:?}");
    }
    // A line without an end is not waited for.
    let long = format!("PROXY UNKNOWN {}", "x".repeat(V1_BYTES_MAX));
    assert!(parse(long.as_bytes()).is_err());
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_BYTES_MAX - 16));
    assert!(parse(longest.as_bytes()).is_ok());
    assert!(parse(format!("PROXY UNKNOWN x{}", &longest[14..]).as_bytes()).is_err());
}

fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let len = u16::try_from(block.len()).unwrap().to_be_bytes();
    [V2_START, &[command, family], &len, block].concat()
}

const TCP4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 187];

#[test]
fn headers_of_version_two_tell_who_is_behind() {
    let mut tcp6 = [0; 36];
    tcp6[15] = 1;
    let extra = [&TCP4[..], &[4, 0, 2, 9, 9]].concat();
    for (command, family, block, expected) in [
        (0x21, 0x11, &TCP4[..], "192.0.2.1"),
        (0x21, 0x11, &extra, "192.0.2.1"),
        (0x21, 0x21, &tcp6, "::1"),
        // Its own health checks, with and without addresses.
        (0x20, 0x00, &[], ""),
        (0x20, 0x11, &TCP4, ""),
        (0x20, 0x55, &[], ""),
        // It does not know.
        (0x21, 0x00, &[], ""),
        (0x21, 0x00, &[1, 2, 3], ""),
        (0x21, 0x31, &[0; 216], ""),
    ] {
        let header = binary(command, family, block);
        let expected = Header { source: source(expected), len: header.len() };
        let more = [&header[..], b"GET /"].concat();
        assert_eq!(parse(&more), Ok(Some(expected)), "{command:x} {family:x}");
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end]), Ok(None), "{end} of {command:x} {family:x}");
        }
    }
}

#[test]
fn headers_of_version_two_in_doubt_are_refused() {
    for (command, family, block) in [
        // Versions and commands that are none.
        (0x11, 0x11, &TCP4[..]),
        (0x22, 0x11, &TCP4),
        (0x31, 0x11, &TCP4),
        // Datagrams, and what nobody has defined.
        (0x21, 0x12, &TCP4),
        (0x21, 0x01, &TCP4),
        (0x21, 0x41, &TCP4),
        // Too short.
        (0x21, 0x11, &TCP4[..11]),
        (0x21, 0x21, &[0; 35]),
        (0x21, 0x31, &[0; 215]),
        // Extras that do not fit.
        (0x21, 0x11, &[&TCP4[..], &[4]].concat()),
        (0x21, 0x11, &[&TCP4[..], &[4, 0, 2, 9]].concat()),
        (0x20, 0x00, &[0; V2_BYTES_MAX]),
    ] {
        assert!(parse(&binary(command, family, block)).is_err(), "{command:x} {family:x}");
    }
    let mut wrong = binary(0x21, 0x11, &TCP4);
    wrong[11] = b'\r';
    assert!(parse(&wrong).is_err());
}

proptest! {
    #[test]
    fn no_bytes_are_a_surprise(start in 0..3usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let start: &[u8] = [&b""[..], V1_START, V2_START][start];
        let bytes = [start, &bytes].concat();
        match parse(&bytes) {
            // What was read is within what came, and does not depend on what follows.
            Ok(Some(header)) => {
                prop_assert!(header.len <= bytes.len());
                prop_assert_eq!(parse(&bytes[..header.len]), Ok(Some(header)));
            }
            // More may follow, but not for ever.
            Ok(None) => prop_assert!(bytes.len() < V2_BYTES_MAX),
            // What is refused stays refused.
            Err(_) => {
                let more = [&bytes[..], b"\r\n"].concat();
                prop_assert!(parse(&more).is_err());
            }
        }
    }

    #[test]
    fn who_is_behind_is_found_wherever_the_header_is_cut(
        ip: u128, other: u128, ports: (u16, u16), cut in 0..100usize,
    ) {
        let (ip, other) = (Ipv6Addr::from_bits(ip), Ipv6Addr::from_bits(other));
        let line = format!("PROXY TCP6 {ip} {other} {} {}\r\n", ports.0, ports.1);
        let expected = Header { source: Some(IpAddr::V6(ip)), len: line.len() };
        prop_assert_eq!(parse(line.as_bytes()), Ok(Some(expected)));
        let cut = cut.min(line.len() - 1);
        prop_assert_eq!(parse(&line.as_bytes()[..cut]), Ok(None));
    }
}
