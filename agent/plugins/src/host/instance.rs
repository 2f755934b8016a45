//! Instances: a component with its settings, called within limits.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use remora_core::{Error, ErrorKind};
use wasmtime::{Engine, Store, StoreLimits, UpdateDeadline};

use super::engine::{HANDED_OVER, HANDLES, limits};
use super::errors::{Refused, failed_call};
use super::interface::Interface;
use super::module::{BUILD_AGAIN, Digest, Module};

/// What a policy's linear memory may grow to.
const MEMORY: usize = 64 << 20;

/// An instance is used so often, then a new one takes its place: what leaks or creeps in goes with it.
const CALLS_OF_AN_INSTANCE: u32 = 10_000;

/// So many instances wait to be used again.
const WAITING_INSTANCES: usize = 4;

/// A call that gets no processor is ended all the same after so many times its deadline.
pub(crate) const PATIENCE: u32 = 100;

/// What the host keeps beside an instance.
pub(crate) struct Guest {
    limits: StoreLimits,
    ends: Ends,
}

/// When a call has had its time. A component waits for nothing, so its time is that of the processor: what a busy machine gives to
/// others is not held against it.
#[derive(Clone, Copy, Debug)]
struct Ends {
    /// How much of a processor the call may have.
    deadline: Duration,
    /// By what the thread of the call will have had of one then. Not known before the engine's clock has ticked: asking the kernel
    /// takes a microsecond, and most calls take a few in all. What the call has had by then, a tick, it has in addition.
    processor: Option<Duration>,
    /// By the clock, whatever the machine is at.
    clock: Instant,
}

impl Ends {
    /// Those of a call that begins now.
    fn after(deadline: Duration) -> Self {
        // Little may be left of a decision's time: that is no reason to be impatient with the machine.
        let clock = Instant::now() + deadline.max(Duration::from_millis(100)) * PATIENCE;
        Self { deadline, processor: None, clock }
    }

    /// Asked in the thread of the call, at each tick of the engine's clock.
    fn have_come(&mut self) -> bool {
        let had = of_processor();
        had >= *self.processor.get_or_insert(had + self.deadline) || Instant::now() >= self.clock
    }
}

/// What this thread has had of a processor. Linux tells it always; did it not, the clock would end the call.
pub(crate) fn of_processor() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// What a component told of itself, by name.
type Facts = Vec<(String, String)>;

/// Whether a call may be made in an instance that was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// A new instance: nothing can be left of earlier calls.
    Never,
    /// Any that is ready: much quicker.
    Ready,
}

/// A component with its settings.
pub(crate) struct Configured<I: Interface> {
    engine: Engine,
    module: Arc<Module>,
    interface: &'static str,
    pre: I::Pre,
    settings: String,
    settings_hash: Digest,
    facts: Facts,
    deadline: Duration,
    ready: Mutex<Vec<Running<I>>>,
}

/// An instance that has its settings.
struct Running<I: Interface> {
    store: Store<Guest>,
    world: I::World,
    calls: u32,
}

impl<I: Interface> Configured<I> {
    /// Instantiates the component and gives it its settings.
    pub(crate) fn new(
        engine: &Engine,
        module: Arc<Module>,
        settings: String,
        deadline: Duration,
    ) -> Result<Self, Refused> {
        let Some(interface) = module.exports().get(&I::KIND).copied() else {
            let exported: Vec<_> = module.exports().values().copied().collect();
            let error =
                Error::new(ErrorKind::Invalid, format!("it does not export {}", I::KIND.exports().join(" or ")))
                    .because(format!("it exports {}", exported.join(", ")))
                    .advise(format!("Name a module that decides on {}.", I::KIND));
            return Err(error.into());
        };
        let pre = I::find(module.linked().clone(), interface);
        let pre = pre.map_err(|e| {
            Error::new(ErrorKind::Invalid, "its exports do not fit").because(format!("{e:#}")).advise(BUILD_AGAIN)
        })?;
        let settings_hash = Digest::of(settings.as_bytes());
        let ready = Mutex::default();
        let engine = engine.clone();
        let facts = Vec::new();
        let mut made = Self { engine, module, interface, pre, settings, settings_hash, facts, deadline, ready };
        // Not kept: most policies are asked in a new instance each time, and there is room for so many only.
        (_, made.facts) = made.start(deadline.max(STARTING))?;
        Ok(made)
    }

