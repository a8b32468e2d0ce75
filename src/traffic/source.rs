//! Ranges of addresses, and whether one of them holds a client.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses: `10.0.0.0/8`. A single address is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    first: IpAddr,
    len: u8,
}

/// Why a text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// No address before the slash.
    #[error("is not an IP address or a range of them")]
    Address,
    /// More bits than the address has, or no number.
    #[error("has a prefix that is not from 0 to {0}")]
    Length(u8),
    /// Bits after the prefix: the range that holds it stands in the error.
    #[error("is not the first address of its range, which is `{0}`")]
    NotFirst(Cidr),
}

impl Cidr {
    /// The range of `len` bits that holds `address`; `None` if it has not so many bits.
    fn around(address: IpAddr, len: u8) -> Option<Self> {
        let first = match address {
            IpAddr::V4(v4) if len <= 32 => {
                let mask = u32::MAX.checked_shl(u32::from(32 - len)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) if len <= 128 => {
                let mask = u128::MAX.checked_shl(u32::from(128 - len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { first, len })
    }

    /// Whether `address` is in it. An IPv4 address written as IPv6 is an IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4()
            && Self::around(address, self.len).is_some_and(|range| range.first == self.first)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Address)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => bits,
            // `+8` would be a number too.
            Some(len) if len.bytes().all(|b| b.is_ascii_digit()) => {
                len.parse().ok().filter(|len| *len <= bits).ok_or(CidrError::Length(bits))?
            }
            Some(_) => return Err(CidrError::Length(bits)),
        };
        let range = Self::around(address, len).ok_or(CidrError::Length(bits))?;
        if range.first == address { Ok(range) } else { Err(CidrError::NotFirst(range)) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.len)
    }
}

/// Whether a client's word about where a request came from is taken: always where nobody
/// said whom to trust.
pub fn is_trusted(trusted: Option<&[Cidr]>, address: IpAddr) -> bool {
    trusted.is_none_or(|ranges| ranges.iter().any(|range| range.contains(address)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_hold_what_their_prefix_says() {
        for (range, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "1.2.3.4", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("192.0.2.7", "::ffff:192.0.2.7", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ] {
            let range: Cidr = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), expected, "{range} {address}");
        }
    }

    #[test]
    fn what_is_no_range_says_why() {
        let error = |text: &str| text.parse::<Cidr>().unwrap_err();
        assert_eq!(error("example.com"), CidrError::Address);
        assert_eq!(error("10.0.0.0/33"), CidrError::Length(32));
        assert_eq!(error("10.0.0.0/+8"), CidrError::Length(32));
        assert_eq!(error("10.0.0.0/"), CidrError::Length(32));
        assert_eq!(error("::/129"), CidrError::Length(128));
        assert_eq!(error("10.1.2.3/8"), CidrError::NotFirst("10.0.0.0/8".parse().unwrap()));
    }

    #[test]
    fn everyone_is_trusted_until_someone_is_named() {
        let address = "10.0.0.1".parse().unwrap();
        assert!(is_trusted(None, address));
        assert!(!is_trusted(Some(&[]), address));
        assert!(is_trusted(Some(&["10.0.0.0/8".parse().unwrap()]), address));
    }

    proptest! {
        #[test]
        fn a_range_is_the_addresses_with_its_first_bits(address: u32, other: u32, len in 0u8..=32) {
            let range = Cidr::around(IpAddr::V4(address.into()), len).unwrap();
            let same = (address ^ other).leading_zeros() >= u32::from(len);
            prop_assert_eq!(range.contains(IpAddr::V4(other.into())), same);
            prop_assert_eq!(range.to_string().parse(), Ok(range));
        }
    }
}
