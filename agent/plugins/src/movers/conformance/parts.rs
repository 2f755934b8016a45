//! Uploads in parts, which another instance goes on with.

use super::super::words::{Class, Stored};
use super::objects::{is, is_none};
use super::subject::{Mover, Subject, Within, class, ensure, told};
use crate::conformance::Findings;

const NAME: &str = "an upload in parts goes on in another process, and makes an object once";

pub(super) async fn try_all(findings: &mut Findings, subject: &Subject, mover: &Mover) {
    match mover.ready().0.capabilities().await {
        Ok(can) if can.multipart => findings.note(NAME, upload(subject, mover, can.min_part).await),
        Ok(_) => findings.skip(NAME, "it has no uploads in parts"),
        Err(failed) => findings.note(NAME, Err(told(&failed))),
    }
}

async fn upload(subject: &Subject, mover: &Mover, smallest: u64) -> Result<(), String> {
    let key = "parts/whole";
    let first = subject.bytes("first part", usize::try_from(smallest).unwrap_or_default().max(100_000));
    let second = subject.bytes("second part", 1_000);
    let token = mover.begin(key).await.within("`multipart`")?;
    mover.part(key, &token, 2, &second).await.within("`part` 2, before 1")?;
    // Stored once with other bytes, and then again: the later one counts.
    mover.part(key, &token, 1, &subject.bytes("not this", first.len())).await.within("`part` 1")?;
    is_none(mover, key).await.map_err(|why| format!("before `complete`: {why}"))?;
    mover.kill().await;
    mover.part(key, &token, 1, &first).await.within("`part` 1 again, in another process")?;
    match mover.complete(key, &token, 2).await.within("`complete`")? {
        Stored::Created => {}
        Stored::Exists => return Err("`complete`: the object is new, and it says that it exists".into()),
    }
    let whole = [first.as_ref(), &second].concat().into();
    is(mover, key, &whole).await?;
    again(mover, key, &token).await?;
    let token = mover.begin(key).await.within("`multipart` of a key that is taken")?;
    mover.part(key, &token, 1, &second).await.within("`part`")?;
    match mover.complete(key, &token, 1).await {
        Ok(Stored::Exists) => {}
        Ok(Stored::Created) => return Err("`complete` of a key that is taken says that it created it".into()),
        Err(failed) => return Err(format!("`complete` of a key that is taken: {}", told(&failed))),
    }
    for time in ["`abort`", "`abort` twice"] {
        match mover.abort(key, &token).await {
            Ok(()) => {}
            Err(failed) if class(&failed) == Some(Class::NotFound) => {}
            Err(failed) => return Err(format!("{time}: {}", told(&failed))),
        }
    }
    is(mover, key, &whole).await
}

/// After an answer that was lost, `complete` is asked again: that the upload is over by now is as good an answer as any.
async fn again(mover: &Mover, key: &str, token: &str) -> Result<(), String> {
    match mover.complete(key, token, 2).await {
        Ok(_) => Ok(()),
        Err(failed) => ensure(
            matches!(class(&failed), Some(Class::NotFound | Class::Conflict | Class::Invalid)),
            format!("`complete` twice: {}", told(&failed)),
        ),
    }
}
