//! One controller acts at a time: whoever holds the Lease.

use std::future::Future;

use kube::Client;
use kube_lease_manager::LeaseManagerBuilder;
use remora_core::{Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use super::{Settings, at_start};

/// The Lease's name.
const LEASE: &str = "remora-controller";

/// How long another one waits for a holder that does not renew it, and how long before that the holder does; in seconds.
/// What a holder that was cut off still sends is guarded by the versions of the objects.
const DURATION: u64 = 30;
const GRACE: u64 = 15;

/// Waits for the lease, then does the work; ends with `cancel`, or in an error when the lease is lost: the process starts
/// anew then, with nothing remembered.
pub(super) async fn lead<F>(
    client: Client,
    settings: &Settings,
    cancel: &CancellationToken,
    work: impl FnOnce() -> F,
) -> Result<()>
where
    F: Future<Output = ()>,
{
    let failed = |what: &str, error: kube_lease_manager::LeaseManagerError| {
        Error::new(ErrorKind::Unavailable, format!("{what} the Lease {LEASE} of namespace {}", settings.namespace))
            .because(error)
    };
    let asked = LeaseManagerBuilder::new(client, LEASE)
        .with_namespace(&settings.namespace)
        .with_identity(&settings.instance)
        .with_duration(DURATION)
        .with_grace(GRACE)
        .build();
    let asked = Box::pin(async { asked.await.map_err(|error| failed("asking for", error)) });
    let manager = at_start("asking for its Lease", asked).await?;
    let (mut held, manager) = manager.watch().await;
    let first = tokio::select! {
        held = held.wait_for(|held| *held) => held.is_ok(),
        () = cancel.cancelled() => false,
    };
    let lost = if first {
        tracing::info!("this controller acts");
        tokio::select! {
            () = work() => false,
            _ = held.wait_for(|held| !*held) => true,
        }
    } else {
        false
    };
    drop(held);
    // It gives the lease back, so that the next controller need not wait.
    let released = manager.await.map_err(|error| Error::new(ErrorKind::Failed, "keeping the lease").because(error))?;
    released.map_err(|error| failed("giving back", error))?;
    if lost {
        return Err(Error::new(ErrorKind::Unavailable, "another controller holds the lease now"));
    }
    Ok(())
}
