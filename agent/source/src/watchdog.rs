//! The watchdog: a process of its own beside every open view of a VM. It thaws a guest that stays frozen for too long,
//! ends the job before scratch files fill their filesystem, and when the run dies (its pipe closes without "done") it
//! ends the run's job and removes its files. A process, because the run may be killed, or stopped with Ctrl-Z, while
//! the guest goes on.
//!
//! A run that is stopped takes no replies from QEMU's NBD server. Whenever QEMU then waits for its requests to end
//! (a flush of all disks, a pause, a snapshot, the end of the very job) it waits for these replies too, and with it its
//! monitor and the guest (QEMU 7.2, `nbd_drained_poll`). So a run that shows no life while its job runs is killed, which
//! closes its connections, and then cleaned up after like any dead run.
//!
//! It is told about the job, and then about each step, by lines on its standard input, and answers with lines: `said.rs`.

mod said;

use std::sync::Arc;
use std::time::Duration;

use remora_core::CheckpointName;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::connection::{DomainHandle, Libvirt, Repeat, USUAL};
use crate::job::{self, JobEnd, RunningJob};
use crate::{files, quiesce, raw, scratch};

pub(crate) use said::{Event, Spec, Step};

/// How often it looks at the clock and at the scratch files' filesystems.
const TICK: Duration = Duration::from_millis(50);

/// How long it tries to thaw a guest whose agent does not answer.
const THAW_FOR: Duration = Duration::from_mins(5);

/// The pause between two such tries.
const THAW_EVERY: Duration = Duration::from_secs(1);

/// How often a run tells that it lives.
pub(crate) const BEAT: Duration = Duration::from_secs(1);

/// How long a run may show no life while its job runs: the longest that it can hold the guest up.
pub(crate) const SILENCE_LIMIT: Duration = Duration::from_secs(15);

/// How long a job may still appear after the run died while it was being started.
const LATE_JOB: Duration = Duration::from_mins(1);

/// How often it tries to end a job: one that is just beginning can be seen before it can be ended, and on a busy host libvirt may
/// not answer in time.
const ENDS: u32 = 10;

/// The pause between two such tries.
const END_EVERY: Duration = Duration::from_secs(1);

