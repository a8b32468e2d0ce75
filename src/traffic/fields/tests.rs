use proptest::prelude::*;

use super::*;

impl Fields {
    /// Of names and values, as a test writes them.
    ///
    /// # Panics
    ///
    /// On a name that is none.
    pub fn of(all: &[(&str, &str)]) -> Self {
        let mut fields = Self::default();
        for (name, value) in all {
            fields.append(&name.parse::<HeaderName>().unwrap(), value);
        }
        fields
    }
}

/// The fields of a head that came as `text`, a line each.
fn came(text: &str) -> Fields {
    let mut found = [httparse::EMPTY_HEADER; 32];
    let (_, found) = httparse::parse_headers(text.as_bytes(), &mut found).unwrap().unwrap();
    let places = found.iter().map(|field| (field.name.as_bytes(), field.value));
    Fields::read(BytesMut::from(text), Places::of(text.as_bytes(), places))
}

fn written(fields: &Fields) -> String {
    let mut output = BytesMut::new();
    fields.encode(&mut output);
    String::from_utf8(output.to_vec()).unwrap()
}

#[test]
fn what_nobody_changes_goes_on_as_it_came_but_for_the_case_of_names() {
    for (text, expected) in [
        ("Host: a\r\nX-One: A b\r\n\r\n", "host: a\r\nx-one: A b\r\n"),
        ("Host:a\r\nX:  b  \r\nY: c\r\n\r\n", "host: a\r\nx: b\r\ny: c\r\n"),
        ("A:\r\nB: \r\nC: 1\r\n\r\n", "a: \r\nb: \r\nc: 1\r\n"),
        ("A: 1\r\nA: 2\r\nB: 3\r\n\r\n", "a: 1\r\na: 2\r\nb: 3\r\n"),
        ("\r\n", ""),
    ] {
        assert_eq!(written(&came(text)), expected, "{text:?}");
    }
}

#[test]
fn names_are_found_whether_they_are_known_or_not() {
    let fields = came("HOST: a\r\nX-Tier: gold\r\nx-tier: tin\r\nX_Tier: no\r\n\r\n");
    let tier = HeaderName::from_static("x-tier");
    assert_eq!(fields.text(Known::Host), Some("a"));
    assert_eq!(fields.all(&tier).collect::<Vec<_>>(), [&b"gold"[..], b"tin"]);
    assert_eq!(fields.value(&tier), Some(HeaderValue::from_static("gold")));
    assert!(!fields.contains(Known::Cookie) && !fields.contains(Name::other("x-tie")));
}

#[test]
fn known_names_are_told_apart() {
    for known in Known::ALL {
        let name = known.as_str();
        assert_eq!(Known::of(name.as_bytes()), *known, "{name}");
        assert_eq!(known.header_name().unwrap().as_str(), name);
        assert_eq!(known.bit().count_ones(), 1);
        for other in [format!("{name}x"), name.replacen(&name[..1], "~", 1)] {
            assert_eq!(Known::of(other.as_bytes()), Known::Other, "{other}");
        }
    }
    let all = Known::ALL.iter().fold(0, |all, known| all | known.bit());
    assert_eq!(all.count_ones() as usize, Known::ALL.len());
    for (name, like) in [
        ("content_length", Known::LikeFraming),
        ("transfer_encoding", Known::LikeFraming),
        ("x_forwarded-client_cert", Known::LikeForwarded),
        ("x_forwarded_for", Known::LikeForwarded),
        ("x_request_id", Known::Other),
        ("content+length", Known::Other),
    ] {
        assert_eq!(Known::of(name.as_bytes()), like, "{name}");
    }
}

#[test]
fn a_value_cannot_end_its_line() {
    let mut fields = Fields::default();
    fields.insert(Name::other("x"), "a\r\nhost: evil\0\u{7f}\tb");
    assert_eq!(written(&fields), "x: a  host: evil  \tb\r\n");
}

#[test]
fn each_byte_that_would_end_a_line_becomes_a_space_wherever_it_is() {
    for byte in 0..=u8::MAX {
        let ends = (byte < b' ' && byte != b'\t') || byte == 0x7f;
        for (others, length) in b"v \xff".iter().flat_map(|v| (1..=17).map(move |n| (*v, n))) {
            for at in 0..length {
                let mut value = vec![others; length];
                value[at] = byte;
                let mut fields = Fields::default();
                fields.insert(Known::Date, &value);
                if ends {
                    value[at] = b' ';
                }
                let got = fields.get(Known::Date);
                assert_eq!(got, Some(&value[..]), "{byte} at {at} of {length} times {others}");
            }
        }
    }
}

#[test]
fn names_that_are_only_spelled_like_known_ones_are_in_a_map_as_well() {
    let text = "Content_Length: 1\r\nX_Forwarded_For: a\r\nx-forwarded_for: b\r\n\r\n";
    let map = came(text).to_map();
    for (name, value) in
        [("content_length", "1"), ("x_forwarded_for", "a"), ("x-forwarded_for", "b")]
    {
        assert_eq!(map.get_all(name).iter().collect::<Vec<_>>(), [value], "{map:?}");
    }
}

#[test]
fn of_many_lines_of_one_name_one_is_left() {
    let text = format!("a: 1\r\n{}b: 2\r\n\r\n", "x: y\r\n".repeat(30));
    let mut fields = came(&text);
    fields.insert(Name::other("x"), "z");
    assert_eq!(written(&fields), "a: 1\r\nx: z\r\nb: 2\r\n");
}

