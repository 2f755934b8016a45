//! Policies behind the ports of `remora-core`: records are translated, answers checked, and calls kept within their time.

mod authorize;
pub(crate) mod conformance;
mod retention;
mod schedule;
mod select;
mod translate;

use std::time::Duration;

use remora_core::{Error, ErrorKind, Result};

pub use authorize::AuthorizePolicy;
pub use retention::RetentionPolicy;
pub use schedule::SchedulePolicy;
pub use select::SelectPolicy;

/// What a call may take of a processor that nobody waits for at a prompt.
const DEADLINE: Duration = Duration::from_secs(1);

/// What decisions on files may take of a processor, of all policies together.
pub(crate) const QUICK: Duration = Duration::from_millis(100);

/// What a call may take beside the longest that the engine's clock lets it take, until it is given up whatever that does: to get
/// a thread, to start an instance, to end.
const SLACK: Duration = Duration::from_secs(5);

/// So many questions are asked in one call.
pub(crate) const BATCH: usize = 1_000;

/// A reason longer than this is cut off.
const LONGEST_REASON: usize = 1_000;

/// What every policy has in common.
macro_rules! policy {
    ($(#[$doc:meta])* $name:ident, $interface:ty, $deadline:expr) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(std::sync::Arc<crate::host::Configured<$interface>>);

        impl $name {
            /// Instantiates a component, gives it its settings (JSON), and asks it a first, harmless question. Takes the time
            /// that compiling takes.
            pub fn load(host: &crate::Host, component: &[u8], settings: &str) -> Result<Self, crate::Refused> {
                Self::of(host, host.module(&component.into())?, settings)
            }

            pub(crate) fn of(
                host: &crate::Host,
                module: std::sync::Arc<crate::host::Module>,
                settings: &str,
            ) -> Result<Self, crate::Refused> {
                let configured = crate::host::Configured::new(host.engine(), module, settings.into(), $deadline)?;
                let policy = Self(std::sync::Arc::new(configured));
                policy.canary().map_err(|error| error.within("asked a first question"))?;
                Ok(policy)
            }

            /// The SHA-256 of its component.
            pub fn digest(&self) -> crate::Digest {
                self.0.digest()
            }

            /// The interface that is called, as `wit/` names it, with its version.
            pub fn interface(&self) -> &'static str {
                self.0.interface()
            }

            /// The SHA-256 of its settings.
            pub fn settings_hash(&self) -> crate::Digest {
                self.0.settings_hash()
            }

            /// Its settings, as JSON.
            pub fn settings(&self) -> &str {
                self.0.settings()
            }

            /// What the component told of itself.
            pub fn facts(&self) -> &[(String, String)] {
                self.0.facts()
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($name), self.digest())
            }
        }
    };
}
use policy;

/// Runs a call in a thread that may block. Should the engine's clock fail to end it, the caller goes on all the same.
async fn off_thread<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let called = tokio::task::spawn_blocking(work);
    match tokio::time::timeout(deadline * crate::host::PATIENCE + SLACK, called).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(died)) => Err(Error::new(ErrorKind::Failed, "calling a policy").because(died)),
        Err(_) => Err(Error::new(ErrorKind::Cancelled, "a policy did not answer, and did not end either")),
    }
}

/// An answer must have an item for each one asked about.
fn same_length(asked: usize, answered: usize) -> Result<()> {
    if asked == answered {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Failed, format!("it was asked {asked} questions and gave {answered} answers")))
}

/// One line, not too long.
fn reason(mut text: String) -> String {
    if text.len() > LONGEST_REASON {
        text.truncate(text.floor_char_boundary(LONGEST_REASON));
    }
    if text.contains(|c: char| c.is_control()) {
        text = text.replace(|c: char| c.is_control(), " ");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::mpsc;

    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_blocks_for_ever_is_given_up_by_the_clock() {
        // It blocks until this test is over.
        let (_over, ends) = mpsc::channel::<()>();
        let blocks = move || {
            ends.recv().ok();
            Ok(())
        };
        let mut called = pin!(off_thread(DEADLINE, blocks));
        assert!(called.as_mut().now_or_never().is_none());
        tokio::time::advance(DEADLINE * crate::host::PATIENCE).await;
        assert!(called.as_mut().now_or_never().is_none(), "its time is not over");
        tokio::time::advance(SLACK + Duration::from_secs(1)).await;
        let error = called.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(error.to_string().contains("a policy did not answer"), "{error}");
    }
}
