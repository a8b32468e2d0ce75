//! Who a client is, by a certificate that was verified, and what a match may ask of it.
//!
//! Never verifies anything: whoever made a [`Client`] has done so.

use regex::bytes::Regex;

/// Who a client is. One without a certificate is nobody: there is no `Client`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// `spiffe://…`: the one URI among the certificate's alternative names.
    pub spiffe: Option<String>,
    /// The certificate's subject as in RFC 4514: `CN=batch,O=Example`. May be empty.
    pub subject: String,
}

impl Client {
    /// The SPIFFE id, else the subject.
    pub fn identity(&self) -> &str {
        self.spiffe.as_deref().unwrap_or(&self.subject)
    }
}

/// A condition on the client.
#[derive(Clone, Debug)]
pub enum ClientMatch {
    /// Just this SPIFFE id.
    Spiffe(String),
    /// Just this subject, also of a certificate that has a SPIFFE id.
    Subject(String),
    /// Found anywhere in [`Client::identity`], unless anchored.
    Regex(Regex),
    /// It has shown a certificate, or it has not.
    Present(bool),
}

impl ClientMatch {
    /// Whether `client` is meant.
    pub fn fits(&self, client: Option<&Client>) -> bool {
        match self {
            Self::Spiffe(id) => client.is_some_and(|one| one.spiffe.as_ref() == Some(id)),
            Self::Subject(subject) => client.is_some_and(|one| one.subject == *subject),
            Self::Regex(regex) => {
                client.is_some_and(|one| regex.is_match(one.identity().as_bytes()))
            }
            Self::Present(present) => client.is_some() == *present,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(spiffe: Option<&str>, subject: &str) -> Client {
        Client { spiffe: spiffe.map(ToOwned::to_owned), subject: subject.to_owned() }
    }

    #[test]
    fn a_client_is_known_by_its_spiffe_id_or_else_by_its_subject() {
        let batch = client(Some("spiffe://example.org/batch"), "CN=batch");
        let person = client(None, "CN=ada,O=Example");
        let spiffe = ClientMatch::Spiffe("spiffe://example.org/batch".to_owned());
        let subject = |text: &str| ClientMatch::Subject(text.to_owned());
        let regex = |text: &str| ClientMatch::Regex(Regex::new(text).unwrap());
        for (condition, fits_batch, fits_person, fits_nobody) in [
            (spiffe, true, false, false),
            (subject("CN=ada,O=Example"), false, true, false),
            (subject("CN=batch"), true, false, false),
            (regex("^spiffe://example[.]org/"), true, false, false),
            // The subject is not looked at where there is a SPIFFE id.
            (regex("^CN="), false, true, false),
            (ClientMatch::Present(true), true, true, false),
            (ClientMatch::Present(false), false, false, true),
        ] {
            assert_eq!(condition.fits(Some(&batch)), fits_batch, "{condition:?}");
            assert_eq!(condition.fits(Some(&person)), fits_person, "{condition:?}");
            assert_eq!(condition.fits(None), fits_nobody, "{condition:?}");
        }
    }
}
