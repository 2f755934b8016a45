//! An open instant of a VM of KubeVirt.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use remora_core::point::Quiesced;
use remora_core::ports::{DiskView, OpenVm, Outcome};
use remora_core::{CheckpointName, Result};

use super::attempt::Started;
use super::job::KubevirtJob;
use super::scratch::ScratchWatch;
use super::source::Vm;
use crate::disk::{Disk, JobWatch};
use crate::process;

/// Where a view is from.
pub(super) struct Source {
    pub(super) vm: Arc<Vm>,
    pub(super) job: Arc<KubevirtJob>,
    pub(super) no_increment: Option<String>,
    /// The process that serves it.
    pub(super) server: Option<u32>,
}

/// The port's open VM.
pub(super) struct View {
    source: Source,
    checkpoint: CheckpointName,
    time: Timestamp,
    quiesced: Quiesced,
    instance: Option<String>,
    disks: Vec<Arc<Disk>>,
    views: Vec<Arc<dyn DiskView>>,
    scratch: Option<ScratchWatch>,
    closed: bool,
}

impl View {
    pub(super) async fn new(source: Source, started: Started, disks: Vec<Arc<Disk>>) -> Result<Self> {
        let process = source.server.and_then(|pid| process::instance(&source.vm.options.proc, pid));
        let instance = process.map(|process| format!("vmi {} {process}", source.vm.instance.uid));
        let views = disks.iter().map(|disk| Arc::clone(disk) as Arc<dyn DiskView>).collect();
        let scratch = if let Some(volume) = &started.running.scratch {
            Some(ScratchWatch::start(&source.vm, volume, &source.job, &disks).await?)
        } else {
            tracing::warn!(vm = %source.vm.facts.vm, "where the scratch PVC is attached is not known, so it is not watched");
            None
        };
        let Started { checkpoint, time, quiesced, .. } = started;
        Ok(Self { source, checkpoint, time, quiesced, instance, disks, views, scratch, closed: false })
    }
}

#[async_trait]
impl OpenVm for View {
    fn disks(&self) -> &[Arc<dyn DiskView>] {
        &self.views
    }

    fn checkpoint(&self) -> CheckpointName {
        self.checkpoint.clone()
    }

    fn no_increment(&self) -> Option<&str> {
        self.source.no_increment.as_deref()
    }

    fn time(&self) -> Timestamp {
        self.time
    }

    fn quiesced(&self) -> Quiesced {
        self.quiesced
    }

    fn instance(&self) -> Option<String> {
        self.instance.clone()
    }

    async fn confirm(&self) -> Result<()> {
        match self.source.job.why_broken().await {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(error),
            Err(error) => Err(error.within("asking whether the backup of KubeVirt still runs")),
        }
    }

    async fn close(mut self: Box<Self>, outcome: Outcome) -> Result<()> {
        self.closed = true;
        self.scratch.take();
        for disk in &self.disks {
            disk.disconnect().await;
        }
        let ended = self.source.job.end(outcome).await;
        let vm = self.source.vm.facts.vm.as_str();
        ended.map_err(|error| error.within(format_args!("ending the backup of the VM {vm:?}")))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if !self.closed {
            tracing::warn!(vm = %self.source.vm.facts.vm, "a backup was dropped without being closed; the controller ends it");
        }
    }
}
