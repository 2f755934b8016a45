//! One schedule: from a seed, who is at work, and in which order the store does what it is asked, and tells so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::actors::{Process, Role, Shared, World};
use super::model::{Checked, Model};
use super::store::{Answer, Objects, Request, Sent, SimStore, State, lost};
use crate::Vault;
use crate::collect::Mode;
use crate::store::Store;
use crate::testing::over_store;

/// More steps than any schedule needs.
const STEPS: usize = 20_000;

/// How a schedule is dealt.
struct Deal {
    roles: Vec<(Role, usize)>,
    /// In percent of the steps: something goes wrong on the way; the time goes on; an actor falls asleep.
    faults: u8,
    leaps: u8,
    naps: u8,
    /// The step at which an actor's process is killed.
    kill: Option<usize>,
}

struct Actor {
    role: Role,
    running: JoinHandle<()>,
    /// The step until which it sleeps.
    asleep: usize,
}

pub(super) struct Schedule {
    world: World,
    store: SimStore,
    /// The repository past the schedule, for the model.
    vault: Vault,
    deal: Deal,
    actors: Vec<Actor>,
    random: fastrand::Rng,
    step: usize,
    /// What happened, if somebody wants to know.
    trace: Option<Mutex<Vec<String>>>,
}

impl Deal {
    fn of(random: &mut fastrand::Rng) -> Self {
        let mut roles = vec![(Role::Writer(0), random.usize(1..4)), (Role::Collector, random.usize(1..4))];
        let mut sometimes = |percent: u8, role, rounds: usize| {
            if random.u8(0..100) < percent {
                roles.push((role, random.usize(1..=rounds)));
            }
        };
        sometimes(60, Role::Writer(0), 2);
        sometimes(25, Role::Writer(1), 2);
        sometimes(50, Role::Collector, 2);
        sometimes(60, Role::Pruner, 2);
        sometimes(15, Role::Dropper, 1);
        sometimes(40, Role::Reader, 2);
        sometimes(20, Role::Verifier, 1);
        sometimes(20, Role::Holder, 2);
        sometimes(10, Role::Breaker, 1);
        let faults = [0, 5, 20][random.usize(0..3)];
        let (leaps, naps) = (random.u8(0..5), random.u8(0..6));
        let kill = (random.u8(0..4) == 0).then(|| random.usize(0..200));
        Self { roles, faults, leaps, naps, kill }
    }
}

impl Schedule {
    /// A schedule for an empty store, under the keys of `vault`.
    pub(super) fn new(seed: u64, vault: &Vault, traced: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let deal = Deal::of(&mut random);
        let objects = Objects { now: Duration::ZERO, map: std::collections::BTreeMap::new() };
        let page = if random.bool() { 2 } else { 1000 };
        let state = State { objects, sent: Vec::new(), numbers: 0, page };
        let store = SimStore { state: Arc::new(Mutex::new(state)), actor: None };
        let may_drop_newest = deal.roles.iter().any(|(role, _)| *role == Role::Dropper);
        let model = Model::new(may_drop_newest);
        let guests = vec![[1, 2, 3, 1], [2, 0, 1, 1]];
        let shared = Shared { random: random.fork(), model, guests, wrong: Vec::new() };
        Self {
            world: World(Arc::new(Mutex::new(shared))),
            vault: over_store(vault, at(&store)),
            store,
            deal,
            actors: Vec::new(),
            random,
            step: 0,
            trace: traced.then(Mutex::default),
        }
    }

