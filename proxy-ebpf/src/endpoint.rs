//! An IP address with a TCP port, in the one form that both map keys and map values use.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address and port: IPv4 is held as IPv4-mapped IPv6, the port in network byte order.
///
/// One form for both families keeps a connection's key the same whether the application used an `AF_INET` socket or
/// an IPv4-mapped address on an `AF_INET6` one. Size: 18 bytes, alignment 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    ip: [u8; 16],
    port: [u8; 2],
}

impl Endpoint {
    /// The unspecified address with port 0: "not bound".
    pub const UNSPECIFIED: Self = Self {
        ip: [0; 16],
        port: [0; 2],
    };

    /// Makes an IPv4 endpoint from the four octets in network order and a port in host order.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4], port: u16) -> Self {
        let [a, b, c, d] = octets;
        Self {
            ip: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d],
            port: port.to_be_bytes(),
        }
    }

    /// Makes an IPv6 endpoint from the sixteen octets in network order and a port in host order.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16], port: u16) -> Self {
        Self {
            ip: octets,
            port: port.to_be_bytes(),
        }
    }

    /// The sixteen address octets, IPv4 as `::ffff:a.b.c.d`.
    #[inline(always)]
    pub const fn octets(&self) -> [u8; 16] {
        self.ip
    }

    /// The last four address octets: the IPv4 address where [`Self::is_v4`] holds.
    #[inline(always)]
    pub const fn v4_octets(&self) -> [u8; 4] {
        let [.., a, b, c, d] = self.ip;
        [a, b, c, d]
    }

    /// The port in host byte order.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// Whether this is an IPv4 address (in IPv4-mapped form).
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = self.ip;
        let high = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        high == 0 && u32::from_be_bytes([i, j, k, l]) == 0xffff
    }

    /// Whether the address is `0.0.0.0` or `::`, which connect() takes as this host.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        let value = u128::from_be_bytes(self.ip);
        value == 0 || value == 0xffff_0000_0000
    }

    /// Whether this is an IPv6 link-local address (`fe80::/10`), which means nothing without a scope.
    #[inline(always)]
    pub const fn is_link_local_v6(&self) -> bool {
        let [a, b, ..] = self.ip;
        a == 0xfe && (b & 0xc0) == 0x80
    }

    /// The same port at the loopback address of the same family.
    #[inline(always)]
    pub const fn with_loopback_ip(&self) -> Self {
        let port = self.port();
        if self.is_v4() {
            Self::v4([127, 0, 0, 1], port)
        } else {
            Self::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], port)
        }
    }

    /// The standard library's form; IPv4-mapped addresses become plain IPv4.
    pub fn socket_addr(&self) -> SocketAddr {
        let ip = if self.is_v4() {
            IpAddr::V4(Ipv4Addr::from(self.v4_octets()))
        } else {
            IpAddr::V6(Ipv6Addr::from(self.ip))
        };
        SocketAddr::new(ip, self.port())
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        match address.ip() {
            IpAddr::V4(ip) => Self::v4(ip.octets(), address.port()),
            IpAddr::V6(ip) => Self::v6(ip.octets(), address.port()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    extern crate std;

    #[test]
    fn both_socket_families_give_an_ipv4_destination_the_same_form() {
        let plain: SocketAddr = "192.0.2.7:5432".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:5432".parse().unwrap();
        assert_eq!(Endpoint::from(plain), Endpoint::from(mapped));
        assert_eq!(Endpoint::from(mapped).socket_addr(), plain);
        assert!(Endpoint::from(mapped).is_v4());
    }

    #[test]
    fn addresses_are_classified_by_their_octets() {
        let cases = [
            ("0.0.0.0:1", true, false, true),
            ("[::]:1", true, false, false),
            ("127.0.0.1:1", false, false, true),
            ("[fe80::1]:1", false, true, false),
            ("[febf::1]:1", false, true, false),
            ("[fec0::1]:1", false, false, false),
            ("[::1]:1", false, false, false),
            ("[::fffe:1.2.3.4]:1", false, false, false),
        ];
        for (text, unspecified, link_local, v4) in cases {
            let endpoint = Endpoint::from(text.parse::<SocketAddr>().unwrap());
            assert_eq!(endpoint.is_unspecified(), unspecified, "{text}");
            assert_eq!(endpoint.is_link_local_v6(), link_local, "{text}");
            assert_eq!(endpoint.is_v4(), v4, "{text}");
        }
    }

    #[test]
    fn the_unspecified_address_becomes_loopback_of_its_family() {
        for (text, expected) in [
            ("0.0.0.0:5432", "127.0.0.1:5432"),
            ("[::]:5432", "[::1]:5432"),
        ] {
            let endpoint = Endpoint::from(text.parse::<SocketAddr>().unwrap());
            assert_eq!(
                endpoint.with_loopback_ip().socket_addr(),
                expected.parse().unwrap()
            );
        }
    }
}
