//! The state of the one simulated device, behind one lock.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    fmt::Display,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    process,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use ptxsim::{
    Loaded, Memory,
    exec::{
        fail::Fail,
        report::{Leak, ProgramReport},
        settings::Settings,
        usage::RegisterCounts,
    },
};

use crate::{
    capture::{Capture, Mark},
    handles::{Handle, Registry},
    queue::{Item, Ticket},
    status::Status,
    work::Work,
};

/// The version this driver poses as: CUDA 12.8.
pub const VERSION: i32 = 12_080;
/// The version with `--fail old-driver`: CUDA 11.4, whose JIT takes PTX up to 7.4.
pub const OLD_VERSION: i32 = 11_040;

/// Everything the driver keeps.
pub struct Driver {
    pub settings: Settings,
    pub memory: Memory,
    pub contexts: Registry<()>,
    /// The primary context while it is retained, and how often it is.
    pub primary: Option<(Handle, u32)>,
    pub modules: Registry<LoadedModule>,
    pub functions: Registry<Function>,
    pub streams: Registry<Stream>,
    pub events: Registry<Event>,
    pub captures: Registry<Capture>,
    pub graphs: Registry<Graph>,
    pub executables: Registry<Arc<[Work]>>,
    pub pools: Registry<Pool>,
    /// The pool that asynchronous allocations come from.
    pub current_pool: Handle,
    /// Pinned host memory by address.
    pub pinned: BTreeMap<usize, Pinned>,
    /// Limits set by `cuCtxSetLimit`.
    pub limits: BTreeMap<u32, usize>,
    /// Launches so far by kernel name.
    pub launches: BTreeMap<String, u64>,
    /// What has gone wrong on the device and no call has told yet.
    pub pending_error: Option<Status>,
    /// What every call answers after that has been told.
    pub sticky: Option<Status>,
    /// Whether a profiler's capture window is open.
    pub profiling: bool,
    pub report: ProgramReport,
}

/// A module with what ptxas said about its kernels.
pub struct LoadedModule {
    pub loaded: Loaded,
    pub registers: RegisterCounts,
}

/// A kernel's handle.
#[derive(Debug)]
pub struct Function {
    pub module: Handle,
    pub name: String,
    /// Registers per thread from ptxas, if known.
    pub registers: Option<u32>,
    /// Dynamic shared memory that a launch may ask for, bytes.
    pub max_dynamic_shared: u32,
}

/// A stream.
#[derive(Debug)]
pub struct Stream {
    pub kind: StreamKind,
    /// `CU_STREAM_NON_BLOCKING` or nothing.
    pub flags: u32,
    pub priority: i32,
    /// What it has still to do.
    pub queue: VecDeque<Item>,
    /// How many items it has done.
    pub done: u64,
}

/// Where a stream comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// The default stream that waits for all blocking ones, and they for it.
    Legacy,
    /// The default stream of each thread; here one for all.
    PerThread,
    /// Made by the program.
    Created,
}

impl Stream {
    /// The handles of the default streams.
    const BUILT_IN: [(Handle, StreamKind); 2] = [
        (Handle::NULL, StreamKind::Legacy),
        (Handle::number(2), StreamKind::PerThread),
    ];

    /// A stream that the program made.
    pub fn created(flags: u32, priority: i32) -> Self {
        Self::new(StreamKind::Created, flags, priority)
    }

    fn new(kind: StreamKind, flags: u32, priority: i32) -> Self {
        Self {
            kind,
            flags,
            priority,
            queue: VecDeque::new(),
            done: 0,
        }
    }

    /// Whether the legacy stream waits for this one (no `CU_STREAM_NON_BLOCKING`).
    pub fn is_blocking(&self) -> bool {
        self.kind != StreamKind::Legacy && self.flags & 1 == 0
    }
}

/// An event.
#[derive(Debug, Default)]
pub struct Event {
    pub timing: bool,
    /// Where it was last recorded outside of captures, and, when the stream has got there, the time.
    pub ticket: Option<Ticket>,
    pub recorded: Option<Instant>,
    /// Where in a capture it was last recorded, while that lasts.
    pub mark: Option<Mark>,
}

/// A graph: nodes in an order their dependencies allow.
#[derive(Debug)]
pub struct Graph {
    pub nodes: Arc<[Work]>,
    /// The nodes' own handles, made when asked for.
    pub node_handles: Vec<Handle>,
}

/// A memory pool. Pools differ in their settings only; all memory is the device's.
#[derive(Debug, Default)]
pub struct Pool {
    /// The attributes that can be set, by number.
    pub attributes: BTreeMap<u32, u64>,
}

