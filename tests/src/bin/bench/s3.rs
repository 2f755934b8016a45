//! The full backup of 4 GiB and its restore, with the repository on an S3 server on loopback, against the same with a
//! folder. The server runs on the same cores and writes to the same filesystem.

use std::fs;
use std::time::Duration;

use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, Format, MIB, Meddler, Must, Remora, S3};

use crate::full::backup;
use crate::measure::{cpu_of, seconds, took};
use crate::report::{Row, Run};
use crate::setting::{REPEATS, Setting, remove};

/// What is allowed over the time with a folder.
const FACTOR: f64 = 1.3;

/// Fetches that a restore must have in flight.
const IN_FLIGHT: usize = 16;

/// Bytes stored for which one PUT is allowed, and PUTs that are allowed besides.
const A_PUT: u64 = 8 * MIB;
const MORE_PUTS: u64 = 10;

const WHERE_IT_GOES: &str = "the server runs on the same cores.";

/// How long something took, and what processor time.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

pub(crate) fn measure(setting: &Setting) -> Vec<Row> {
    let domain = setting.lab.domain("s3").disk(DiskSpec::holding("vda", Format::Qcow2, setting.disk())).paused();
    let s3 = S3::start_in(&setting.lab.scratch("s3"));
    let (mut backups, mut restores, mut puts, mut fetches) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..REPEATS {
        let bucket = s3.bucket(&format!("round-{round}"));
        let [local, remote] = [Remora::init(&setting.lab), repository(setting, &s3.url(&bucket), &s3)];
        remote.ok(["repo", "init"]);

        let there = backup(&local, &domain);
        let (requests, server) = (s3.requests("s3_PutObject"), cpu_of(s3.pid()));
        let here = backup(&remote, &domain);
        let server = cpu_of(s3.pid()) - server;
        puts.push(of_puts(s3.requests("s3_PutObject") - requests, here.stored));
        let cost = |backup: &crate::full::Backup| Cost { wall: backup.wall, cpu: backup.cpu };
        backups.push(against_folder(cost(&there), cost(&here), server));

        let there = restore(setting, &local, &there.point);
        let server = cpu_of(s3.pid());
        let cost = restore(setting, &remote, &here.point);
        restores.push(against_folder(there, cost, cpu_of(s3.pid()) - server));
        if round == 0 {
            // Not while the time is taken.
            let proxy = Meddler::before(s3.address());
            restore(setting, &repository(setting, &s3.url_at(&bucket, proxy.address()), &s3), &here.point);
            fetches.push(of_fetches(proxy.most_fetches()));
        }
        remove(&local);
        fs::remove_dir_all(s3.files(&bucket)).must("remove a bucket's objects");
    }
    vec![
        Row::median("Full backup of that disk to an S3 server on loopback", WHERE_IT_GOES, backups),
        Row::median("The same: PUTs", "", puts),
        Row::median("Its restore from there to a file", WHERE_IT_GOES, restores),
        Row::median("The same: most fetches in flight at once", "", fetches),
    ]
}

fn repository(setting: &Setting, url: &str, s3: &S3) -> Remora {
    s3.owner(Remora::new(&setting.lab, url))
}

fn restore(setting: &Setting, remora: &Remora, point: &str) -> Cost {
    let restored = setting.lab.scratch("restored").join("restored.raw");
    let mut restore = remora.command(["restore", point, "--quiet", "--disk", "vda", "--to"]);
    let took = took(restore.arg(&restored));
    assert_same(&restored, setting.disk());
    fs::remove_file(&restored).must("remove a restored disk");
    Cost { wall: took.wall, cpu: took.cpu }
}

fn against_folder(folder: Cost, s3: Cost, server: Duration) -> Run {
    let limit = folder.wall.mul_f64(FACTOR);
    Run {
        allowed: format!(
            "{} = {FACTOR} × {} with a folder (processor time {})",
            seconds(limit),
            seconds(folder.wall),
            seconds(folder.cpu)
        ),
        measured: format!(
            "{}: {:.2} × the folder's; processor time {}, and the S3 server's {}",
            seconds(s3.wall),
            s3.wall.as_secs_f64() / folder.wall.as_secs_f64(),
            seconds(s3.cpu),
            seconds(server),
        ),
        share: s3.wall.as_secs_f64() / limit.as_secs_f64(),
    }
}

fn of_puts(puts: usize, stored: u64) -> Run {
    let most = stored / A_PUT + MORE_PUTS;
    Run {
        allowed: format!("{most} = {:.0} MiB stored / 8 MiB + {MORE_PUTS}", stored as f64 / MIB as f64),
        measured: puts.to_string(),
        share: puts as f64 / most as f64,
    }
}

fn of_fetches(most: usize) -> Run {
    Run {
        allowed: format!("at least {IN_FLIGHT}"),
        measured: format!("{most}, counted by a proxy in a run of its own"),
        share: IN_FLIGHT as f64 / most as f64,
    }
}
