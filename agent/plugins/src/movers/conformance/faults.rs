//! What a mover must say when its server fails: the host's pauses, its second tries and what people are told all follow from that.

use std::time::Duration;

use super::super::broker::BLOTTED;
use super::super::conversation::{Component, Failed};
use super::super::words::{Class, Stored};
use super::SHORT;
use super::injector::{Fault, Faulty};
use super::subject::{Subject, class, ensure, ready, told};
use crate::conformance::Findings;

/// What the server asks to wait for, in seconds.
const WAIT: u64 = 7;

/// So often a call is made that has little time, on a machine that may have no processor for it meanwhile.
const TRIES: u32 = 5;

/// A function of a mover, of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Put,
    Replace,
    Get,
    Head,
    List,
    Delete,
    Begin,
    Part,
    Complete,
    Write,
    Zero,
    Unchanged,
    Commit,
    Abort,
    Extents,
    Read,
}

use Function::{Abort, Delete, Extents, Get, Head, Unchanged, Zero};

/// What a call came to: nothing more than that is looked at.
pub(super) type Outcome = Result<Option<Stored>, Failed>;

/// A process with a mover, whose functions are called one by one.
pub(super) trait Tried: Sized {
    /// What is there before the server fails.
    type Prepared;

    /// Its functions. The first one stores bytes.
    const ALL: &'static [Function];

    /// Those whose answers have a body. The first one reads bytes.
    const READS: &'static [Function];

    /// Its calls have so long each.
    fn start(subject: &Subject, deadline: Duration) -> remora_core::Result<Self>;

    fn component(&self) -> &Component;

    /// All that its functions need.
    async fn prepare(&self, subject: &Subject) -> Result<Self::Prepared, String>;

    /// Calls a function; none if it is not there.
    async fn call(&self, prepared: &Self::Prepared, function: Function) -> Option<Outcome>;

    /// Whether what was there before the server failed is there.
    async fn is_well(&self, prepared: &Self::Prepared) -> Result<(), String>;
}

/// What a fault is called, what it is, and what a function may say of it.
type Row = (&'static str, Fault, fn(Function) -> &'static [Class]);

const TABLE: &[Row] = &[
    ("401 is auth", Fault::Status(401, None), |_| &[Class::Auth]),
    ("403 is permission", Fault::Status(403, None), |_| &[Class::Permission, Class::Auth]),
    ("404 is not-found", Fault::Status(404, None), |function| match function {
        Get | Head => &[Class::NotFound],
        // The bucket or folder is missing then.
        _ => &[Class::NotFound, Class::Invalid, Class::Permanent],
    }),
    ("409 is conflict, or tried again", Fault::Status(409, None), |_| &[Class::Conflict, Class::Retryable]),
    ("429 is throttled, with its Retry-After", Fault::Status(429, Some(WAIT)), |_| &[Class::Throttled]),
    ("500 is retryable", Fault::Status(500, None), |_| &[Class::Retryable]),
    ("502 is retryable", Fault::Status(502, None), |_| &[Class::Retryable]),
    ("503 is retryable or throttled, with its Retry-After", Fault::Status(503, Some(WAIT)), |_| {
        &[Class::Retryable, Class::Throttled]
    }),
    ("507 is quota", Fault::Status(507, None), |_| &[Class::Quota]),
    ("a connection that breaks is retryable", Fault::Break, |_| &[Class::Retryable]),
];

pub(super) async fn try_all<T: Tried>(findings: &mut Findings, subject: &Subject, mover: &T) {
    for row in TABLE {
        ready(mover.component());
        findings.note(row.0, refusing(subject, mover, row).await);
    }
    ready(mover.component());
    findings.note("an answer that is cut off is retryable", cut(subject, mover, Fault::Truncate).await);
    ready(mover.component());
    findings.note("an answer that is too short is an error", cut(subject, mover, Fault::Shorten).await);
    findings.note("a server that says nothing costs the call, and no more", stalled::<T>(subject).await);
    ready(mover.component());
    findings.note("no secret is in its lines or errors", secrets(subject, mover).await);
}

