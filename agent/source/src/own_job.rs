//! The backup job of this run, from before its begin to its end: watchdog, freeze, begin, thaw, clean up.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use remora_core::point::{Quiesce, Quiesced};
use remora_core::ports::Outcome;
use remora_core::{CheckpointName, DiskName, Error, ErrorKind, Result};
use virt::error::ErrorNumber;

use crate::backup_xml::{BackupJob, Checkpointed, JobDisk};
use crate::connection::{CallError, Repeat};
use crate::guard::{Guard, Wait};
use crate::quiesce::{self, Frozen, Thawed};
use crate::state::{Broken, JobState};
use crate::vm::Vm;
use crate::watchdog::{SILENCE_LIMIT, Spec, Step};
use crate::{checkpoints, files, job, raw, scratch};

/// How long libvirt may take to start a job: some bitmaps and scratch files to make.
const BEGIN: Duration = Duration::from_mins(2);

/// A disk of the job.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) name: DiskName,
    pub(crate) size: u64,
    pub(crate) since: Option<CheckpointName>,
    pub(crate) checkpointed: Checkpointed,
    /// The file in which QEMU keeps what the guest overwrites.
    pub(crate) scratch: PathBuf,
    pub(crate) scratch_folder: PathBuf,
}

/// Whether libvirt has the job, and with it the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    No,
    /// It was asked and did not answer.
    Maybe,
    Yes,
}

/// A job from before its begin to its end.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) vm: Arc<Vm>,
    pub(crate) checkpoint: CheckpointName,
    pub(crate) chosen: Vec<Chosen>,
    pub(crate) socket: PathBuf,
    pub(crate) state: Arc<JobState>,
    files: Vec<PathBuf>,
    begun: Begun,
    guest: Guest,
    guard: Guard,
}

/// Whether the guest is frozen by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guest {
    Thawed,
    Frozen(u32),
    /// The watchdog goes on trying to thaw it.
    Unsure,
}

impl Job {
    /// Makes the folders and starts the watchdog.
    pub(crate) async fn prepare(vm: &Arc<Vm>, checkpoint: &CheckpointName, chosen: Vec<Chosen>) -> Result<Self> {
        let room: Vec<_> = chosen.iter().map(|c| (c.scratch_folder.clone(), c.size)).collect();
        let volumes = scratch::volumes(&room)?;
        scratch::check(&volumes)?;
        let (options, uuid) = (&vm.options, &vm.domain.uuid);
        let socket = files::prepare_socket(&options.run_dir, uuid, checkpoint, vm.definition.qemu_owner)?;
        let files: Vec<_> = chosen.iter().map(|c| c.scratch.clone()).chain([socket.clone()]).collect();
        let spec = Spec {
            uri: vm.domain.libvirt.uri().to_owned(),
            vm: vm.domain.vm.clone(),
            uuid: uuid.clone(),
            checkpoint: checkpoint.clone(),
            files: files.clone(),
            volumes,
            freezing_at_most: quiesce::FREEZE_LIMIT + quiesce::HOLD_LIMIT,
            frozen_at_most: quiesce::HOLD_LIMIT,
            run: std::process::id(),
            silent_at_most: SILENCE_LIMIT,
        };
        let state = Arc::new(JobState::default());
        let guard = Guard::start(&options.watchdog, &spec, &state).await.inspect_err(|_| {
            files::remove(&files);
            files::remove_socket_folder(&options.run_dir, uuid);
        })?;
        Ok(Self {
            vm: Arc::clone(vm),
            checkpoint: checkpoint.clone(),
            chosen,
            socket,
            state,
            files,
            begun: Begun::No,
            guest: Guest::Thawed,
            guard,
        })
    }

    /// Freezes, begins, thaws; says when that was and whether the guest was frozen.
    pub(crate) async fn begin(&mut self, quiesce: Quiesce) -> Result<(Timestamp, Quiesced)> {
        let why_not = match quiesce {
            Quiesce::Never => None,
            Quiesce::Required | Quiesce::Preferred => self.freeze().await?,
        };
        if let (Quiesce::Required, Some(why)) = (quiesce, &why_not) {
            return Err(quiesce::refused(why));
        }
        let time = Timestamp::now();
        let begun = self.ask_libvirt().await;
        let stayed_frozen = self.thaw().await;
        if quiesce != Quiesce::Never && self.guest == Guest::Thawed {
            quiesce::forget_agent_deadline(&self.vm.domain).await;
        }
        begun?;
        self.guard.tell(Step::Began).await?;
        let why_not = why_not.or(stayed_frozen.err());
        match (quiesce, why_not) {
            (Quiesce::Never, _) => Ok((time, Quiesced::Skipped)),
            (_, None) => Ok((time, Quiesced::Frozen)),
            (Quiesce::Required, Some(why)) => Err(quiesce::refused(&why)),
            (Quiesce::Preferred, Some(why)) => {
                tracing::warn!(vm = %self.vm.domain.vm, why, "the guest could not be frozen; this point is crash-consistent");
                Ok((time, Quiesced::Failed))
            }
        }
    }