/// The whole life of a watchdog process. Standard input and output belong to the run that started it.
pub fn main() -> u8 {
    // Away from the terminal: Ctrl-C and Ctrl-Z are for the run. Fails only if that is so already.
    nix::unistd::setsid().ok();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&error);
            return 1;
        }
    };
    let result = runtime.block_on(async {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let first = lines.next_line().await.map_err(|error| error.to_string())?.unwrap_or_default();
        let spec = serde_json::from_str(&first)
            .map_err(|error| format!("this command is started by remora itself and reads from its pipe ({error})"))?;
        Watch::new(spec).run(lines).await;
        Ok::<_, String>(())
    });
    // The thread that reads standard input may never end.
    runtime.shutdown_background();
    match result {
        Ok(()) => 0,
        Err(error) => {
            say(&error);
            1
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guest {
    Thawed,
    /// Frozen on purpose, or being frozen, and not to be later than then.
    FrozenUntil(Instant),
    /// To be thawed as soon as its agent answers, until then.
    Stuck(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    None,
    Beginning,
    Runs,
    /// Told to end because of scratch files.
    Stopped,
}

/// Whether the run that started us lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Lives,
    Done,
    Died,
}

struct Watch {
    spec: Arc<Spec>,
    domain: DomainHandle,
    guest: Guest,
    job: Job,
    owner: Owner,
    thawing: Option<JoinHandle<bool>>,
    next_thaw: Instant,
    /// For how long the run was silent, as far as we ran ourselves: a pause of the whole machine or container is not
    /// the run's fault.
    silent: Duration,
    stopping: Option<JoinHandle<()>>,
    cleaning: Option<JoinHandle<()>>,
}

impl Watch {
    fn new(spec: Spec) -> Self {
        let libvirt = Arc::new(Libvirt::new(spec.uri.clone()));
        let domain = DomainHandle { libvirt, vm: spec.vm.clone(), uuid: spec.uuid.clone() };
        Self {
            spec: Arc::new(spec),
            domain,
            guest: Guest::Thawed,
            job: Job::None,
            owner: Owner::Lives,
            thawing: None,
            next_thaw: Instant::now(),
            silent: Duration::ZERO,
            stopping: None,
            cleaning: None,
        }
    }

    async fn run(mut self, mut lines: Lines<BufReader<Stdin>>) {
        tell(&Event::Ready);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                line = lines.next_line(), if self.owner == Owner::Lives => self.hear(line.ok().flatten().as_deref()),
                _ = tick.tick() => {
                    self.look_after_guest().await;
                    self.look_after_scratch();
                    self.look_after_run();
                    if self.is_over() {
                        return;
                    }
                }
            }
        }
    }

    fn hear(&mut self, line: Option<&str>) {
        self.silent = Duration::ZERO;
        let step = line.and_then(|line| serde_json::from_str(line).ok());
        match step {
            Some(Step::Freezing) => self.guest = Guest::FrozenUntil(Instant::now() + self.spec.freezing_at_most),
            Some(Step::Frozen) => {
                // A thaw that was begun before says nothing of this freeze: it may have come first.
                self.thawing = None;
                self.guest = Guest::FrozenUntil(Instant::now() + self.spec.frozen_at_most);
            }
            Some(Step::Thawed) => self.guest = Guest::Thawed,
            Some(Step::Unsure) => self.guest = Guest::Stuck(Instant::now() + THAW_FOR),
            Some(Step::Beginning) => self.job = Job::Beginning,
            Some(Step::Began) => self.job = Job::Runs,
            Some(Step::Alive) => {}
            Some(Step::Done) => {
                self.owner = Owner::Done;
                let_go_of_stderr();
            }
            None => self.owner_died(),
        }
    }

    fn owner_died(&mut self) {
        self.owner = Owner::Died;
        if self.guest != Guest::Thawed {
            self.guest = Guest::Stuck(Instant::now() + THAW_FOR);
        }
        let (domain, spec, job) = (self.domain.clone(), Arc::clone(&self.spec), self.job);
        self.cleaning = Some(tokio::spawn(async move { clean_up(&domain, &spec, job).await }));
    }

    fn is_over(&self) -> bool {
        let clean = self.cleaning.as_ref().is_none_or(JoinHandle::is_finished);
        self.owner != Owner::Lives && clean && self.guest == Guest::Thawed
    }

    async fn look_after_guest(&mut self) {
        if let Guest::FrozenUntil(limit) = self.guest
            && Instant::now() > limit
        {
            self.guest = Guest::Stuck(Instant::now() + THAW_FOR);
        }
        let Guest::Stuck(until) = self.guest else { return };
        if let Some(task) = self.thawing.take_if(|task| task.is_finished())
            && (task.await.unwrap_or(false) || Instant::now() > until)
        {
            self.guest = Guest::Thawed;
            return;
        }
        if self.thawing.is_none() && Instant::now() >= self.next_thaw {
            self.next_thaw = Instant::now() + THAW_EVERY;
            let domain = self.domain.clone();
            self.thawing = Some(tokio::spawn(async move { thaw(&domain).await }));
        }
    }

    fn look_after_scratch(&mut self) {
        if !matches!(self.job, Job::Beginning | Job::Runs) || self.owner != Owner::Lives {
            return;
        }
        let full = self.spec.volumes.iter().find_map(|volume| {
            let free = scratch::free(&volume.folder).ok()?;
            volume.must_stop(free).then(|| {
                let folder = volume.folder.display();
                format!(
                    "{folder}, which holds the scratch files, had {} bytes free and has {free} now",
                    volume.free_before
                )
            })
        });
        let Some(reason) = full else { return };
        // First tell, then act: the run must know why before it sees its connections close.
        tell(&Event::Stopping(reason));
        self.job = Job::Stopped;
        let (domain, spec) = (self.domain.clone(), Arc::clone(&self.spec));
        self.stopping = Some(tokio::spawn(async move {
            until_done(|| end_job(&domain, &spec.checkpoint)).await;
        }));
    }

    fn look_after_run(&mut self) {
        if self.job == Job::None || self.owner != Owner::Lives {
            return;
        }
        self.silent += TICK;
        if self.silent <= self.spec.silent_at_most {
            return;
        }
        self.silent = Duration::ZERO;
        let (run, limit) = (self.spec.run, self.spec.silent_at_most);
        say(format_args!(
            "the backup of {:?} (process {run}) was stopped for {limit:?} and could have held up the guest: it is killed",
            self.spec.vm.as_str()
        ));
        kill(run);
    }
}

/// Kills the run that started us. Our parent is that process as long as it lives, so that its number cannot have passed
/// to another one.
fn kill(run: u32) {
    let parent = nix::unistd::getppid();
    if u32::try_from(parent.as_raw()) == Ok(run) {
        nix::sys::signal::kill(parent, nix::sys::signal::Signal::SIGKILL).ok();
    }
}