/// Every function, while the server refuses.
async fn refusing<T: Tried>(subject: &Subject, mover: &T, (_, fault, wanted): &Row) -> Result<(), String> {
    let prepared = mover.prepare(subject).await?;
    let faulty = Faulty::new(&subject.injector, *fault);
    let mut wrong = Vec::new();
    for function in T::ALL {
        let before = subject.injector.seen();
        let Some(outcome) = mover.call(&prepared, *function).await else { continue };
        if subject.injector.seen() > before {
            wrong.extend(says(*function, &outcome, *fault, wanted(*function)).err());
        } else if !matches!(function, Zero | Unchanged | Extents) {
            // What a store has without being asked, or need not be told, is its mover's matter.
            wrong.push(format!("`{function:?}` makes no request"));
        }
    }
    drop(faulty);
    ensure(wrong.is_empty(), wrong.join("; "))?;
    mover.is_well(&prepared).await.map_err(|why| format!("once the server is well again: {why}"))
}

fn says(function: Function, outcome: &Outcome, fault: Fault, wanted: &[Class]) -> Result<(), String> {
    let failed = match outcome {
        Err(failed) => failed,
        // What is not there counts as deleted; and some stores say so of what exists.
        Ok(_) if matches!(function, Delete | Abort) && fault == Fault::Status(404, None) => return Ok(()),
        Ok(Some(Stored::Exists)) if fault == Fault::Status(409, None) => return Ok(()),
        Ok(_) => return Err(format!("`{function:?}` succeeds")),
    };
    let is_wanted = class(failed).is_some_and(|class| wanted.contains(&class));
    ensure(is_wanted, format!("`{function:?}`: {wanted:?} is wanted, not {}", told(failed)))?;
    match (failed, fault) {
        (Failed::Error(error), Fault::Status(_, Some(seconds))) => ensure(
            error.retry_after_ms.is_some_and(|after| after >= seconds * 1_000),
            format!("`{function:?}`: the server asks to wait {seconds} s, it says {:?} ms", error.retry_after_ms),
        ),
        _ => Ok(()),
    }
}

/// Those that receive a body, while it is not whole.
async fn cut<T: Tried>(subject: &Subject, mover: &T, fault: Fault) -> Result<(), String> {
    let prepared = mover.prepare(subject).await?;
    let _faulty = Faulty::new(&subject.injector, fault);
    // A list that is cut off between two of its lines may look whole; only the length that was announced tells.
    let functions = if fault == Fault::Truncate { T::READS } else { &T::READS[..1] };
    for function in functions {
        match mover.call(&prepared, *function).await {
            None => {}
            Some(Ok(_)) => return Err(format!("`{function:?}` succeeds")),
            Some(Err(failed)) => {
                let retryable = class(&failed) == Some(Class::Retryable);
                let known = matches!(failed, Failed::Error(_));
                ensure(
                    if fault == Fault::Truncate { retryable } else { known },
                    format!("`{function:?}`: {}", told(&failed)),
                )?;
            }
        }
    }
    Ok(())
}

async fn stalled<T: Tried>(subject: &Subject) -> Result<(), String> {
    let mover = T::start(subject, SHORT).map_err(|error| error.chain())?;
    let prepared = in_time(async || mover.prepare(subject).await).await?;
    {
        let _faulty = Faulty::new(&subject.injector, Fault::Stall);
        for function in T::ALL[..1].iter().chain(T::READS) {
            in_time(async || gives_up(*function, mover.call(&prepared, *function).await)).await?;
        }
    }
    let is_well = in_time(async || mover.is_well(&prepared).await).await;
    is_well.map_err(|why| format!("once the server is well again: {why}"))
}

/// What is said of a call whose server says nothing.
fn gives_up(function: Function, outcome: Option<Outcome>) -> Result<(), String> {
    match outcome {
        None => Ok(()),
        Some(Ok(_)) => Err(format!("`{function:?}` succeeds")),
        Some(Err(failed)) => ensure(
            class(&failed) == Some(Class::Retryable),
            format!("`{function:?}`: retryable is wanted, not {}", told(&failed)),
        ),
    }
}

/// Tries again what was late.
async fn in_time<T>(tried: impl AsyncFn() -> Result<T, String>) -> Result<T, String> {
    let late = |why: &str| ["it did not answer within", "broker-timeout"].iter().any(|said| why.contains(said));
    for _ in 1..TRIES {
        match tried().await {
            Err(why) if late(&why) => {}
            done => return done,
        }
    }
    tried().await
}

