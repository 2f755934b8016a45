//! What a mover of points does while its server fails: its functions one by one, and whole runs.

use std::time::Duration;

use bytes::Bytes;
use remora_core::{BLOCK_SIZE, ErrorKind, PointId, VmName};

use super::super::super::conversation::{Component, Failed};
use super::super::super::retry::Patience;
use super::super::super::wire::VolumeCall;
use super::super::DEADLINE;
use super::super::faults::{Function, Outcome, Tried};
use super::super::injector::{Fault, Faulty};
use super::super::subject::{Subject, Within, ensure, ready};
use super::array::{Array, Disks};
use super::has;

use Function::{Abort, Begin, Commit, Delete, Extents, List, Read, Unchanged, Write, Zero};

/// What is there before the server fails: a point, and what goes on with one that is being written.
pub(in super::super) struct Prepared {
    block: Bytes,
    vm: VmName,
    there: String,
    draft: String,
    token: String,
    incremental: bool,
}

impl Tried for Array {
    type Prepared = Prepared;

    const ALL: &'static [Function] = &[Write, Zero, Unchanged, Commit, Abort, Begin, List, Extents, Read, Delete];
    const READS: &'static [Function] = &[Read, List];

    fn start(subject: &Subject, deadline: Duration) -> remora_core::Result<Self> {
        Self::start(subject, deadline)
    }

    fn component(&self) -> &Component {
        self.component()
    }

    async fn prepare(&self, subject: &Subject) -> Result<Prepared, String> {
        let block = subject.bytes("faults", BLOCK_SIZE as usize);
        let (vm, there, draft) = (self.vm("faults"), self.there(), self.draft());
        let can = self.component().volume_capabilities().await.within("opening, while nothing fails")?;
        self.delete(&there).await.within("`delete`, while nothing fails")?;
        let token = self.begin((&vm, &there), 1, BLOCK_SIZE, None).await.within("`begin`, while nothing fails")?;
        self.write(&there, &token, &block).await.within("`write`, while nothing fails")?;
        self.commit(&there, &token).await.within("`commit`, while nothing fails")?;
        let parent = Some(there.as_str()).filter(|_| can.incremental);
        let token = self.begin((&vm, &draft), 2, BLOCK_SIZE, parent).await.within("`begin`, while nothing fails")?;
        Ok(Prepared { block, vm, there, draft, token, incremental: can.incremental })
    }

    async fn call(&self, prepared: &Prepared, function: Function) -> Option<Outcome> {
        let Prepared { block, vm, there, draft, token, incremental } = prepared;
        let (id, token, point, disk, offset, len) = (draft.clone(), token.clone(), there.clone(), 0, 0, BLOCK_SIZE);
        let call = match function {
            Write => return Some(self.write(draft, &token, block).await.map(|()| None)),
            Commit => return Some(self.commit(draft, &token).await.map(|()| None)),
            Abort => return Some(self.abort(draft, &token).await.map(|()| None)),
            Begin => return Some(self.begin((vm, draft), 2, BLOCK_SIZE, None).await.map(|_| None)),
            Read => return Some(self.read(there, len).await.map(|_| None)),
            Unchanged if !incremental => return None,
            Unchanged => VolumeCall::Unchanged { id, token, disk, offset, len },
            Zero => VolumeCall::Zero { id, token, disk, offset, len },
            List => VolumeCall::List { vm: Some(vm.as_str().into()), token: None },
            Extents => VolumeCall::Extents { point, disk, offset, len },
            // One that is not there.
            Delete => VolumeCall::Delete { point: format!("{there}-not") },
            _ => return None,
        };
        Some(self.ask(call, &Bytes::new(), 0).await.map(|_| None))
    }

    async fn is_well(&self, prepared: &Prepared) -> Result<(), String> {
        let read = self.read(&prepared.there, BLOCK_SIZE).await.within("`read`")?;
        ensure(read == prepared.block, "`read`: other bytes are there than were stored")
    }
}

impl Array {
    fn there(&self) -> String {
        format!("{}-there", self.prefix)
    }

    fn draft(&self) -> String {
        format!("{}-draft", self.prefix)
    }

    async fn write(&self, id: &str, token: &str, data: &Bytes) -> Result<(), Failed> {
        let (id, token, len) = (id.into(), token.into(), data.len() as u64);
        self.ask(VolumeCall::Write { id, token, disk: 0, offset: 0, len }, data, 0).await.map(drop)
    }

