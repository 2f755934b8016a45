//! The claims of a halted VM, read through the pod that has them.

use std::sync::Arc;

use async_trait::async_trait;
use remora_core::ports::DiskView;
use remora_core::{DiskName, Error, ErrorKind, Result};
use remora_kube::keys::WorkerAccess;
use remora_source::kubevirt::ClaimReader;
use remora_transfer::{BorrowedDisk, Loan};
use tokio::sync::Mutex;

use super::restore::worker;

/// A connection to the pod.
#[derive(Debug)]
pub(super) struct Claims {
    loan: Arc<Loan>,
    /// The claims, by the numbers that the pod knows them by.
    by_number: Vec<String>,
    opened: Mutex<Vec<Arc<BorrowedDisk>>>,
}

impl Claims {
    pub(super) async fn connect(access: &WorkerAccess) -> Result<Self> {
        let loan = Loan::connect(&worker(access)).await?;
        Ok(Self { loan, by_number: access.claims.clone(), opened: Mutex::default() })
    }
}

#[async_trait]
impl ClaimReader for Claims {
    async fn open(&self, disk: &DiskName, claim: &str) -> Result<Arc<dyn DiskView>> {
        let number = self.by_number.iter().position(|one| one == claim).and_then(|at| u32::try_from(at).ok());
        let number = number.ok_or_else(|| {
            let what = format!("the pod that reads the VM's claims does not have {claim}, which disk {disk} lies on");
            Error::new(ErrorKind::Unavailable, what).advise("The VM was changed meanwhile: create another BackupRun.")
        })?;
        let opened = Arc::new(self.loan.open(disk.clone(), number).await?);
        self.opened.lock().await.push(Arc::clone(&opened));
        Ok(opened)
    }

    async fn are_unchanged(&self) -> Result<bool> {
        for disk in &*self.opened.lock().await {
            if !disk.is_unchanged().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
