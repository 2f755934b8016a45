//! Which addresses are of the internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is of the internet: not of this host, its links, a private net, or of a form in which such a one can
/// be hidden. As `deploy/base/tenancy.yaml` has it.
pub fn is_internet(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_internet_v4(address),
        IpAddr::V6(address) => is_internet_v6(address),
    }
}

fn is_internet_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast();
    // This net, the carrier's, the protocols' and the benchmarks', what is reserved, and what answers every machine in Azure.
    let reserved = a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19))
        || a >= 240
        || address == Ipv4Addr::new(168, 63, 129, 16);
    !(special || reserved)
}

fn is_internet_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    // What is in 2000::/3 and holds no other address: 6to4 and Teredo do. Everything else is local, mapped or reserved.
    first & 0xe000 == 0x2000 && first != 0x2002 && !(first == 0x2001 && second == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_told_from_those_of_the_internet() {
        for inside in [
            "0.0.0.0",
            "0.1.2.3",
            "10.96.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001:0:1::",
            "2002:7f00:1::",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_internet(inside.parse().unwrap()), "{inside}");
        }
        for outside in [
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "168.63.129.17",
            "192.0.2.1",
            "198.20.0.1",
            "2001:db8::1",
            "2600::1",
        ] {
            assert!(is_internet(outside.parse().unwrap()), "{outside}");
        }
    }
}