    async fn read(&self, point: &str, len: u64) -> Result<Vec<u8>, Failed> {
        let call = VolumeCall::Read { point: point.into(), disk: 0, offset: 0, len };
        Ok(self.ask(call, &Bytes::new(), len).await?.1)
    }

    /// Removes what the trials stored, as far as the mover can.
    pub(in super::super) async fn clean_up(&self) {
        self.remove(None).await;
        // What was never committed is in no list: begun anew, it can be given up.
        let (vm, draft) = (self.vm("faults"), self.draft());
        if let Ok(token) = self.begin((&vm, &draft), 2, BLOCK_SIZE, None).await {
            self.abort(&draft, &token).await.ok();
        }
    }
}

/// Requests of a run at which something happens, at most.
const PLACES: usize = 60;

/// What a server may do in the middle of a run, and all after it. None of them says what is not so.
const FAULTS: [Fault; 8] = [
    Fault::Break,
    Fault::Swallow,
    Fault::Truncate,
    Fault::Status(401, None),
    Fault::Status(403, None),
    Fault::Status(409, None),
    Fault::Status(429, None),
    Fault::Status(500, None),
];

/// A block, and one of zeros.
fn small(subject: &Subject) -> Disks {
    let mut disk = subject.bytes("small", 2 * BLOCK_SIZE as usize).to_vec();
    disk[BLOCK_SIZE as usize..].fill(0);
    vec![disk]
}

/// The requests of a run at which something is to happen.
async fn places(subject: &Subject, array: &Array, vm: &VmName) -> Result<Vec<usize>, String> {
    let before = subject.injector.seen();
    array.run(vm, None, None, &small(subject)).await.within("making a point, while nothing fails")?;
    let requests = subject.injector.seen() - before;
    array.remove(Some(vm)).await;
    Ok((0..requests).step_by(requests.div_ceil(PLACES).max(1)).collect())
}

/// The server does what it is asked, and once nobody learns of it: the host asks again.
pub(super) async fn lost(subject: &Subject, array: &Array, vm: &VmName) -> Result<(), String> {
    let disks = small(subject);
    for place in places(subject, array, vm).await? {
        let at = format!("the answer to request {place} of a run is lost");
        let before = subject.injector.seen();
        let made = {
            let _faulty = Faulty::once(&subject.injector, Fault::Swallow, place);
            array.run(vm, None, None, &disks).await
        };
        ensure(subject.injector.seen() - before > place, format!("{at}: the run makes fewer requests"))?;
        let point = made.within(&at)?;
        has(array, vm, &[&point], &disks).await.map_err(|why| format!("{at}: {why}"))?;
        array.remove(Some(vm)).await;
    }
    Ok(())
}

/// The server fails in the middle of a run, and until that gives up: what is listed then is whole, and the next run goes well.
pub(super) async fn outage(subject: &Subject, array: &Array, vm: &VmName) -> Result<(), String> {
    let once = Patience { retries: 0, give_up: DEADLINE };
    let impatient = Array::with(subject, DEADLINE, once).within("starting another process")?;
    let disks = small(subject);
    for (place, fault) in places(subject, array, vm).await?.into_iter().zip(FAULTS.into_iter().cycle()) {
        let at = |why: String| format!("{fault:?} from request {place} of a run on: {why}");
        ready(impatient.component());
        let made = {
            let _faulty = Faulty::after(&subject.injector, fault, place);
            impatient.run(vm, None, None, &disks).await
        };
        let listed = array.listed(vm).await.map_err(at)?;
        listed_is_what_was_told(&made, &listed).map_err(at)?;
        if let Some(point) = listed.last() {
            array.is(point, &disks).await.map_err(at)?;
        }
        let next = array.run(vm, listed.last(), None, &disks).await.within("the next run").map_err(at)?;
        let points: Vec<_> = listed.iter().chain([&next]).collect();
        has(array, vm, &points, &disks).await.map_err(at)?;
        array.remove(Some(vm)).await;
    }
    Ok(())
}

/// A run that failed may have made its point, and says why it failed; one that went well has made it.
fn listed_is_what_was_told(made: &remora_core::Result<PointId>, listed: &[PointId]) -> Result<(), String> {
    match made {
        Ok(point) => {
            ensure(listed == std::slice::from_ref(point), format!("it made {point}, and {listed:?} are listed"))
        }
        Err(error) if error.kind() == ErrorKind::Damaged => Err(format!("the mover lies: {}", error.chain())),
        Err(_) => ensure(listed.len() <= 1, format!("it failed, and {listed:?} are listed")),
    }
}