    /// The component.
    pub(crate) fn digest(&self) -> Digest {
        self.module.digest()
    }

    /// The name of the interface that is called, with its version.
    pub(crate) fn interface(&self) -> &'static str {
        self.interface
    }

    /// The settings, as JSON.
    pub(crate) fn settings(&self) -> &str {
        &self.settings
    }

    /// The digest of the settings.
    pub(crate) fn settings_hash(&self) -> Digest {
        self.settings_hash
    }

    /// What the component told of itself.
    pub(crate) fn facts(&self) -> &[(String, String)] {
        &self.facts
    }

    /// How long a call may take.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Calls it, within `time`: a new instance starts in that, too. The instance of a failed call is never used again.
    pub(crate) fn call<T>(
        &self,
        reuse: Reuse,
        time: Duration,
        doing: &str,
        work: impl FnOnce(&I::World, &mut Store<Guest>) -> wasmtime::Result<T>,
    ) -> Result<T, Error> {
        let mut running = match self.take(reuse) {
            Some(mut running) => {
                begin(&mut running.store, time);
                running
            }
            None => match self.start(time) {
                Ok((running, _)) => running,
                Err(Refused::Because(error)) => return Err(error),
                Err(Refused::Settings(_)) => {
                    return Err(Error::new(ErrorKind::Failed, "it took its settings before and does not now"));
                }
            },
        };
        let answer = work(&running.world, &mut running.store).map_err(|e| failed_call(&e, doing, time))?;
        running.calls += 1;
        if reuse == Reuse::Ready {
            self.give_back(running);
        }
        Ok(answer)
    }

    fn take(&self, reuse: Reuse) -> Option<Running<I>> {
        match reuse {
            Reuse::Never => None,
            Reuse::Ready => self.ready.lock().unwrap_or_else(PoisonError::into_inner).pop(),
        }
    }

    fn give_back(&self, running: Running<I>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if running.calls < CALLS_OF_AN_INSTANCE && ready.len() < WAITING_INSTANCES {
            ready.push(running);
        }
    }

    /// A new instance that has its settings, and what it told of itself. What is left of `time` is for what it is asked.
    fn start(&self, time: Duration) -> Result<(Running<I>, Facts), Refused> {
        let mut store = Store::new(&self.engine, Guest { limits: limits(MEMORY), ends: Ends::after(time) });
        store.limiter(|guest| &mut guest.limits);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut context| {
            let over = context.data_mut().ends.have_come();
            Ok(if over { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
        });
        store.set_hostcall_fuel(HANDED_OVER);
        store.set_max_component_handles(HANDLES);
        let failed = |error: wasmtime::Error, doing| failed_call(&error, doing, time);
        // The types of its exports are looked at here.
        let world = I::instantiate(&self.pre, &mut store).map_err(|e| failed(e, "starting it").advise(BUILD_AGAIN))?;
        let configured = I::configure(&world, &mut store, &self.settings).map_err(|e| failed(e, "`configure`"))?;
        let facts = configured.map_err(Refused::Settings)?;
        Ok((Running { store, world, calls: 0 }, facts))
    }
}

/// How long the first instance may take to start and to read its settings, though calls be shorter: nobody waits for it, and it
/// finds nothing prepared.
const STARTING: Duration = Duration::from_secs(1);

/// From now on a call has so much time. Until the engine's clock ticks, nobody looks.
fn begin(store: &mut Store<Guest>, deadline: Duration) {
    store.data_mut().ends = Ends::after(deadline);
    store.set_epoch_deadline(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_its_time_of_the_processor_and_not_of_the_clock() {
        let (deadline, before) = (Duration::from_millis(200), of_processor());
        let mut ends = Ends { clock: Instant::now() + Duration::from_hours(1), ..Ends::after(deadline) };
        assert!(!ends.have_come(), "it is asked for the first time, and the call's time is counted from there");
        while !ends.have_come() {
            std::hint::spin_loop();
        }
        assert!(of_processor() >= before + deadline);
        // Another thread has had nothing of it.
        let mut begun = ends;
        assert!(!std::thread::spawn(move || begun.have_come()).join().unwrap());
        // One that gets none ends by the clock.
        assert!(Ends { clock: Instant::now(), ..Ends::after(deadline) }.have_come());
    }
}