/// Pinned host memory.
#[derive(Debug)]
pub struct Pinned {
    pub bytes: usize,
    pub flags: u32,
    /// Whether it was registered by its owner and not allocated here.
    pub registered: bool,
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

thread_local! {
    /// The contexts pushed on this thread; the last is current.
    static CONTEXTS: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

fn lock() -> MutexGuard<'static, Option<Driver>> {
    // A call that panicked has told so and left the state as consistent as an error would.
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Turns a result into what C gets; a panic becomes an unknown error after its message has been printed.
fn guard(call: impl FnOnce() -> Result<(), Status>) -> Status {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => Status::Success,
        Ok(Err(status)) => status,
        Err(_) => Status::Unknown,
    }
}

/// Runs a call that needs no initialisation.
pub fn always(call: impl FnOnce() -> Result<(), Status>) -> Status {
    guard(call)
}

/// Runs a call that needs `cuInit` and no context.
pub fn initialised(call: impl FnOnce(&mut Driver) -> Result<(), Status>) -> Status {
    guard(|| call(lock().as_mut().ok_or(Status::NotInitialized)?))
}

/// Runs a call that needs a current context; answers the error that has broken it, if one has.
pub fn in_context(call: impl FnOnce(&mut Driver) -> Result<(), Status>) -> Status {
    initialised(|driver| {
        let context = current_context();
        if context.is_null() {
            return Err(Status::InvalidContext);
        }
        if driver.contexts.get(context).is_err() {
            return Err(Status::ContextIsDestroyed);
        }
        match driver.sticky {
            Some(status) => Err(status),
            None => call(driver),
        }
    })
}

/// The context current to this thread, or null.
pub fn current_context() -> Handle {
    CONTEXTS.with_borrow(|contexts| contexts.last().copied().unwrap_or(Handle::NULL))
}

/// Replaces the top of this thread's contexts; null pops it.
pub fn set_current_context(context: Handle) {
    CONTEXTS.with_borrow_mut(|contexts| {
        contexts.pop();
        if !context.is_null() {
            contexts.push(context);
        }
    });
}

/// Pushes a context on this thread.
pub fn push_context(context: Handle) {
    CONTEXTS.with_borrow_mut(|contexts| contexts.push(context));
}

/// Pops this thread's current context.
pub fn pop_context() -> Option<Handle> {
    CONTEXTS.with_borrow_mut(Vec::pop)
}

/// `cuInit`.
pub fn initialise() -> Status {
    guard(|| {
        let mut state = lock();
        if state.is_some() {
            return Ok(());
        }
        let settings = Settings::from_environment().map_err(|error| {
            eprintln!("ptxsim: {error}");
            Status::InvalidValue
        })?;
        if settings.fail.contains(&Fail::NoDevice) {
            return Err(Status::NoDevice);
        }
        *state = Some(Driver::new(settings));
        // SAFETY: the handler is a function of this library, which is not unloaded before the process ends: nothing
        // that has called cuInit closes libcuda.
        unsafe { libc::atexit(at_exit) };
        Ok(())
    })
}

extern "C" fn at_exit() {
    // A call on another thread may hold the lock for ever now; then what was written before has to do.
    if let Ok(mut state) = DRIVER.try_lock()
        && let Some(driver) = state.as_mut()
    {
        let queued = driver
            .streams
            .iter()
            .map(|(_, stream)| stream.queue.len())
            .sum::<usize>();
        if queued > 0 {
            driver.report.add_note(format!(
                "{queued} items were queued at the end that nothing had waited for"
            ));
        }
        driver.collect_leaks();
        driver.write_report();
    }
}

impl Driver {
    /// A device as `cuInit` leaves it.
    pub fn new(settings: Settings) -> Self {
        let limit = settings.fail.iter().find_map(|fail| match fail {
            Fail::OutOfMemoryBytes(bytes) => Some(*bytes),
            _ => None,
        });
        let mut streams = Registry::new(4);
        for (handle, kind) in Stream::BUILT_IN {
            streams.put(handle, Stream::new(kind, 0, 0));
        }
        let mut pools = Registry::new(9);
        let current_pool = pools.add(Pool::default());
        Self {
            memory: Memory::new(limit.unwrap_or(settings.chip.memory_bytes)),
            contexts: Registry::new(1),
            primary: None,
            modules: Registry::new(2),
            functions: Registry::new(3),
            streams,
            events: Registry::new(5),
            captures: Registry::new(6),
            graphs: Registry::new(7),
            executables: Registry::new(8),
            pools,
            current_pool,
            pinned: BTreeMap::new(),
            limits: BTreeMap::new(),
            launches: BTreeMap::new(),
            pending_error: None,
            sticky: None,
            profiling: false,
            report: ProgramReport::new(settings.chip.clone(), settings.shuffle),
            settings,
        }
    }

