//! Which addresses a broker must never be sent to, and which belong to a private network: one rule for every connection that leaves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Link-local, metadata services, unspecified, multicast and broadcast, in every spelling: nothing of ours is ever sent there.
#[must_use]
pub fn is_never_used(address: IpAddr) -> bool {
    match innermost(address) {
        IpAddr::V4(v4) => {
            /// Metadata services that are not link-local: Alibaba Cloud, Oracle Cloud, Azure's wire server.
            const METADATA: [Ipv4Addr; 3] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
            let [first, ..] = v4.octets();
            first == 0 || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || METADATA.contains(&v4)
        }
        IpAddr::V6(v6) => {
            /// The metadata service of AWS.
            const AWS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
            v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local() || v6 == AWS
        }
    }
}

/// This machine, or a network that is not the public one (RFC 1918, RFC 4193, RFC 6598, RFC 6890): used only where the configuration says so.
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match innermost(address) {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let benchmark = a == 198 && (18..20).contains(&b);
            v4.is_private() || v4.is_loopback() || v4.is_documentation() || shared || benchmark || (a, b, c) == (192, 0, 0) || a >= 240
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            let site_local = first & 0xffc0 == 0xfec0;
            v6.is_loopback() || v6.is_unique_local() || site_local || first == 0x0100 || (first, second) == (0x2001, 0x0db8)
        }
    }
}

/// The IPv4 address that an IPv6 address carries (mapped, compatible, translated, NAT64, 6to4), else the address itself.
#[must_use]
pub fn innermost(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let carried = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] | [0x64, 0xff9b, 0 | 1, _, _, _, high, low] => carried(high, low),
        [0x2002, high, low, ..] => carried(high, low),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_address_is_never_used_private_or_public() {
        let never = [
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::a9fe:a9fe",
        ];
        let private = [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "240.0.0.1",
            "192.0.2.1",
            "::1",
            "fc00::1",
            "fd12::1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:c0a8:1::1",
            "2001:db8::1",
            "fec0::1",
            "::ffff:127.0.0.1",
        ];
        let public = ["1.1.1.1", "172.32.0.1", "172.15.0.1", "100.128.0.1", "11.0.0.1", "2606:4700::1", "::ffff:1.1.1.1", "2002:101:101::1"];
        for text in never {
            assert!(is_never_used(text.parse().unwrap()), "{text}");
        }
        for text in private {
            let address = text.parse().unwrap();
            assert!(is_private(address) && !is_never_used(address), "{text}");
        }
        for text in public {
            let address = text.parse().unwrap();
            assert!(!is_private(address) && !is_never_used(address), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_address_is_judged_the_same_inside_each_that_carries_it(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let [a, b, c, d] = v4.octets().map(u16::from);
            let (high, low) = (a * 256 + b, c * 256 + d);
            for carrier in [v4.to_ipv6_mapped(), Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low), Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1)] {
                prop_assert_eq!(is_never_used(carrier.into()), is_never_used(v4.into()));
                prop_assert_eq!(is_private(carrier.into()), is_private(v4.into()));
            }
        }
    }
}