    pub(super) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().and_then(|trace| trace.into_inner().ok()).unwrap_or_default()
    }

    /// Runs it to its end; an error is what it found.
    pub(super) async fn run(&mut self) -> Checked {
        for (role, rounds) in std::mem::take(&mut self.deal.roles) {
            self.spawn(role, rounds);
        }
        loop {
            self.until_all_wait().await;
            self.step += 1;
            if let Some(wrong) = self.world.lock().wrong.first() {
                return Err(wrong.clone());
            }
            if self.store.lock().sent.is_empty() && self.actors.iter().all(|actor| actor.running.is_finished()) {
                break;
            }
            if self.step > STEPS {
                return Err(format!("it has not come to an end after {STEPS} steps"));
            }
            self.one_step().await?;
        }
        for actor in self.actors.drain(..) {
            if let Err(error) = actor.running.await
                && error.is_panic()
            {
                return Err(format!("{:?} panicked: {error}", actor.role));
            }
        }
        self.end().await
    }

    fn spawn(&mut self, role: Role, rounds: usize) {
        let store = SimStore { actor: Some(self.actors.len()), ..self.store.clone() };
        let process = Process { world: self.world.clone(), vault: over_store(&self.vault, at(&store)), store };
        self.note(|| format!("{} begins: {role:?}, {rounds} rounds", self.actors.len()));
        let running = tokio::spawn(process.run(role, rounds));
        self.actors.push(Actor { role, running, asleep: 0 });
    }

    /// The runtime's time stands still while anybody has work: a millisecond passes once nobody has.
    async fn until_all_wait(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn one_step(&mut self) -> Checked {
        if self.deal.kill == Some(self.step) {
            self.kill();
        }
        if self.chance(self.deal.naps) {
            let (sleeper, steps) = (self.random.usize(0..self.actors.len()), self.random.usize(5..150));
            self.actors[sleeper].asleep = self.step + steps;
            self.note(|| format!("{sleeper} sleeps for {steps} steps"));
        }
        if self.chance(self.deal.leaps) {
            let hours = [1, 12, 25, 73][self.random.usize(0..4)];
            self.leap(Duration::from_hours(hours)).await;
        }
        let awake = |sent: &Sent| self.actors[sent.actor].asleep <= self.step;
        let ready: Vec<usize> = {
            let state = self.store.lock();
            state.sent.iter().enumerate().filter(|(_, sent)| awake(sent)).map(|(n, _)| n).collect()
        };
        if ready.is_empty() {
            self.actors.iter_mut().for_each(|actor| actor.asleep = 0);
            return Ok(());
        }
        let sent = self.store.lock().sent.remove(ready[self.random.usize(0..ready.len())]);
        self.let_go(sent).await
    }

    fn chance(&mut self, percent: u8) -> bool {
        self.random.u8(0..100) < percent
    }

    fn kill(&mut self) {
        let victim = self.random.usize(0..self.actors.len());
        self.note(|| format!("{victim} is killed"));
        self.actors[victim].running.abort();
        let role = self.actors[victim].role;
        self.spawn(role, 1);
    }

    /// Time goes on, here and in the store.
    async fn leap(&mut self, time: Duration) {
        self.note(|| format!("{} hours pass", time.as_secs() / 3600));
        self.store.lock().objects.now += time;
        tokio::time::sleep(time).await;
    }

    /// A request gets on: to the store, or its answer to who asked.
    async fn let_go(&mut self, mut sent: Sent) -> Checked {
        if let Some(done) = sent.done.take() {
            self.note(|| format!("{} is told of {}: {}", sent.actor, sent.number, outcome(&done)));
            sent.tell(done);
            return Ok(());
        }
        if !self.chance(self.deal.faults) {
            let done = self.apply(&sent).await?;
            sent.tell(done);
            return Ok(());
        }
        match self.random.u8(0..6) {
            // The answer takes its time.
            0 | 1 => {
                sent.done = Some(self.apply(&sent).await?);
                self.store.lock().sent.push(sent);
            }
            // The answer is lost.
            2 => {
                let _ = self.apply(&sent).await?;
                sent.tell(Err(lost()));
            }
            // The request is lost, or comes when nobody waits any more.
            3 => {
                self.note(|| format!("{} hears nothing of {}", sent.actor, sent.number));
                self.may_come_late(&sent);
                sent.tell(Err(lost()));
            }
            // The store's client repeats it, for the first answer was lost.
            4 => {
                let _ = self.apply(&sent).await?;
                let done = self.apply(&sent).await?;
                sent.tell(done);
            }
            // The store's client repeated it, and the first one is still on its way.
            _ => {
                let done = self.apply(&sent).await?;
                self.may_come_late(&sent);
                sent.tell(done);
            }
        }
        Ok(())
    }

    fn may_come_late(&mut self, sent: &Sent) {
        if sent.request.changes() && self.random.bool() {
            let Sent { number, actor, ref request, .. } = *sent;
            self.store.lock().sent.push(Sent { number, actor, request: request.clone(), done: None, asker: None });
        }
    }

    async fn apply(&mut self, sent: &Sent) -> Result<object_store::Result<Answer>, String> {
        let (done, now) = {
            let mut state = self.store.lock();
            (state.objects.apply(&sent.request), state.objects.now)
        };
        self.note(|| format!("{} does {}: {} → {}", sent.actor, sent.number, told(&sent.request), outcome(&done)));
        if done.is_ok() && sent.request.changes() {
            let mut model = std::mem::take(&mut self.world.lock().model);
            let checked = model.changed(&self.vault, &sent.request, now).await;
            self.world.lock().model = model;
            checked.map_err(|wrong| format!("after {}: {wrong}", told(&sent.request)))?;
        }
        Ok(done)
    }

    /// What must hold when all is done, and that collections then leave nothing that is not needed.
    async fn end(&mut self) -> Checked {
        let model = self.world.lock().model.clone();
        model.all_restores(&self.vault).await.map_err(|wrong| format!("at the end: {wrong}"))?;
        for _ in 0..3 {
            self.store.lock().objects.now += Duration::from_hours(100);
            let (collected, failed) = self.vault.collect(None, Mode::Run, &[]).await.map_err(|e| e.chain())?;
            if let Some(error) = failed.first() {
                return Err(format!("a collection at the end: {}", error.chain()));
            }
            if let Some(missing) = collected.iter().find(|collected| !collected.missing.is_empty()) {
                return Err(format!("a collection at the end misses {:?}", missing.missing));
            }
        }
        model.all_restores(&self.vault).await.map_err(|wrong| format!("after collections at the end: {wrong}"))?;
        let there: Vec<_> = self.store.lock().objects.map.keys().cloned().collect();
        model.nothing_leaks(&there)
    }

    fn note(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            trace.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{:4} {}", self.step, line()));
        }
    }
}

fn told(request: &Request) -> String {
    match request {
        Request::Create(path, _) => format!("create {path}"),
        Request::Replace(path, _) => format!("replace {path}"),
        Request::Delete(path) => format!("remove {path}"),
        Request::Get(path, _) | Request::Ranges(path, _) => format!("read {path}"),
        Request::List(folder, after, _) => format!("list {folder} after {after:?}"),
    }
}

fn outcome(done: &object_store::Result<Answer>) -> String {
    match done {
        Ok(Answer::Page(found)) => format!("{} names", found.len()),
        Ok(_) => "done".into(),
        Err(object_store::Error::NotFound { .. }) => "it is not there".into(),
        Err(object_store::Error::AlreadyExists { .. }) => "it is there already".into(),
        Err(error) => error.to_string(),
    }
}

fn at(store: &SimStore) -> Store {
    Store::over(Arc::new(store.clone()))
}
