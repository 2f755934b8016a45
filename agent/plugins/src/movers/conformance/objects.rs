//! What a store must do while nothing goes wrong; `objects/failing.rs` has what it does when its server fails.

mod failing;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::super::words::{Class, Object, Stored};
use super::subject::{Mover, Subject, Within, class, ensure, note_memory, told};
use crate::conformance::Findings;

pub(super) use failing::try_all as try_failing;

/// Calls at once.
const AT_ONCE: usize = 16;

/// More than a page of a listing has.
const MANY: usize = 1_003;

/// A page has at most so many.
const PAGE: usize = 1_000;

/// As large as one buffer is.
const LARGE: usize = 64 << 20;

pub(super) async fn try_all(findings: &mut Findings, subject: &Subject, mover: &Mover) {
    macro_rules! trial {
        ($name:literal, $trial:ident) => {
            findings.note($name, $trial(subject, mover.ready()).await);
        };
    }
    trial!("an object is stored, found, read, replaced and removed", life);
    trial!("an object that is there is not touched", conflict);
    trial!("of many who create at once exactly one does", race);
    trial!("every call may be made twice", twice);
    trial!("another process finds what one stored", elsewhere);
    trial!("more objects than a page has are listed, each once and in order", many);
    trial!("64 MiB go through it in bounded memory", large);
    note_memory(findings, &mover.0);
}

/// Whether all of an object is what was stored.
pub(super) async fn is(mover: &Mover, key: &str, bytes: &Bytes) -> Result<(), String> {
    let object: Object = mover.head(key).await.within(&format!("`head` of {key}"))?;
    ensure(object.key == key, format!("`head` of {key} tells of {:?}", object.key))?;
    let len = bytes.len() as u64;
    ensure(object.size == len, format!("`head`: {key} has {len} bytes, and it tells of {}", object.size))?;
    if len > 0 {
        let there = mover.get(key, 0, len).await.within(&format!("`get` of {key}"))?;
        ensure(
            there.len() == bytes.len(),
            format!("`get`: {len} bytes of {key} were asked for, {} came", there.len()),
        )?;
        ensure(there == *bytes, format!("`get`: the bytes of {key} are not those that were stored"))?;
    }
    Ok(())
}

/// Whether there is no such object.
pub(super) async fn is_none(mover: &Mover, key: &str) -> Result<(), String> {
    for (what, failed) in [("head", mover.head(key).await.err()), ("get", mover.get(key, 0, 1).await.err())] {
        match failed {
            Some(failed) if class(&failed) == Some(Class::NotFound) => {}
            Some(failed) => {
                return Err(format!("`{what}` of what is not there: not-found is wanted, not {}", told(&failed)));
            }
            None => return Err(format!("`{what}` finds {key}, which is not there")),
        }
    }
    Ok(())
}

async fn create(mover: &Mover, key: &str, bytes: &Bytes) -> Result<(), String> {
    match mover.put(key, bytes).await.within(&format!("`put-if-absent` of {key}"))? {
        Stored::Created => Ok(()),
        Stored::Exists => Err(format!("`put-if-absent`: {key} is new, and it says that it exists")),
    }
}

async fn life(subject: &Subject, mover: &Mover) -> Result<(), String> {
    for len in [0_usize, 1, 100_000, (4 << 20) + 3] {
        let key = format!("life/{len}.x_y-z");
        let bytes = subject.bytes(&key, len);
        create(mover, &key, &bytes).await?;
        is(mover, &key, &bytes).await?;
        if len > 1 {
            ranges(mover, &key, &bytes).await?;
        }
        let other = subject.bytes("other", 1_000);
        mover.replace(&key, &other).await.within("`replace`")?;
        is(mover, &key, &other).await.map_err(|why| format!("after `replace`: {why}"))?;
        let keys = [key.clone(), "life/never".into()];
        for (key, outcome) in keys.iter().zip(mover.delete(&keys).await.within("`delete`")?) {
            outcome.map_err(|error| format!("`delete` of {key}: {}", error.message))?;
        }
        is_none(mover, &key).await.map_err(|why| format!("after `delete`: {why}"))?;
    }
    Ok(())
}

async fn ranges(mover: &Mover, key: &str, bytes: &Bytes) -> Result<(), String> {
    let len = bytes.len();
    for (from, to) in [(0, 1), (len - 1, len), (len / 3, len / 2)] {
        let part = mover.get(key, from as u64, (to - from) as u64).await.within("`get` of a part")?;
        ensure(part == bytes[from..to], format!("`get`: bytes {from} to {to} are not those that were stored"))?;
    }
    match mover.get(key, len as u64 - 1, 2).await {
        Ok(part) => Err(format!("`get` beyond the end is to fail, and gave {} bytes", part.len())),
        Err(_) => Ok(()),
    }
}

async fn conflict(subject: &Subject, mover: &Mover) -> Result<(), String> {
    let (first, second) = (subject.bytes("first", 1_000), subject.bytes("second", 2_000));
    create(mover, "conflict", &first).await?;
    match mover.put("conflict", &second).await.within("`put-if-absent` again")? {
        Stored::Exists => {}
        Stored::Created => return Err("`put-if-absent` of a key that is taken says that it created it".into()),
    }
    is(mover, "conflict", &first).await
}

