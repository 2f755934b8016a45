//! A worker that writes what an agent sends.

use std::io::{Read, Write};
use std::path::PathBuf;

use crate::frame::Fault;
use crate::order::{Answer, Order};
use crate::server::{Stream, say};
use crate::target::{Refusal, Target};

/// What an agent may still send after it was refused, so that it reads why.
const DRAINED: u64 = 64 * 1024 * 1024;

/// Obeys one agent until it has left.
pub(crate) fn serve(disks: &[PathBuf], stream: &mut Stream) -> std::io::Result<()> {
    let mut target = None;
    while let Some(order) = Order::read(stream)? {
        let answer = match obey(disks, order, &mut target) {
            Ok(None) => continue,
            Ok(Some(answer)) => answer,
            Err(Refusal(fault, why)) => {
                tracing::error!(?fault, "{why}");
                say(stream, &Answer::Refused(fault, why).encode())?;
                // Closed while something is unread, the connection would lose what was said.
                stream.conn.send_close_notify();
                stream.flush()?;
                std::io::copy(&mut Read::by_ref(stream).take(DRAINED), &mut std::io::sink())?;
                return Ok(());
            }
        };
        say(stream, &answer.encode())?;
    }
    Ok(())
}

fn obey(disks: &[PathBuf], order: Order, target: &mut Option<Target>) -> std::result::Result<Option<Answer>, Refusal> {
    match order {
        Order::Begin { disk, size, data } => {
            let path = disks.get(disk as usize);
            let path = path.ok_or_else(|| Refusal(Fault::Invalid, format!("there is no disk number {disk} here")))?;
            *target = None;
            *target = Some(Target::open(path, size, data)?);
            tracing::info!(disk, size, data, "a disk begins");
            Ok(Some(Answer::Ready))
        }
        Order::Data { at, bytes } => {
            let begun = || Refusal(Fault::Invalid, "there is data, and no disk has begun".into());
            target.as_mut().ok_or_else(begun)?.write(at, &bytes)?;
            Ok(None)
        }
        Order::End => {
            let begun = || Refusal(Fault::Invalid, "a disk ends that has not begun".into());
            Ok(Some(Answer::Digest(target.take().ok_or_else(begun)?.finish()?)))
        }
    }
}
