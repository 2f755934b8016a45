//! Which addresses may be connected to.

use std::env;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use remora_core::{Error, ErrorKind, is_internet};
use url::{Host, Url};

/// A network, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Net {
    address: IpAddr,
    prefix: u8,
}

impl Net {
    fn holds(self, address: IpAddr) -> bool {
        let same = |ours: u128, theirs: u128, bits: u32| {
            let ignored = bits - u32::from(self.prefix);
            ours.checked_shr(ignored).unwrap_or_default() == theirs.checked_shr(ignored).unwrap_or_default()
        };
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => same(ours.to_bits().into(), theirs.to_bits().into(), 32),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => same(ours.to_bits(), theirs.to_bits(), 128),
            _ => false,
        }
    }

    fn is_just(self, address: IpAddr) -> bool {
        let whole = if self.address.is_ipv4() { 32 } else { 128 };
        self.prefix == whole && self.address == address
    }
}

impl FromStr for Net {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let parsed = || {
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.map_or(Some(most), |prefix| prefix.parse().ok()).filter(|prefix| *prefix <= most)?;
            Some(Self { address, prefix })
        };
        parsed().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("{text:?} is no address or network"))
                .advise("Write it as 10.1.2.3, 10.1.0.0/16 or fd12::/64.")
        })
    }
}

/// Addresses that may be reached beside those of the internet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Vec<Net>);

impl Grants {
    /// Of addresses and networks such as `10.1.0.0/16`.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        texts.into_iter().map(str::parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether an address may be connected to. A form in which another address is hidden is judged as that.
    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if address.is_unspecified() || address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return false;
        }
        if is_touchy(address) || behind_nat64(address).is_some_and(is_touchy) {
            return self.0.iter().any(|net| net.is_just(address));
        }
        self.0.iter().any(|net| net.holds(address)) || is_internet(address) && !is_near(address)
    }
}

/// Whether an address answers everybody on its machine or link, often with credentials. A network that is granted for
/// something else does not grant it: it has to be named.
fn is_touchy(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || METADATA_V4.contains(&address),
        IpAddr::V6(address) => {
            let of_ec2 = address.segments().starts_with(&SERVICES_OF_EC2);
            address.is_unicast_link_local() || address == METADATA_V6 || of_ec2
        }
    }
}

/// The address that one of NAT64's well-known net leads to (RFC 6052).
fn behind_nat64(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = address.segments() else { return None };
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Some(Ipv4Addr::new(a, b, c, d).into())
}

/// Where every container finds the API server of its cluster.
const API_SERVER: &str = "KUBERNETES_SERVICE_HOST";

/// Whether an address of the internet is this host's own, or that of its cluster's API server: those let in who is near. In doubt
/// it is.
fn is_near(address: IpAddr) -> bool {
    let of = |interface: InterfaceAddress| {
        let own = interface.address?;
        let v4 = own.as_sockaddr_in().map(|own| IpAddr::V4(own.ip()));
        v4.or_else(|| own.as_sockaddr_in6().map(|own| IpAddr::V6(own.ip())))
    };
    let api_server = env::var(API_SERVER).ok().and_then(|text| text.parse::<IpAddr>().ok());
    // Asked each time: an address may be moved to another host.
    let Ok(mut interfaces) = getifaddrs() else { return true };
    api_server == Some(address) || interfaces.any(|interface| of(interface) == Some(address))
}

/// Metadata services that are not link-local: those of Alibaba Cloud, Oracle Cloud and Azure (its "wire server").
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];

/// That of Google Cloud.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254);

/// What the net begins with in which EC2 has its services: metadata at `fd00:ec2::254`, credentials of pods at `fd00:ec2::23`.
const SERVICES_OF_EC2: [u16; 2] = [0xfd00, 0xec2];

