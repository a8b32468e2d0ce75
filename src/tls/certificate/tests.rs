use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serin_testkit::{Authority, Leaf};

use super::*;

fn der(leaf: &Leaf) -> Vec<u8> {
    let made = Authority::named("an authority").issue(leaf);
    CertificateDer::from_pem_slice(made.cert.as_bytes()).unwrap().to_vec()
}

#[test]
fn names_owner_and_times_are_read() {
    let facts = Facts::of(&der(&Leaf::server(&["A.example.com", "*.b.example.com"]))).unwrap();
    assert_eq!(facts.names, ["a.example.com", "*.b.example.com"]);
    assert_eq!(facts.owner.subject, "CN=A.example.com");
    assert_eq!(facts.owner.spiffe, None);
    assert_eq!(facts.not_after - facts.not_before, 91 * 24 * 3600);
    let path = std::path::Path::new("a.crt");
    assert_eq!(facts.check_time(facts.not_before, path), Ok(()));
    assert_eq!(facts.check_time(facts.not_after, path), Ok(()));
    let after = facts.check_time(facts.not_after + 1, path).unwrap_err();
    assert!(matches!(after, Fault::Expired { .. }) && after.is_about_time(), "{after}");
    let before = facts.check_time(facts.not_before - 1, path).unwrap_err();
    assert!(matches!(before, Fault::NotYet { .. }) && before.is_about_time(), "{before}");
    assert_eq!(Facts::of(b"no certificate"), None);
}

#[test]
fn one_uri_is_a_spiffe_id_and_two_are_none() {
    let id = "spiffe://example.org/ns/models/sa/batch";
    let owner = |leaf: &Leaf| Facts::of(&der(leaf)).unwrap().owner;
    let batch = owner(&Leaf::client("batch").uri(id));
    assert_eq!((batch.identity(), batch.subject.as_str()), (id, "O=Serin,CN=batch"));
    assert_eq!(owner(&Leaf::client("batch").uri(id).uri("https://other")).spiffe, None);
    assert_eq!(owner(&Leaf::client("batch").uri("https://other")).spiffe, None);
    assert_eq!(owner(&Leaf::client("batch").uri("spiffe://")).spiffe, None);
    // One that is no text is one too.
    let (one, other) = (GeneralName::URI(id), GeneralName::Invalid(Tag(6), b"\xff"));
    assert_eq!(spiffe(&[one.clone(), other]), None);
    assert_eq!(spiffe(&[one, GeneralName::Invalid(Tag(7), b"\xff")]).as_deref(), Some(id));
}

#[test]
fn a_subject_is_one_line_whatever_stands_in_it() {
    let subject = |name: &str| Facts::of(&der(&Leaf::client(name))).unwrap().owner.subject;
    assert_eq!(subject("a,b+c\"d\\e;<>"), r#"O=Serin,CN=a\,b\+c\"d\\e\;\<\>"#);
    assert_eq!(subject(" #x "), r"O=Serin,CN=\ #x\ ");
    assert_eq!(subject("#x"), r"O=Serin,CN=\#x");
    assert_eq!(subject("a\r\nb"), r"O=Serin,CN=a\0D\0Ab");
    assert_eq!(subject("ü"), "O=Serin,CN=ü");
}

#[test]
fn an_endpoint_is_told_who_the_client_is_in_one_field() {
    let leaf = Leaf::client("ü\";URI=spiffe://example.org/root").uri("spiffe://example.org/me");
    let der = der(&leaf);
    let certificate = ClientCertificate::of(&der).unwrap();
    let field = certificate.field.to_str().unwrap();
    let (hash, rest) = field.split_once(';').unwrap();
    assert_eq!(hash.len(), "Hash=".len() + 64);
    assert_eq!(
        rest,
        r#"Subject="O=Serin,CN=%C3%BC\\\"\\;URI=spiffe://example.org/root";URI=spiffe://example.org/me"#
    );
}

#[test]
fn values_are_quoted_where_they_could_be_taken_for_more() {
    for (text, written) in [
        ("spiffe://a/b", "spiffe://a/b"),
        ("", "\"\""),
        ("a;b", "\"a;b\""),
        // Not what a letter beyond ASCII becomes.
        ("%C3%BC", "\"%25C3%25BC\""),
        ("a=b,c", "\"a=b,c\""),
        ("a\"\\", r#""a\"\\""#),
        ("a\r\nb", "\"a%0D%0Ab\""),
    ] {
        assert_eq!(value(text), written);
    }
}
