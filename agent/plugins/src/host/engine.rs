//! The one engine, its clock, and what it has compiled.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use remora_core::{Error, ErrorKind, Result};
use wasmtime::{Config, Engine, OptLevel, PoolingAllocationConfig, StoreLimits, StoreLimitsBuilder};

use super::aside::Aside;
use super::cache::Cache;
use super::compile::{CompileLimits, Compiler};
use super::module::{self, Digest, Module, ModuleBytes};
use crate::registry::{Registries, Wants};
use crate::{reference, state};

/// The engine's clock ticks so often; of a call that has had its time the host knows at most two ticks later.
const TICK: Duration = Duration::from_millis(10);

/// What all that a component hands to the host in one call may take there.
pub(crate) const HANDED_OVER: usize = 8 << 20;

/// Handles of resources that an instance may have at once, of its own ones too: the host keeps a table of them.
pub(crate) const HANDLES: usize = 1_000;

/// More instances than this at once are refused. Each has 4 GiB of address space, and memory only for what it touches.
const INSTANCES: u32 = 1_000;

/// The largest memory that any component gets; what a policy gets is less, see `instance.rs`.
const LARGEST_MEMORY: usize = 256 << 20;

/// Nesting deeper than this traps.
const WASM_STACK: usize = 512 << 10;

/// A component's file may be at most so large: an interpreter with a program in it has some 20 MiB.
pub(crate) const LARGEST_COMPONENT: usize = 64 << 20;

/// A component that is larger is not even tried to be compiled while others wait: one of Rust has some 100 kB.
const COMPILED_AT_ONCE: usize = 512 << 10;

/// Where a host may put its files, and where it has modules from.
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
    /// The state folder, where compiled code is kept in a private folder, made with mode 0700; nothing is kept if none.
    pub state: Option<PathBuf>,
    /// How modules of registries are had, and who must have signed modules.
    pub registries: Registries,
    /// The program that compiles components, `remora-plugin-host`; else the one beside this program.
    pub compiler: Option<PathBuf>,
    /// What compiling one may take.
    pub limits: CompileLimits,
}

/// Runs components. There is one in a process; it is cheap to clone.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    engine: Engine,
    cache: Option<Cache>,
    compiler: Compiler,
    aside: Aside,
    registries: Registries,
    /// What somebody still uses is compiled once.
    modules: Mutex<HashMap<Digest, Weak<Module>>>,
}

impl Host {
    /// An engine with a clock of its own, a thread that ends with it.
    pub fn new(options: &HostOptions) -> Result<Self> {
        let failed = |error: wasmtime::Error| {
            Error::new(ErrorKind::Failed, "starting the WebAssembly engine").because(format!("{error:#}"))
        };
        let engine = Engine::new(&config()).map_err(failed)?;
        start_clock(&engine).map_err(|e| Error::io("starting the clock of the WebAssembly engine", e))?;
        let cache = options.state.as_deref().map(|state| Cache::open(&state::compiled(state), &engine)).transpose()?;
        let compiler = Compiler::new(options.compiler.clone(), options.limits);
        let registries = options.registries.clone();
        let (aside, modules) = (Aside::default(), Mutex::default());
        Ok(Self(Arc::new(Inner { engine, cache, compiler, aside, registries, modules })))
    }

    /// The engine.
    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Where modules are had from.
    pub fn registries(&self) -> &Registries {
        &self.0.registries
    }

    /// Checks and compiles a component, or takes what is compiled of it already. Takes the time that compiling takes.
    pub(crate) fn module(&self, component: &ModuleBytes<'_>) -> Result<Arc<Module>> {
        self.compiled_before(component)?.map_or_else(|| self.compiled_now(component), Ok)
    }

    /// Likewise; but one that is not compiled yet and takes long is left to [`Self::compile_wanted`], and cannot be had before.
    pub(crate) fn module_at_hand(&self, component: ModuleBytes<'static>) -> Result<Arc<Module>> {
        if self.0.aside.knows(&component.digest) {
            return self.0.aside.want(component);
        }
        if let Some(module) = self.compiled_before(&component)? {
            return Ok(module);
        }
        if reference::is_builtin(&component.digest) {
            return self.compiled_now(&component);
        }
        match self.compiled_at_once(&component)? {
            Some(module) => Ok(module),
            None => self.0.aside.want(component),
        }
    }

