//! Ports for the servers of tests, which are told where to listen.

use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::process::Must;

/// Below those that connections take, one of which could otherwise be where a server wants to listen a second later.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// How many of them a process of tests has, by its id, and gives one after the other: one that was given and is not yet
/// listened at is not given again.
const PART: u16 = 500;

/// Different ports at which nobody listens.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    // Held together, so that they differ.
    [(); N].map(|()| hold_port(Ipv4Addr::LOCALHOST)).map(let_go)
}

/// A port at an address of this host at which nobody listens.
pub(crate) fn free_port(at: Ipv4Addr) -> u16 {
    let_go(hold_port(at))
}

/// Another one each time.
fn hold_port(at: Ipv4Addr) -> TcpListener {
    // From anywhere in the part: two processes can have the same one.
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(..)));
    let parts = u32::from((PORTS.end - PORTS.start) / PART);
    let part = u16::try_from(std::process::id() % parts).must("count the parts of the ports");
    let first = PORTS.start + part * PART;
    let next = || first + NEXT.fetch_add(1, Ordering::Relaxed) % PART;
    let mut tries = std::iter::repeat_with(|| TcpListener::bind((at, next()))).take(PART.into());
    tries.find_map(Result::ok).must("find a free port")
}

/// The port, at which nobody listens from now on: what is shut down listens no more, whoever has a copy of it, as a program
/// has that another thread starts, until its exec.
fn let_go(listener: TcpListener) -> u16 {
    let port = listener.local_addr().must("read a port").port();
    TcpStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both).must("let go of a port");
    port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_taken_while_there_is_a_copy_of_what_held_it() {
        let holder = hold_port(Ipv4Addr::LOCALHOST);
        let _copy = holder.try_clone().unwrap();
        let port = let_go(holder);
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