/// Why a URL is not asked, if an address that may not be connected to is written in it. What a name resolves to is looked at
/// when it is resolved.
pub(crate) fn forbidden(url: &Url, grants: &Grants) -> Option<Forbidden> {
    let address: IpAddr = match url.host()? {
        Host::Domain(_) => return None,
        Host::Ipv4(address) => address.into(),
        Host::Ipv6(address) => address.into(),
    };
    let host = || format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    (!grants.permits(address)).then(|| Forbidden { host: host(), address })
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) struct Forbidden {
    pub(crate) host: String,
    pub(crate) address: IpAddr,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, address } = self;
        let what =
            if is_internet(*address) { "is this host's own or its cluster's" } else { "is no address of the internet" };
        write!(f, "{host} is at {address}, which {what} and was not granted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(grants: &[&str], address: &str) -> bool {
        Grants::parse(grants.iter().copied()).unwrap().permits(address.parse().unwrap())
    }

    #[test]
    fn without_a_grant_only_the_internet_is_reached() {
        for address in ["93.184.215.14", "2606:4700::1", "::ffff:93.184.215.14"] {
            assert!(permits(&[], address), "{address}");
        }
        for address in [
            "127.0.0.1",
            "::1",
            "10.96.0.1",
            "172.16.3.4",
            "192.168.1.1",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "::ffff:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "168.63.129.16",
            "fe80::1",
            "fd12::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
        ] {
            assert!(!permits(&[], address), "{address}");
        }
    }

    #[test]
    fn a_grant_is_of_its_network_and_never_by_the_way_of_metadata() {
        assert!(permits(&["10.1.0.0/16"], "10.1.255.255") && !permits(&["10.1.0.0/16"], "10.2.0.0"));
        assert!(permits(&["10.1.2.3"], "::ffff:10.1.2.3"));
        assert!(permits(&["fd12::/16"], "fd12:3::1") && !permits(&["fd12::/16"], "fd13::1"));
        assert!(permits(&["127.0.0.1"], "127.0.0.1") && !permits(&["127.0.0.1"], "127.0.0.2"));
        for wide in ["0.0.0.0/0", "::/0", "169.254.0.0/16", "fd00::/8", "100.64.0.0/10", "fe80::/10", "64:ff9b::/96"] {
            for address in [
                "169.254.169.254",
                "64:ff9b::a9fe:a9fe",
                "fd00:ec2::254",
                "fd00:ec2::23",
                "fd20:ce::254",
                "100.100.100.200",
                "168.63.129.16",
                "0.0.0.0",
                "224.0.0.1",
                "fe80::1",
            ] {
                assert!(!permits(&[wide], address), "{wide} {address}");
            }
        }
        assert!(permits(&["64:ff9b::/96"], "64:ff9b::10.1.2.3"));
        assert!(permits(&["169.254.169.254"], "169.254.169.254"));
        assert!(!permits(&["0.0.0.0", "224.0.0.1"], "0.0.0.0") && !permits(&["224.0.0.1"], "224.0.0.1"));
    }

    #[test]
    fn this_hosts_own_addresses_are_near_whatever_they_are() {
        let near = |address: &str| is_near(address.parse().unwrap());
        assert!(near("127.0.0.1") && !near("93.184.215.14"));
    }

    /// In a process of its own, which has the environment of a container.
    #[test]
    fn the_api_server_is_not_reached_by_its_public_address_unless_that_is_granted() {
        const PUBLIC: &str = "93.184.215.14";
        if env::var(API_SERVER).as_deref() == Ok(PUBLIC) {
            assert!(!permits(&[], PUBLIC) && !permits(&["10.0.0.0/8"], PUBLIC) && permits(&[], "93.184.215.15"));
            assert!(permits(&[PUBLIC], PUBLIC) && permits(&["93.184.0.0/16"], PUBLIC));
            let url = format!("https://{PUBLIC}/").parse().unwrap();
            let said = forbidden(&url, &Grants::default()).unwrap().to_string();
            assert!(said.contains("its cluster's and was not granted"), "{said}");
            return;
        }
        let (_, module) = module_path!().split_once("::").unwrap();
        let test = format!("{module}::the_api_server_is_not_reached_by_its_public_address_unless_that_is_granted");
        let mut again = std::process::Command::new(env::current_exe().unwrap());
        again.args(["--exact", &test]).env(API_SERVER, PUBLIC);
        let output = again.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn what_is_no_network_is_told() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "example.com", "10.0.0.1/"] {
            assert!(Grants::parse([text]).unwrap_err().advice().is_some(), "{text}");
        }
    }
}