    /// All policies are about to be looked at.
    pub(crate) fn begin(&self) {
        self.0.aside.begin();
    }

    /// Whether a component waits to be compiled: one that was never tried, or also one that failed for the machine's sake.
    pub fn wants_compiling(&self, what: Wants) -> bool {
        self.0.aside.wants(what)
    }

    /// Compiles the component whose turn it is, if there is one; then all policies should be looked at again. Takes the time
    /// that compiling takes.
    pub fn compile_wanted(&self) {
        if let Some(component) = self.0.aside.take() {
            self.0.aside.done(&component.digest, self.module(&component));
        }
    }

    fn compiled_before(&self, component: &ModuleBytes<'_>) -> Result<Option<Arc<Module>>> {
        if let Some(known) = self.known(&component.digest) {
            return Ok(Some(known));
        }
        let kept = Module::kept(&self.0.engine, self.0.cache.as_ref(), component)?;
        Ok(kept.map(|module| self.noted(module)))
    }

    fn compiled_now(&self, component: &ModuleBytes<'_>) -> Result<Arc<Module>> {
        let code = module::code(&self.0.engine, &self.0.compiler, component)?;
        self.made(component, &code)
    }

    /// None if it is large, or takes long though it is not.
    fn compiled_at_once(&self, component: &ModuleBytes<'_>) -> Result<Option<Arc<Module>>> {
        if component.bytes.len() > COMPILED_AT_ONCE {
            return Ok(None);
        }
        let code = self.0.compiler.compile_at_once(component)?;
        code.map(|code| self.made(component, &code)).transpose()
    }

    fn made(&self, component: &ModuleBytes<'_>, code: &[u8]) -> Result<Arc<Module>> {
        Ok(self.noted(Module::of_code(&self.0.engine, self.0.cache.as_ref(), component, code)?))
    }

    fn noted(&self, module: Module) -> Arc<Module> {
        let module = Arc::new(module);
        let mut modules = self.0.modules.lock().unwrap_or_else(PoisonError::into_inner);
        modules.retain(|_, module| module.strong_count() > 0);
        modules.insert(module.digest(), Arc::downgrade(&module));
        module
    }

    /// Removes compiled code that nobody has used for a month.
    pub fn tidy(&self) {
        let modules = self.0.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let used: Vec<_> = modules.iter().filter(|(_, module)| module.strong_count() > 0).map(|(of, _)| *of).collect();
        drop(modules);
        if let Some(cache) = &self.0.cache {
            cache.tidy(&used);
        }
    }

    fn known(&self, digest: &Digest) -> Option<Arc<Module>> {
        self.0.modules.lock().unwrap_or_else(PoisonError::into_inner).get(digest)?.upgrade()
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Host")
    }
}

fn config() -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES)
        .total_core_instances(INSTANCES * 4)
        .total_memories(INSTANCES)
        .total_tables(INSTANCES * 4)
        .max_core_instances_per_component(64)
        .max_memories_per_component(1)
        .max_tables_per_component(16)
        .max_memory_size(LARGEST_MEMORY)
        .table_elements(20_000);
    let mut config = Config::new();
    sandbox(&mut config);
    config.allocation_strategy(pool);
    config
}

/// What holds for every component, wherever it runs.
pub(crate) fn sandbox(config: &mut Config) {
    config
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        // Equal arguments give equal answers, on every machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        // Only traps' places in the source would need it, and it is a third of what is kept of a module.
        .generate_address_map(false)
        // Nor does anybody walk through a component's stack.
        .native_unwind_info(false)
        // A fifth of the time that compiling takes, for a tenth of that of a decision. What made a component has optimised it.
        .cranelift_opt_level(OptLevel::None);
}

/// Starts the thread that an engine's deadlines are measured by. It ends with the engine.
pub(crate) fn start_clock(engine: &Engine) -> std::io::Result<()> {
    let clock = engine.weak();
    let tick = move || {
        while let Some(engine) = clock.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new().name("wasm-clock".into()).spawn(tick).map(drop)
}

/// What an instance may have, with a linear memory of that many bytes.
pub(crate) fn limits(memory: usize) -> StoreLimits {
    StoreLimitsBuilder::new()
        .memory_size(memory)
        .table_elements(20_000)
        .instances(64)
        .tables(16)
        .memories(1)
        .trap_on_grow_failure(true)
        .build()
}
