//! How long a mover takes.

use std::time::{Duration, Instant};

use super::points::Array;
use super::subject::{Mover, Subject, Within};
use crate::conformance::Findings;

/// As large as a small segment.
const SEGMENT: usize = 4 << 20;

const ROUNDS: usize = 50;

/// How long each of some things took, in each round.
type Taken<const N: usize> = Result<[(&'static str, Vec<Duration>); N], String>;

pub(super) async fn of_objects(findings: &mut Findings, subject: &Subject, mover: &Mover) {
    tell(findings, objects(subject, mover).await);
}

pub(super) async fn of_points(findings: &mut Findings, subject: &Subject, array: &Array) {
    tell(findings, points(subject, array).await);
}

fn tell<const N: usize>(findings: &mut Findings, taken: Taken<N>) {
    let taken = match taken {
        Ok(taken) => taken,
        Err(why) => return findings.note("can be measured", Err(why)),
    };
    for (name, mut taken) in taken {
        taken.sort_unstable();
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        findings.figure(format!("{name}, p50"), millis(taken[taken.len() / 2]), "ms", None);
        findings.figure(format!("{name}, p99"), millis(taken[taken.len() * 99 / 100]), "ms", None);
    }
}

async fn objects(subject: &Subject, mover: &Mover) -> Taken<3> {
    let bytes = subject.bytes("segment", SEGMENT);
    let (mut puts, mut gets, mut heads) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let key = format!("bench/{round}");
        let started = Instant::now();
        mover.put(&key, &bytes).await.within("`put-if-absent`")?;
        puts.push(started.elapsed());
        let started = Instant::now();
        mover.get(&key, 0, SEGMENT as u64).await.within("`get`")?;
        gets.push(started.elapsed());
        let started = Instant::now();
        mover.head(&key).await.within("`head`")?;
        heads.push(started.elapsed());
    }
    Ok([("storing 4 MiB", puts), ("reading 4 MiB", gets), ("looking at an object", heads)])
}

async fn points(subject: &Subject, array: &Array) -> Taken<3> {
    let vm = array.vm("bench");
    let disks = vec![subject.bytes("segment", SEGMENT).to_vec()];
    let (mut made, mut read, mut listed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let point = array.run(&vm, None, None, &disks).await.within("making a point")?;
        made.push(started.elapsed());
        let started = Instant::now();
        array.is(&point, &disks).await?;
        read.push(started.elapsed());
        let started = Instant::now();
        array.listed(&vm).await?;
        listed.push(started.elapsed());
        array.remove(Some(&vm)).await;
    }
    Ok([
        ("making a point of 4 MiB, read back", made),
        ("reading 4 MiB of a point", read),
        ("listing a machine", listed),
    ])
}
