//! The functions of a store of objects while its server fails.

use std::time::Duration;

use bytes::Bytes;

use super::super::super::conversation::{Component, Failed};
use super::super::super::words::Class;
use super::super::faults::{Function, Outcome, Tried};
use super::super::injector::{Fault, Faulty};
use super::super::subject::{Mover, Subject, Within, class, ensure, told};
use super::is;
use crate::conformance::Findings;

use Function::{Begin, Complete, Delete, Get, Head, List, Part, Put, Replace};

/// What is there before the server fails.
pub(in super::super) struct Prepared {
    bytes: Bytes,
    token: Option<String>,
}

const THERE: &str = "faults/there";
const UPLOAD: &str = "faults/upload";

impl Tried for Mover {
    type Prepared = Prepared;

    const ALL: &'static [Function] = &[Put, Replace, Get, Head, List, Delete, Begin, Part, Complete];
    const READS: &'static [Function] = &[Get, List];

    fn start(subject: &Subject, deadline: Duration) -> remora_core::Result<Self> {
        Self::start(subject, deadline)
    }

    fn component(&self) -> &Component {
        &self.0
    }

    async fn prepare(&self, subject: &Subject) -> Result<Prepared, String> {
        let bytes = subject.bytes("faults", 4_000);
        self.replace(THERE, &bytes).await.within("`replace`, while nothing fails")?;
        let can = self.0.capabilities().await.within("opening, while nothing fails")?;
        let token = if can.multipart {
            let token = self.begin(UPLOAD).await.within("`multipart`, while nothing fails")?;
            self.part(UPLOAD, &token, 1, &bytes).await.within("`part`, while nothing fails")?;
            Some(token)
        } else {
            None
        };
        Ok(Prepared { bytes, token })
    }

    async fn call(&self, Prepared { bytes, token }: &Prepared, function: Function) -> Option<Outcome> {
        let key = format!("faults/new-{:016x}", fastrand::u64(..));
        Some(match function {
            Put => self.put(&key, bytes).await.map(Some),
            Replace => self.replace(&key, bytes).await.map(|()| None),
            Get => self.get(THERE, 0, bytes.len() as u64).await.map(|_| None),
            Head => self.head(THERE).await.map(|_| None),
            List => self.list("faults/", None, None).await.map(|_| None),
            Delete => match self.delete(&[key]).await {
                Ok(mut each) => each.remove(0).map(|()| None).map_err(Failed::Error),
                Err(failed) => Err(failed),
            },
            Begin => {
                token.as_ref()?;
                self.begin(&key).await.map(|_| None)
            }
            Part => self.part(UPLOAD, token.as_deref()?, 1, bytes).await.map(|()| None),
            Complete => self.complete(UPLOAD, token.as_deref()?, 1).await.map(Some),
            _ => return None,
        })
    }

    async fn is_well(&self, prepared: &Prepared) -> Result<(), String> {
        is(self, THERE, &prepared.bytes).await
    }
}

pub(in super::super) async fn try_all(findings: &mut Findings, subject: &Subject, mover: &Mover) {
    findings.note("a call whose answer was lost may be made again", lost(subject, mover.ready()).await);
}

/// The server does what it is asked, and nobody learns of it.
async fn lost(subject: &Subject, mover: &Mover) -> Result<(), String> {
    let bytes = subject.bytes("lost", 2_000);
    {
        let _faulty = Faulty::new(&subject.injector, Fault::Swallow);
        for (name, outcome) in [
            ("put-if-absent", mover.put("lost/a", &bytes).await.map(drop)),
            ("replace", mover.replace("lost/b", &bytes).await),
        ] {
            match outcome {
                Ok(()) => return Err(format!("`{name}` succeeds without an answer")),
                Err(failed) => ensure(
                    class(&failed) == Some(Class::Retryable),
                    format!("`{name}`: retryable is wanted, not {}", told(&failed)),
                )?,
            }
        }
    }
    mover.put("lost/a", &bytes).await.within("`put-if-absent` again")?;
    mover.replace("lost/b", &bytes).await.within("`replace` again")?;
    is(mover, "lost/a", &bytes).await?;
    is(mover, "lost/b", &bytes).await
}