    /// The driver's version.
    pub fn version(&self) -> i32 {
        match self.settings.fail.contains(&Fail::OldDriver) {
            true => OLD_VERSION,
            false => VERSION,
        }
    }

    /// Notes a refused call in the report and gives the status back.
    pub fn refuse(&mut self, call: &str, why: impl Display, status: Status) -> Status {
        if self
            .report
            .add_note(format!("{call}: {}: {why}", status.name()))
        {
            self.write_report();
        }
        status
    }

    /// A call the stand-in has not got.
    pub fn unsupported(&mut self, call: &str) -> Status {
        self.refuse(call, "the stand-in cannot do this", Status::NotSupported)
    }

    /// A synchronising call: tells what went wrong on the device, once and then for ever.
    pub fn surface_errors(&mut self) -> Result<(), Status> {
        match self.pending_error {
            None => Ok(()),
            Some(status) => {
                self.sticky = Some(status);
                Err(status)
            }
        }
    }

    /// Allocates device memory for a call.
    pub fn allocate(&mut self, bytes: usize, call: &str) -> Result<u64, Status> {
        if bytes == 0 {
            return Err(Status::InvalidValue);
        }
        self.report.allocations += 1;
        let number = self.report.allocations;
        if self.settings.fail.contains(&Fail::OutOfMemoryAt(number)) {
            let what = format!("{call} of {bytes} bytes, allocation {number}");
            return Err(self.refuse(&what, "asked for by --fail", Status::OutOfMemory));
        }
        let label = format!("allocation {number} ({bytes} bytes, {call})");
        let address = self.memory.alloc(bytes as u64, &label);
        let address = address.map_err(|error| self.refuse(call, error, Status::OutOfMemory))?;
        self.report.peak_bytes = self.report.peak_bytes.max(self.memory.used());
        Ok(address)
    }

    /// Frees device memory.
    pub fn free(&mut self, address: u64, call: &str) -> Result<(), Status> {
        if address == 0 {
            return Ok(());
        }
        let freed = self.memory.free(address);
        freed.map_err(|error| self.refuse(call, error, Status::InvalidValue))
    }

    /// Unloads a module; its functions go with it.
    pub fn unload(&mut self, handle: Handle) -> Result<(), Status> {
        let module = self.modules.remove(handle)?;
        self.functions.retain(|function| function.module != handle);
        let unloaded = module.loaded.unload(&self.memory);
        unloaded.map_err(|error| self.refuse("cuModuleUnload", error, Status::InvalidValue))
    }

    /// What the end of the last context destroys: modules and their variables, and memory nobody freed.
    pub fn collect_leaks(&mut self) {
        self.functions.retain(|_| false);
        let modules: Vec<LoadedModule> = self.modules.drain().collect();
        for module in modules {
            if let Err(error) = module.loaded.unload(&self.memory) {
                self.report
                    .add_note(format!("unloading a module at the end: {error}"));
            }
        }
        for allocation in self.memory.leaks() {
            let leak = Leak {
                allocation: allocation.label.clone(),
                bytes: allocation.bytes,
            };
            self.report.leaks.push(leak);
            if let Err(error) = self.memory.free(allocation.base) {
                self.report
                    .add_note(format!("{}: {error}", allocation.label));
            }
        }
    }

    /// Writes the report as it stands, so that a program that dies has left it.
    pub fn write_report(&mut self) {
        let Some(dir) = &self.settings.report_dir else {
            return;
        };
        let process = process::id();
        let write = |extension: &str, text: String| {
            // Over a temporary name: a reader never sees half a file.
            let path = dir.join(format!("{process}.{extension}"));
            let partial = dir.join(format!("{process}.{extension}.part"));
            fs::write(&partial, text).and_then(|()| fs::rename(&partial, &path))
        };
        let json = serde_json::to_string(&self.report).map_err(Into::into);
        let written = json
            .and_then(|json| write("json", json))
            .and_then(|()| write("txt", self.report.to_string()));
        if let Err(error) = written {
            eprintln!(
                "ptxsim: cannot write the report into {}: {error}",
                dir.display()
            );
        }
    }
}
