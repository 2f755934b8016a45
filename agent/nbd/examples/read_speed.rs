//! Reads a whole export and throws it away, to compare with `nbdcopy --no-extents SOURCE null:`.
//!
//! `cargo run --release -p remora-nbd --example read_speed -- SOCKET EXPORT READ_BYTES READS_AT_ONCE IN_FLIGHT`

use std::path::Path;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use remora_nbd::{Client, ConnectOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [socket, export, request, depth, in_flight] = arguments.as_slice() else {
        return Err("usage: read_speed SOCKET EXPORT READ_BYTES READS_AT_ONCE IN_FLIGHT".into());
    };
    let (request, depth): (u32, usize) = (request.parse()?, depth.parse()?);
    let options =
        ConnectOptions { export: export.clone(), max_in_flight: in_flight.parse()?, ..ConnectOptions::default() };
    let client = Client::connect_unix(Path::new(socket), options).await?;
    let size = client.size();
    let start = Instant::now();
    let read = stream::iter((0..size).step_by(request as usize))
        .map(|at| client.read(at, u64::from(request).min(size - at) as u32))
        .buffer_unordered(depth)
        .try_fold(0, |sum, bytes| async move { Ok(sum + bytes.len() as u64) })
        .await?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{request} x {depth}: {read} bytes in {seconds:.3} s");
    client.disconnect().await;
    Ok(())
}
