//! The verifications that backups of this node asked for. Their runs have ended: no machine, and no backup, waits for them.

mod said;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::{Client, ResourceExt};
use remora_core::ports::VerifyReport;
use remora_core::{Error, ErrorKind, PointId};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::said::{VerifySaid, says};
use super::agent::order;
use super::choose::Machine;
use super::duty::{Counts, Duty, Pace, Rounds, Taken};
use super::run::Outcome;
use super::tell::Teller;
use super::tend::{Early, Tended};
use super::{Failure, Me, Meter, Order};
use crate::conditions::Truth;
use crate::resources::BackupRun;
use crate::verification;

/// One point has so long: a store that drips must not keep the node's only place.
const ONE: Duration = Duration::from_hours(24);

/// Verifies points.
#[async_trait]
pub trait VerifyWorker: Send + Sync + 'static {
    /// Reads of a point what the order's `verify` says. Damage is in the report; an error of the kind `Damaged` is that
    /// nothing of the point can be read. Ends soon after `cancel`, with the kind `Cancelled`, and may be dropped.
    async fn verify(
        &self,
        order: &Order,
        point: &PointId,
        meter: Arc<Meter>,
        cancel: CancellationToken,
    ) -> Result<VerifyReport, Failure>;
}

/// The verifications of a node.
pub struct Verifications<W: VerifyWorker>(Rounds<Verifying<W>>);

/// What an agent does with them.
struct Verifying<W> {
    me: Arc<Me>,
    worker: Arc<W>,
    pace: Pace,
    teller: Teller,
}

impl<W: VerifyWorker> Verifications<W> {
    /// One that has done nothing yet.
    pub fn new(client: Client, me: Me, worker: W, pace: Pace, counts: Arc<Counts>) -> Self {
        let me = Arc::new(me);
        let teller = Teller::new(client.clone(), &me);
        let verifying = Verifying { me: Arc::clone(&me), worker: Arc::new(worker), pace, teller };
        Self(Rounds::new(client, me, verifying, pace, counts))
    }

    /// Works until it is told to stop. What is not done then, the next agent of this node begins anew.
    pub async fn run(self, stop: CancellationToken) {
        self.0.run(stop).await;
    }
}

#[async_trait]
impl<W: VerifyWorker> Duty for Verifying<W> {
    type Run = BackupRun;
    type Said = VerifySaid;

    const SELECTS: &'static str = ",spec.verify!=None";

    /// Nobody is in the way of one who reads a point.
    fn machine(run: &BackupRun) -> Machine {
        (run.namespace().unwrap_or_default(), run.name_any())
    }

    fn vm(run: &BackupRun) -> Option<&str> {
        Some(&run.spec.virtual_machine)
    }

    /// One that was cancelled, or is late, too: somebody has to say so.
    fn is_to_begin(_: &BackupRun) -> bool {
        true
    }

    fn claiming(&self, run: &BackupRun, now: Timestamp) -> VerifySaid {
        VerifySaid::claiming(run, &self.me, now)
    }

    async fn done(&self, taken: Taken<BackupRun, VerifySaid>) -> Outcome {
        let (worker, run) = (Arc::clone(&self.worker), Arc::clone(&taken.object));
        let name = order(&run).full_name();
        tracing::info!(run = name, "a verification begins");
        let mut tended = Tended::new(name.clone(), self.pace, taken);
        let work = {
            let run = Arc::clone(&run);
            move |meter, cancel| found(worker, run, meter, cancel)
        };
        let (early, result) = tended.done(work).await;
        match (early, &result) {
            (Some(Early::Lost(lost)), _) => {
                tracing::warn!(run = name, "{lost}: nothing is written of its verification any more");
                return Outcome::Lost;
            }
            // The claim stands until this agent's pod is gone.
            (Some(Early::Stopping), Err(_)) => return Outcome::GivenBack,
            _ => {}
        }
        let says = says(&run, early, &result);
        tended.record.said.says(&says, Timestamp::now());
        if !tended.write_all().await {
            return Outcome::Lost;
        }
        // Its owner did not want it any more: nothing has failed.
        if early == Some(Early::Cancelled) && says.truth == Truth::Unknown {
            tracing::info!(run = name, "its verification was cancelled");
            return Outcome::Cancelled;
        }
        let (reason, words) = (&*says.reason, says.message.as_str());
        match says.truth {
            Truth::True => {
                tracing::info!(run = name, words, "the point is sound");
                self.teller.verified(&run, words).await;
            }
            Truth::False => {
                tracing::error!(run = name, words, "the point is damaged");
                self.teller.failed(&run, "PointDamaged", words).await;
            }
            Truth::Unknown => {
                tracing::error!(run = name, reason, words, "the point is not verified");
                self.teller.failed(&run, "NotVerified", words).await;
            }
        }
        if says.truth == Truth::Unknown { Outcome::Failed } else { Outcome::Stored }
    }
}

/// What the worker finds, if there is time for it.
async fn found<W: VerifyWorker>(
    worker: Arc<W>,
    run: Arc<BackupRun>,
    meter: Arc<Meter>,
    cancel: CancellationToken,
) -> Result<VerifyReport, Failure> {
    let point = run.status.as_ref().and_then(|status| status.point.as_deref()).unwrap_or_default();
    let point = point.parse::<PointId>().map_err(Error::from)?;
    let left = verification::until(&run).map(|until| until.duration_since(Timestamp::now()));
    let left = left.and_then(|left| Duration::try_from(left).ok()).unwrap_or_default();
    let order = order(&run);
    let verified = worker.verify(&order, &point, meter, cancel);
    timeout(left.min(ONE), verified).await.unwrap_or_else(|_| Err(late(left)))
}

/// `left` is what was left until the last instant for it.
fn late(left: Duration) -> Failure {
    let (what, advice) = if left > ONE {
        ("it was not read within 24h", "See how fast its store is read, or read it with `remora verify`.")
    } else {
        (
            "there was no time for it within 72h of the run's deadline",
            "See what the other verifications of its node take, in their BackupRuns.",
        )
    };
    Failure::because("DeadlineExceeded", Error::new(ErrorKind::Cancelled, what).advise(advice))
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::json;

    use super::*;

    /// Its store drips.
    struct Drips;

    #[async_trait]
    impl VerifyWorker for Drips {
        async fn verify(
            &self,
            _: &Order,
            _: &PointId,
            _: Arc<Meter>,
            _: CancellationToken,
        ) -> Result<VerifyReport, Failure> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_point_keeps_the_place_for_longer_than_a_day_or_than_there_is_time_for_it() {
        for (hours_ago, at_most, what) in [(0, 24, "within 24h"), (75, 1, "within 72h of the run's deadline")] {
            let created = Timestamp::now() - SignedDuration::from_hours(hours_ago);
            let run: BackupRun = serde_json::from_value(json!({
                "apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun",
                "metadata": {"name": "run", "namespace": "shop", "creationTimestamp": created.to_string()},
                "spec": {"virtualMachine": "web", "repository": {"name": "r"}, "verify": "All"},
                "status": {"point": "0011223344556677-1"},
            }))
            .unwrap();
            let begun = tokio::time::Instant::now();
            let late = found(Arc::new(Drips), Arc::new(run), Arc::default(), CancellationToken::new()).await;
            let late = late.unwrap_err();
            assert!(begun.elapsed() <= Duration::from_hours(at_most) + Duration::from_secs(1));
            assert_eq!(
                (late.reason(), late.message().contains(what)),
                ("DeadlineExceeded", true),
                "{}",
                late.message()
            );
        }
    }
}
