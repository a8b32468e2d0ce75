//! Which fields hold what lets somebody in, by their names.
//!
//! Never looks at a value.

/// Fields that hold what lets somebody in, or may, beside those that say so in their names.
const SECRET: [&str; 3] = ["x-forwarded-client-cert", "x-functions-key", "x-amz-security-token"];

/// Parts of the names of such fields, and their ends.
const SECRET_PARTS: [&str; 8] =
    ["authorization", "cookie", "secret", "password", "passwd", "credential", "api-key", "apikey"];
const SECRET_ENDS: [&str; 2] = ["token", "jwt"];

/// Whether a field `name`, in lower case, is not to be written down anywhere.
pub fn holds_a_secret(name: &str) -> bool {
    SECRET.contains(&name)
        || SECRET_PARTS.iter().any(|part| name.contains(part))
        || SECRET_ENDS.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lets_somebody_in_is_known_by_its_name() {
        for (name, secret) in [
            ("authorization", true),
            ("proxy-authorization", true),
            ("set-cookie", true),
            ("x-api-key", true),
            ("x-goog-api-key", true),
            ("x-auth-token", true),
            ("x-amz-security-token", true),
            ("x-vault-token", true),
            ("x-client-secret", true),
            ("x-forwarded-client-cert", true),
            ("user-agent", false),
            ("idempotency-key", false),
            ("x-tokens-used", false),
        ] {
            assert_eq!(holds_a_secret(name), secret, "{name}");
        }
    }
}
