//! When the next backup of a VM is due.

use async_trait::async_trait;
use bumpalo::Bump;
use jiff::Timestamp;
use remora_core::policy::{Due, PastRun, Question, Schedule};
use remora_core::{Error, ErrorKind, Result};

use super::{BATCH, off_thread, policy, reason, same_length, translate};
use crate::host::schedule::exports::remora::policy::schedule::{Answer, Request, Run};
use crate::host::{Reuse, Scheduling};

/// So many runs are told of.
const RUNS: usize = 32;

policy! {
    /// A component that schedules.
    SchedulePolicy, Scheduling, super::DEADLINE
}

impl SchedulePolicy {
    fn canary(&self) -> Result<()> {
        let at = Timestamp::from_second(1_767_225_600).expect("it is a time of 2026");
        let question = Question { vm: translate::nobody(), now: at, after: at, seed: 0, runs: Vec::new() };
        self.ask(Reuse::Never, &[question]).map(|_| ())
    }

    pub(super) fn ask(&self, reuse: Reuse, questions: &[Question]) -> Result<Vec<Due>> {
        let arena = Bump::new();
        let requests: Vec<_> = questions.iter().map(|question| request(question, &arena)).collect();
        let answers = self.0.call(reuse, self.0.deadline(), "`next`", |world, store| {
            world.remora_policy_schedule().call_next(store, &requests)
        })?;
        same_length(requests.len(), answers.len())?;
        answers.into_iter().map(due).collect()
    }
}

#[async_trait]
impl Schedule for SchedulePolicy {
    async fn next(&self, questions: &[Question]) -> Result<Vec<Due>> {
        let mut all = Vec::with_capacity(questions.len());
        for batch in questions.chunks(BATCH) {
            let (policy, batch) = (self.clone(), batch.to_vec());
            all.extend(off_thread(self.0.deadline(), move || policy.ask(Reuse::Never, &batch)).await?);
        }
        Ok(all)
    }
}

fn request<'a>(question: &'a Question, arena: &'a Bump) -> Request<'a> {
    let runs = &question.runs[..question.runs.len().min(RUNS)];
    Request {
        vm: translate::schedule::vm(&question.vm, arena),
        now: translate::seconds(question.now),
        after: translate::seconds(question.after),
        seed: question.seed,
        runs: arena.alloc_slice_fill_iter(runs.iter().map(run)),
        details: &[],
    }
}

fn run(past: &PastRun) -> Run {
    Run { time: translate::seconds(past.time), changed: past.changed, size: past.size, seconds: past.seconds }
}

fn due(answer: Answer) -> Result<Due> {
    let time = |seconds| {
        Timestamp::from_second(seconds)
            .map_err(|e| Error::new(ErrorKind::Failed, format!("it answered with the time {seconds}")).because(e))
    };
    Ok(Due { start: answer.start.map(time).transpose()?, reason: reason(answer.reason) })
}