/// The server sends back what it was sent, secrets included: the host blots them out, and the mover is not to need that.
async fn secrets<T: Tried>(subject: &Subject, mover: &T) -> Result<(), String> {
    let prepared = mover.prepare(subject).await?;
    let faulty = Faulty::new(&subject.injector, Fault::Echo);
    let mut texts = Vec::new();
    for function in T::ALL {
        if let Some(Err(failed)) = mover.call(&prepared, *function).await {
            texts.push((format!("the error of `{function:?}`"), told(&failed)));
        }
    }
    drop(faulty);
    texts.extend(subject.said().into_iter().map(|line| ("a line of its log".to_owned(), line)));
    for (what, text) in &texts {
        if let Some(secret) = subject.secrets().find(|secret| secret.len() >= 4 && text.contains(secret)) {
            return Err(format!("{what} has a secret of {} bytes in it, which the host let through", secret.len()));
        }
        ensure(!text.contains(BLOTTED), format!("{what} has a secret in it, which the host blotted out: {text}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::super::words::MoverError;
    use super::Function::{List, Put};
    use super::*;

    fn of(class: Class, after: Option<u64>) -> Outcome {
        Err(Failed::Error(MoverError { retry_after_ms: after, ..MoverError::new(class, "code", "message") }))
    }

    /// Which of the classes pass, for a row of the table and a function.
    fn passing(row: &str, function: Function, after: Option<u64>) -> Vec<Class> {
        let (_, fault, wanted) = TABLE.iter().find(|(name, ..)| name.starts_with(row)).unwrap();
        let all = [
            Class::Retryable,
            Class::Throttled,
            Class::Auth,
            Class::Permission,
            Class::NotFound,
            Class::Conflict,
            Class::Quota,
            Class::Invalid,
            Class::Corrupt,
            Class::Permanent,
            Class::Cancelled,
        ];
        let passes = |class: &Class| says(function, &of(*class, after), *fault, wanted(function)).is_ok();
        all.into_iter().filter(passes).collect()
    }

    #[test]
    fn each_fault_wants_its_class_and_no_other() {
        assert_eq!(passing("401", Put, None), [Class::Auth]);
        assert_eq!(passing("403", Get, None), [Class::Auth, Class::Permission]);
        assert_eq!(passing("404", Head, None), [Class::NotFound]);
        assert_eq!(passing("404", Put, None), [Class::NotFound, Class::Invalid, Class::Permanent]);
        assert_eq!(passing("409", Put, None), [Class::Retryable, Class::Conflict]);
        assert_eq!(passing("500", List, None), [Class::Retryable]);
        assert_eq!(passing("507", Put, None), [Class::Quota]);
        assert_eq!(passing("a connection", Delete, None), [Class::Retryable]);
    }

    /// What becomes of what fails so for so many times, and how often it is tried.
    async fn failing(why: &str, times: u32) -> (bool, u32) {
        let tries = Cell::new(0);
        let attempt = async || {
            tries.set(tries.get() + 1);
            if tries.get() > times { Ok(()) } else { Err(why.to_owned()) }
        };
        (in_time(attempt).await.is_ok(), tries.get())
    }

    #[tokio::test]
    async fn what_is_late_is_tried_again_a_few_times_and_nothing_else_is() {
        let late = "`Get`: retryable is wanted, not `get` failed: it did not answer within 10000 ms";
        assert_eq!(failing(late, TRIES - 1).await, (true, TRIES));
        assert_eq!(failing(late, TRIES).await, (false, TRIES));
        assert_eq!(failing("`Get` succeeds", 1).await, (false, 1));
    }

    #[test]
    fn what_the_server_asks_to_wait_for_must_be_told_on() {
        assert_eq!(passing("429", Put, Some(7_000)), [Class::Throttled]);
        assert_eq!(passing("503", Put, Some(9_000)), [Class::Retryable, Class::Throttled]);
        for after in [None, Some(0), Some(6_999)] {
            assert_eq!(passing("429", Put, after), [], "{after:?}");
        }
    }

    #[test]
    fn success_while_the_server_refuses_is_a_lie_but_for_what_may_be_so() {
        let ok = |function, fault| says(function, &Ok(Some(Stored::Exists)), fault, &[]).is_ok();
        assert!(!ok(Put, Fault::Status(500, None)));
        assert!(!ok(Get, Fault::Status(404, None)));
        assert!(ok(Delete, Fault::Status(404, None)));
        assert!(ok(Put, Fault::Status(409, None)));
        assert!(says(Put, &Ok(Some(Stored::Created)), Fault::Status(409, None), &[]).is_err());
    }
}