/// Whether the guest is surely not frozen now.
async fn thaw(domain: &DomainHandle) -> bool {
    match domain.call(USUAL, Repeat::Safe, raw::thaw).await {
        Ok(count) => {
            say(format_args!("thawed {count} filesystems of the guest of {:?}", domain.vm.as_str()));
            quiesce::forget_agent_deadline(domain).await;
            true
        }
        Err(error) if quiesce::has_no_agent(&error) => true,
        // A guest that was switched off is not frozen.
        Err(_) => matches!(domain.is_active().await, Ok(false)),
    }
}

async fn end_job(domain: &DomainHandle, checkpoint: &CheckpointName) -> bool {
    let name = checkpoint.clone();
    let ended = domain.call(USUAL, Repeat::Safe, move |domain| job::end(domain, &name)).await;
    matches!(ended, Ok(JobEnd::Ended))
}

/// After the run died. A job that was being started may still appear.
async fn clean_up(domain: &DomainHandle, spec: &Spec, job: Job) {
    let until = Instant::now() + LATE_JOB;
    while job == Job::Beginning && Instant::now() < until {
        let running = domain.call(USUAL, Repeat::Safe, job::running).await;
        if matches!(running, Ok(Some(RunningJob::Ours(ours))) if ours == spec.checkpoint) {
            break;
        }
        tokio::time::sleep(TICK).await;
    }
    if job == Job::None || until_done(|| end_job(domain, &spec.checkpoint)).await {
        files::remove(&spec.files);
    }
}

/// Tries it until it is done; says whether it is.
async fn until_done<F: Future<Output = bool>>(once: impl Fn() -> F) -> bool {
    for _ in 0..ENDS {
        if once().await {
            return true;
        }
        tokio::time::sleep(END_EVERY).await;
    }
    false
}

/// For people, on the standard error that it has from its run. Often nobody listens any more: `eprintln!` would panic,
/// just when the watchdog is needed.
fn say(what: impl std::fmt::Display) {
    use std::io::Write;
    writeln!(std::io::stderr().lock(), "remora watchdog: {what}").ok();
}

/// While it still thaws a guest whose run has told all, whoever reads what that run said must not wait for more.
fn let_go_of_stderr() {
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        nix::unistd::dup2_stderr(null).ok();
    }
}

fn tell(event: &Event) {
    use std::io::Write;
    let line = serde_json::to_string(event).expect("an enum of texts is always JSON");
    // If nobody listens the run is dead, which the other pipe tells.
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}

#[cfg(test)]
mod tests {
    use remora_core::{RepositoryId, VmName};

    use super::*;

    fn watch() -> Watch {
        Watch::new(Spec {
            uri: "test:///default".into(),
            vm: VmName::new("a vm").unwrap(),
            uuid: "u".into(),
            checkpoint: CheckpointName::random(RepositoryId::random()),
            files: Vec::new(),
            volumes: Vec::new(),
            freezing_at_most: THAW_FOR,
            frozen_at_most: THAW_FOR,
            run: 0,
            silent_at_most: THAW_FOR,
        })
    }

    /// Also of a run that lives, whose guest would soon see write errors.
    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_job_is_tried_again_but_not_for_ever() {
        for (done_after, done) in [(0, true), (1, true), (ENDS - 1, true), (ENDS, false)] {
            let tried = std::cell::Cell::new(0);
            let once = || {
                let before = tried.replace(tried.get() + 1);
                std::future::ready(before == done_after)
            };
            assert_eq!(until_done(once).await, done);
            assert_eq!(tried.get(), ENDS.min(done_after + 1));
        }
    }

    #[tokio::test]
    async fn a_thaw_that_was_begun_before_a_freeze_does_not_stand_for_one_after_it() {
        for told in ["\"freezing\"", "\"frozen\""] {
            let mut watch = watch();
            // None is begun in this test.
            watch.next_thaw = Instant::now() + THAW_FOR;
            watch.hear(Some("\"freezing\""));
            watch.thawing = Some(tokio::spawn(async { true }));
            while !watch.thawing.as_ref().is_some_and(JoinHandle::is_finished) {
                tokio::task::yield_now().await;
            }
            watch.hear(Some(told));
            // The run dies.
            watch.hear(None);
            watch.look_after_guest().await;
            let frozen = watch.guest != Guest::Thawed;
            assert_eq!(frozen, told == "\"frozen\"", "{told}");
        }
    }
}
