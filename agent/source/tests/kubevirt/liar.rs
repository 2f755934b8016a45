//! An NBD server that lies, or says nothing.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

/// What it lies about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Nothing: a disk of this many bytes of 0x5a.
    None(u64),
    /// It takes connections and says nothing.
    Mute,
    /// It answers no read.
    NoReads(u64),
    /// Its map of a disk has more extents than anybody could need, in each answer.
    EndlessExtents(u64),
    /// It hangs up after the first read.
    HangsUp(u64),
    /// What an export can do: its transmission flags are these.
    Flags(u64, u16),
}

impl Lie {
    const fn size(self) -> u64 {
        match self {
            Self::None(size)
            | Self::NoReads(size)
            | Self::EndlessExtents(size)
            | Self::HangsUp(size)
            | Self::Flags(size, _) => size,
            Self::Mute => 0,
        }
    }

    /// The transmission flags: "has flags" and "read-only", unless they are what it lies about.
    const fn flags(self) -> u16 {
        match self {
            Self::Flags(_, flags) => flags,
            _ => 3,
        }
    }
}

/// Serves any export at `path` for as long as the test process lives. Tells of connections on which a client waits in
/// vain, once it does.
pub(crate) fn serve(path: &Path, lie: Lie) -> Receiver<UnixStream> {
    let listener = UnixListener::bind(path).unwrap();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let tell = tell.clone();
            // Its end is the client's to see.
            thread::spawn(move || talk(connection.unwrap(), lie, &tell).ok());
        }
    });
    told
}

fn talk(mut wire: UnixStream, lie: Lie, waits: &Sender<UnixStream>) -> io::Result<()> {
    if lie == Lie::Mute {
        // Most tests do not want to know.
        waits.send(wire.try_clone()?).ok();
        return io::copy(&mut wire, &mut io::sink()).map(drop);
    }
    wire.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    read::<4>(&mut wire)?;
    while !option(&mut wire, lie)? {}
    loop {
        request(&mut wire, lie, waits)?;
    }
}

/// Answers one option; whether that was the last.
fn option(wire: &mut UnixStream, lie: Lie) -> io::Result<bool> {
    let head = read::<16>(wire)?;
    let (option, len) = (number(&head[8..12]), number(&head[12..16]));
    let mut data = vec![0; len as usize];
    wire.read_exact(&mut data)?;
    match option {
        // Contexts: all that are asked for, numbered.
        10 => {
            let name = number(&data[..4]) as usize;
            let (count, mut at) = (number(&data[4 + name..8 + name]), 8 + name);
            for id in 0..count {
                let len = number(&data[at..at + 4]) as usize;
                let query = &data[at + 4..at + 4 + len];
                reply(wire, option, 4, &[&id.to_be_bytes()[..], query].concat())?;
                at += 4 + len;
            }
        }
        // Go: the export's size and its flags.
        7 => reply(wire, option, 3, &[&[0, 0], &lie.size().to_be_bytes()[..], &lie.flags().to_be_bytes()].concat())?,
        _ => {}
    }
    reply(wire, option, 1, &[])?;
    Ok(option == 7)
}

fn reply(wire: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut bytes = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    for number in [option, kind, data.len() as u32] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(data);
    wire.write_all(&bytes)
}

fn request(wire: &mut UnixStream, lie: Lie, waits: &Sender<UnixStream>) -> io::Result<()> {
    let head = read::<28>(wire)?;
    let (handle, offset, len) = (&head[8..16], &head[16..24], number(&head[24..28]));
    // Whatever the export is said to take, nobody asks for more than reads and maps, without further wishes.
    if head[4..6] != [0, 0] {
        return wire.shutdown(std::net::Shutdown::Both);
    }
    match u16::from_be_bytes([head[6], head[7]]) {
        0 if matches!(lie, Lie::NoReads(_)) => {
            waits.send(wire.try_clone()?).ok();
            Ok(())
        }
        0 if matches!(lie, Lie::HangsUp(_)) => wire.shutdown(std::net::Shutdown::Both),
        0 => chunk(wire, handle, 1, &[offset, &vec![0x5a; len as usize]].concat()),
        7 => {
            let (count, each) = if matches!(lie, Lie::EndlessExtents(_)) { (4 << 20, 1) } else { (1, len) };
            let extent = [each.to_be_bytes(), 0_u32.to_be_bytes()].concat();
            chunk(wire, handle, 5, &[0_u32.to_be_bytes().to_vec(), extent.repeat(count)].concat())
        }
        _ => wire.shutdown(std::net::Shutdown::Both),
    }
}

fn chunk(wire: &mut UnixStream, handle: &[u8], kind: u16, data: &[u8]) -> io::Result<()> {
    let mut bytes = 0x668e_33ef_u32.to_be_bytes().to_vec();
    bytes.extend(1_u16.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(handle);
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    wire.write_all(&bytes)
}

fn read<const N: usize>(wire: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    wire.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}