    /// Why the guest is not frozen, if it is not.
    async fn freeze(&mut self) -> Result<Option<String>> {
        self.guard.tell(Step::Freezing).await?;
        match quiesce::freeze(&self.vm.domain).await {
            Frozen::Yes(count) => {
                self.guest = Guest::Frozen(count);
                self.guard.tell(Step::Frozen).await?;
                Ok(None)
            }
            Frozen::No(why) => {
                self.guard.tell(Step::Thawed).await?;
                Ok(Some(why))
            }
            Frozen::Unsure(why) => {
                self.guest = Guest::Unsure;
                self.guard.tell(Step::Unsure).await?;
                Ok(Some(why))
            }
        }
    }

    /// Thaws a guest that we froze; an error says that it was not frozen until now.
    async fn thaw(&mut self) -> Result<(), String> {
        let Guest::Frozen(count) = self.guest else { return Ok(()) };
        match quiesce::thaw(&self.vm.domain, count).await {
            Ok(thawed) => {
                self.guest = Guest::Thawed;
                // If it is gone the next step notices.
                self.guard.tell(Step::Thawed).await.ok();
                match thawed {
                    Thawed::AllThatWereFrozen => Ok(()),
                    Thawed::Fewer => Err("the guest was thawed before the backup began".into()),
                }
            }
            Err(error) => {
                self.guest = Guest::Unsure;
                self.guard.tell(Step::Unsure).await.ok();
                tracing::error!(vm = %self.vm.domain.vm, %error, "cannot thaw the guest; the watchdog goes on trying");
                Ok(())
            }
        }
    }

    async fn ask_libvirt(&mut self) -> Result<()> {
        self.guard.tell(Step::Beginning).await?;
        let disks = self.chosen.iter().map(|c| JobDisk {
            name: &c.name,
            since: c.since.as_ref(),
            scratch: &c.scratch,
            checkpointed: c.checkpointed,
        });
        let not_chosen = self.vm.definition.disks.iter().filter(|d| self.chosen.iter().all(|c| c.name != d.name));
        let others = self.vm.definition.others.iter().map(String::as_str);
        let xml = BackupJob {
            checkpoint: &self.checkpoint,
            socket: &self.socket,
            disks: disks.collect(),
            others: not_chosen.map(|d| d.name.as_str()).chain(others).collect(),
        };
        let (backup, checkpoint) = (xml.backup(), xml.checkpoint());
        let begin = move |domain: &_| raw::backup_begin(domain, &backup, checkpoint.as_deref());
        self.begun = Begun::Maybe;
        match self.vm.domain.call(BEGIN, Repeat::Never, begin).await {
            Ok(()) => {
                self.begun = Begun::Yes;
                Ok(())
            }
            Err(error) => {
                if error.is_answer() {
                    self.begun = Begun::No;
                }
                Err(begin_error(error))
            }
        }
    }

    /// Ends the job, whatever its state, and removes what it made; the checkpoint stays after `Stored`. If libvirt
    /// does not let us, the watchdog goes on.
    pub(crate) async fn end(mut self, outcome: Outcome) -> Result<()> {
        // From here on its end is ours to tell, and no break.
        self.state.break_off(Broken {
            kind: ErrorKind::Cancelled,
            what: "the backup was closed".into(),
            advice: "Open the VM again.",
        });
        self.thaw().await.ok();
        let domain = &self.vm.domain;
        if self.begun == Begun::Maybe {
            // Dropping the guard lets the watchdog wait for a job that appears late.
            return job::end_ours(domain, &self.checkpoint).await;
        }
        if self.begun == Begun::Yes {
            job::end_ours(domain, &self.checkpoint).await?;
        }
        files::remove(&self.files);
        files::remove_socket_folder(&self.vm.options.run_dir, &domain.uuid);
        let has_checkpoint =
            self.begun == Begun::Yes && self.chosen.iter().any(|c| c.checkpointed == Checkpointed::Yes);
        let removed = match outcome {
            Outcome::Abandoned if has_checkpoint => checkpoints::remove(domain, &self.checkpoint).await,
            Outcome::Abandoned | Outcome::Stored => Ok(()),
        };
        self.guard.dismiss(if self.guest == Guest::Unsure { Wait::No } else { Wait::UntilItEnds }).await;
        removed
    }
}

/// libvirt's refusals in our words. `Damaged` means that an increment cannot start from the checkpoint that was named
/// though its state looked sound: the caller should open all disks without one and reread them.
fn begin_error(error: CallError) -> Error {
    let what = "starting the backup job";
    match error.number() {
        Some(ErrorNumber::CheckpointInconsistent | ErrorNumber::NoDomainCheckpoint) => {
            Error::new(ErrorKind::Damaged, "the checkpoint that the increment starts from is unusable")
                .because(error)
                .advise("Back up with --reread.")
        }
        Some(ErrorNumber::OperationInvalid) if error.message().contains("not running") => {
            Error::new(ErrorKind::Unavailable, what).because(error).advise("Start the VM, and back up again.")
        }
        _ if error.message().contains("ermission denied") => {
            Error::new(ErrorKind::Unavailable, what).because(error).advise(
                "QEMU's user must reach the scratch folder (--scratch) and the run folder (--run-dir); where AppArmor or SELinux confines QEMU, allow it both.",
            )
        }
        _ if error.message().contains("active block job") => {
            Error::new(ErrorKind::Busy, what).because(error).advise("Wait until the disk's block job (`virsh blockjob`) ends.")
        }
        _ => error.while_doing(what),
    }
}