#[test]
fn what_lets_a_client_in_is_not_shown() {
    let secrets = ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"];
    for name in secrets {
        let text = format!("{:?}", Fields::of(&[(name, "hunter2"), ("x", "seen")]));
        assert!(text.contains(name) && text.contains("seen"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn numbers_are_written_in_digits() {
    for number in [0, 7, 10, 65_536, u64::MAX] {
        let mut fields = Fields::default();
        fields.insert_number(Known::ContentLength, number);
        assert_eq!(fields.text(Known::ContentLength), Some(&*number.to_string()));
    }
}

/// What may be done to fields.
#[derive(Clone, Debug)]
enum Step {
    Insert(String, String),
    Append(String, String),
    Remove(String),
    List(String, String),
    Number(String, u64),
    RemoveAll(Vec<Known>),
    CopyToList(Known, Known),
}

const KNOWN: [Known; 4] = [Known::Host, Known::Te, Known::Cookie, Known::XForwardedFor];

fn a_name() -> impl Strategy<Value = String> {
    // With names of each kind: known, not known, and only spelled like a known one.
    let names = ["host", "te", "x-a", "x-b", "cookie", "x-forwarded-for", "date"];
    let like = ["content_length", "x_forwarded_for", "x-forwarded_for"];
    prop::sample::select([&names[..], &like].concat()).prop_map(ToOwned::to_owned)
}

fn a_step() -> impl Strategy<Value = Step> {
    let (name, value) = (a_name, || "[a-z ]{0,6}[a-z]");
    let known = || prop::sample::select(&KNOWN[..]);
    prop_oneof![
        (name(), value()).prop_map(|(name, value)| Step::Insert(name, value)),
        (name(), value()).prop_map(|(name, value)| Step::Append(name, value)),
        (name(), value()).prop_map(|(name, value)| Step::List(name, value)),
        (name(), any::<u64>()).prop_map(|(name, number)| Step::Number(name, number)),
        name().prop_map(Step::Remove),
        prop::sample::subsequence(&KNOWN[..], 0..4).prop_map(Step::RemoveAll),
        (known(), known()).prop_map(|(name, of)| Step::CopyToList(name, of)),
    ]
}

/// The same on a list of names and values.
fn take_slowly(list: &mut Vec<(String, String)>, step: Step) {
    match step {
        Step::Append(name, value) => list.push((name, value)),
        Step::Remove(name) => list.retain(|(other, _)| *other != name),
        Step::Insert(name, value) => {
            let first = list.iter().position(|(other, _)| *other == name);
            list.retain({
                let mut seen = false;
                let name = name.clone();
                move |(other, _)| *other != name || !std::mem::replace(&mut seen, true)
            });
            match first {
                Some(first) => list[first].1 = value,
                None => list.push((name, value)),
            }
        }
        Step::List(name, value) => {
            let there = list.iter().filter(|(other, _)| *other == name);
            let mut all: Vec<_> = there.map(|(_, value)| value.clone()).collect();
            all.push(value);
            take_slowly(list, Step::Insert(name, all.join(", ")));
        }
        Step::Number(name, number) => take_slowly(list, Step::Insert(name, number.to_string())),
        Step::RemoveAll(names) => {
            list.retain(|(name, _)| names.iter().all(|one| one.as_str() != name));
        }
        Step::CopyToList(name, of) => {
            let value = list.iter().find(|(name, _)| name == of.as_str());
            if let Some((_, value)) = value.filter(|(_, value)| !value.is_empty()).cloned() {
                take_slowly(list, Step::List(name.as_str().to_owned(), value));
            }
        }
    }
}

proptest! {
    #[test]
    fn they_are_what_a_list_would_be(
        sent in prop::collection::vec((a_name(), "( |\t |)", "[a-z]{0,6}", " ?"), 0..8),
        steps in prop::collection::vec(a_step(), 0..12),
    ) {
        let lines = sent.iter().map(|(name, space, value, end)| format!("{name}:{space}{value}{end}\r\n"));
        let mut fields = came(&(lines.collect::<Vec<_>>().concat() + "\r\n"));
        let mut list: Vec<_> =
            sent.into_iter().map(|(name, _, value, _)| (name, value)).collect();
        for step in steps {
            let name = |name: &str| name.parse::<HeaderName>().unwrap();
            match &step {
                Step::Insert(one, value) => fields.insert(&name(one), value),
                Step::Append(one, value) => fields.append(&name(one), value),
                Step::List(one, value) => fields.append_to_list(&name(one), value),
                Step::Number(one, number) => fields.insert_number(&name(one), *number),
                Step::Remove(one) => drop(fields.remove(&name(one))),
                Step::RemoveAll(names) => fields.remove_all(Known::set(names)),
                Step::CopyToList(one, of) => fields.append_copy_to_list(*one, *of),
            }
            take_slowly(&mut list, step);
        }
        let lines = list.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        prop_assert_eq!(written(&fields), lines.collect::<Vec<_>>().concat());
        prop_assert_eq!(fields.len(), list.len());
        let map = fields.to_map();
        prop_assert_eq!(map.len(), list.len());
        for (name, value) in &list {
            prop_assert!(map.get_all(name).iter().any(|one| one == value.as_str()));
            prop_assert!(fields.contains(&name.parse::<HeaderName>().unwrap()));
        }
        prop_assert_eq!(Fields::from(&map).to_map(), map);
    }
}