async fn race(subject: &Subject, mover: &Mover) -> Result<(), String> {
    for round in 0..5 {
        let key = format!("race/{round}");
        let bytes: Vec<_> = (0..8).map(|n| subject.bytes(&format!("{key}/{n}"), 5_000)).collect();
        let tried = futures::future::join_all(bytes.iter().map(|bytes| mover.put(&key, bytes))).await;
        let mut created = Vec::new();
        for (outcome, bytes) in tried.iter().zip(&bytes) {
            match outcome {
                Ok(Stored::Created) => created.push(bytes),
                Ok(Stored::Exists) => {}
                Err(failed) if matches!(class(failed), Some(Class::Conflict | Class::Retryable | Class::Throttled)) => {
                }
                Err(failed) => return Err(told(failed)),
            }
        }
        ensure(created.len() == 1, format!("{} of 8 created {key}", created.len()))?;
        is(mover, &key, created[0]).await?;
    }
    Ok(())
}

async fn twice(subject: &Subject, mover: &Mover) -> Result<(), String> {
    let bytes = subject.bytes("twice", 3_000);
    create(mover, "twice/a", &bytes).await?;
    ensure(
        matches!(mover.put("twice/a", &bytes).await, Ok(Stored::Exists)),
        "`put-if-absent` twice: it is to say that it exists",
    )?;
    for _ in 0..2 {
        mover.replace("twice/b", &bytes).await.within("`replace` twice")?;
        is(mover, "twice/a", &bytes).await?;
        is(mover, "twice/b", &bytes).await?;
    }
    let heads = [mover.head("twice/a").await.within("`head`")?, mover.head("twice/a").await.within("`head`")?];
    ensure(heads[0] == heads[1], "`head` twice: two answers")?;
    let list = async || mover.list("twice/", None, None).await.within("`list`");
    let lists = [list().await?, list().await?];
    let keys = |n: usize| lists[n].objects.iter().map(|object| object.key.as_str()).collect::<Vec<_>>();
    ensure(keys(0) == ["twice/a", "twice/b"], format!("`list`: twice/a and twice/b are there, it has {:?}", keys(0)))?;
    ensure(keys(0) == keys(1), "`list` twice: two answers")?;
    for _ in 0..2 {
        let each = mover.delete(&["twice/a".into(), "twice/b".into()]).await.within("`delete` twice")?;
        each.into_iter()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("`delete` twice: {}", error.message))?;
    }
    is_none(mover, "twice/a").await
}

async fn elsewhere(subject: &Subject, mover: &Mover) -> Result<(), String> {
    let bytes = subject.bytes("elsewhere", 1_000);
    create(mover, "elsewhere", &bytes).await?;
    mover.kill().await;
    is(mover, "elsewhere", &bytes).await
}

async fn many(subject: &Subject, mover: &Mover) -> Result<(), String> {
    let bytes = subject.bytes("many", 10);
    let mut keys: Vec<_> = (0..MANY).map(|n| format!("many/{n:04}")).collect();
    keys.push("many-more/x".into());
    keys.sort();
    let mut storing = FuturesUnordered::new();
    for key in &keys {
        if storing.len() == AT_ONCE {
            storing.next().await.unwrap_or(Ok(()))?;
        }
        storing.push(create(mover, key, &bytes));
    }
    while let Some(stored) = storing.next().await {
        stored?;
    }
    // A prefix is any text, and not a folder.
    let last = keys[500].clone();
    for (prefix, after) in
        [("many", None), ("many/", None), ("many/00", None), ("many", Some(last.as_str())), ("manx", None)]
    {
        let of = |key: &&String| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after);
        let wanted: Vec<_> = keys.iter().filter(of).collect();
        let listed = pages(mover, prefix, after).await?;
        ensure(
            listed.iter().eq(wanted.iter().copied()),
            format!(
                "`list` of {prefix:?} after {after:?}: {} objects are there, it has {}, or in another order",
                wanted.len(),
                listed.len()
            ),
        )?;
    }
    let all: Vec<_> = keys.iter().take(PAGE).cloned().collect();
    let each = mover.delete(&all).await.within("`delete` of 1,000")?;
    each.into_iter().collect::<Result<Vec<_>, _>>().map_err(|error| format!("`delete` of 1,000: {}", error.message))?;
    let left = pages(mover, "many", None).await?;
    ensure(left == keys[PAGE..], format!("after `delete` of 1,000, {} are left of {}", left.len(), keys.len()))
}

/// The keys of all pages.
async fn pages(mover: &Mover, prefix: &str, after: Option<&str>) -> Result<Vec<String>, String> {
    let (mut keys, mut token) = (Vec::new(), None::<String>);
    // So many pages no listing of these objects has.
    for _ in 0..=MANY {
        let page = mover.list(prefix, after, token.as_deref()).await.within("`list`")?;
        ensure(page.objects.len() <= PAGE, format!("`list`: a page has {} objects", page.objects.len()))?;
        keys.extend(page.objects.into_iter().map(|object| object.key));
        match page.next {
            Some(next) => token = Some(next),
            None => return Ok(keys),
        }
    }
    Err("`list` never ends".into())
}

async fn large(subject: &Subject, mover: &Mover) -> Result<(), String> {
    let bytes = subject.bytes("large", LARGE);
    create(mover, "large", &bytes).await?;
    is(mover, "large", &bytes).await
}
