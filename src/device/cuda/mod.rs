//! The `cuda` device: NVIDIA GPUs through the driver alone, found at run time.
//!
//! Kernels are PTX within the binary ([`modules`]); a program is prepared into one allocation, resolved kernels and captured graphs;
//! a run copies what was fed out of pinned memory and submits one graph. The host waits only where it reads.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, profiler_start, profiler_stop};

pub mod driver;
pub mod kernels;
mod loose;
mod memory;
pub mod modules;
mod nvtx;
pub mod peaks;
mod prepared;
pub mod table;
mod tensors;

use super::facts::{Facts, Rates};
use super::{Device, DeviceError, ProgramId, expect_len, named};
use crate::program::gpu::{GpuKernel, Narrow, Precision};
use crate::program::variants::{self, Chooser};
use crate::program::{Launch, Noise, Place, Plan, Slot};
use crate::tensor::Shape;
use driver::{Doing, Gpu};
use kernels::Target;
use loose::{Bed, Lengths};
use memory::Block;
use modules::Modules;
use prepared::{Prepared, StateBlock};
use table::{Found, Table};

struct State {
    name: String,
    shape: Shape,
    memory: Block,
    /// Counts changes, so that results of a parameter version know when they are stale.
    version: u64,
}

/// One GPU.
pub struct Cuda {
    // In the order in which they must go: programs use kernels and states.
    programs: Vec<Option<Prepared>>,
    states: Vec<State>,
    by_name: HashMap<String, usize>,
    modules: Modules,
    /// What programs that are gone had submitted.
    released: BTreeMap<String, u64>,
    precision: Precision,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    gpu: Gpu,
    /// Chooses among kernels that compute the same; rules do without it.
    chooser: Option<Arc<dyn Chooser>>,
    /// What became of the table in the user's cache, for reports.
    tuned: Option<String>,
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Nothing may be freed under a running kernel. An error here was or will be reported by whoever asked for results.
        let _ = self.stream.synchronize();
    }
}

impl Cuda {
    /// Opens a GPU. Matrix products compute as `precision` says.
    ///
    /// # Errors
    /// No driver, one too old, no such GPU, or one too old; each says what to do.
    pub fn new(ordinal: usize, precision: Precision) -> Result<Self, DeviceError> {
        let (context, gpu) = driver::open(ordinal)?;
        let stream = context.new_stream().doing("the GPU makes no stream")?;
        Ok(Cuda {
            programs: Vec::new(),
            states: Vec::new(),
            by_name: HashMap::new(),
            modules: Modules::new(&context),
            released: BTreeMap::new(),
            precision,
            stream,
            context,
            gpu,
            chooser: None,
            tuned: None,
        })
    }

    /// Takes the table of kernel choices for this GPU and driver from the user's cache, if there is one that is of these kernels, for
    /// programs that are prepared from now on.
    ///
    /// # Errors
    /// A table that cannot be understood, or is of another GPU or driver.
    pub fn use_table(&mut self) -> Result<(), DeviceError> {
        let driver = driver::name()?;
        let Some(path) = table::path(&self.gpu.name, &driver) else {
            return Ok(());
        };
        match Table::read(&path, &self.gpu.name, &driver)? {
            Found::Nothing => {}
            Found::Stale => {
                self.tuned = Some(format!(
                    "rule: {} was measured with other kernels, `vaebm tune` makes it anew",
                    path.display()
                ));
            }
            Found::Table(table) => {
                self.tuned = Some(format!("{} ({} choices)", path.display(), table.len()));
                self.choose_by(Arc::new(table));
            }
        }
        Ok(())
    }

    /// Lets `chooser` choose the kernels of programs that are prepared from now on.
    pub fn choose_by(&mut self, chooser: Arc<dyn Chooser>) {
        self.chooser = Some(chooser);
    }

    /// Bytes of shared memory that a block can have, which with the precision decides what kernels there are.
    pub fn shared(&self) -> usize {
        self.gpu.shared
    }

    /// Whether it runs code for compute capability 9.0 and no other, which decides kernels too.
    pub fn is_sm_90a(&self) -> bool {
        self.gpu.is_sm_90a()
    }

    /// How matrix products compute.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Seconds of kernels that all do what a launch does, each in every round, by turns, on memory that holds numbers of no meaning, with
    /// `narrow` tensors in bf16. The L2 cache is filled with something else before each.
    ///
    /// # Errors
    /// A device that fails, or has too little memory.
    pub fn time_kernels(
        &mut self,
        launch: &Launch,
        narrow: Narrow,
        kernels: Vec<GpuKernel>,
        rounds: usize,
    ) -> Result<Vec<Vec<f64>>, DeviceError> {
        let lengths = |slots: &[Slot]| slots.iter().map(|s| s.shape.len()).collect();
        let lengths = Lengths {
            inputs: lengths(&launch.inputs),
            outputs: lengths(&launch.outputs),
            updates: lengths(&launch.updates),
        };
        let bed = Bed::new(&self.context, &self.stream, &lengths, narrow, &kernels)?;
        let all = bed.resolve(&self.stream, &mut self.modules, kernels)?;
        let flush = Block::new(&self.context, 2 * self.gpu.l2, "a flush of the L2 cache")?;
        let mut seconds = vec![Vec::with_capacity(rounds); all.len()];
        // The first round loads what is not loaded yet, and does not count.
        for round in 0..=rounds {
            for (calls, seconds) in all.iter().zip(&mut seconds) {
                flush.clear(&self.stream, 0, 2 * self.gpu.l2)?;
                let submit = || calls.iter().try_for_each(|call| call.run(&self.stream));
                let took = loose::seconds(&self.context, &self.stream, submit)?;
                if round > 0 {
                    seconds.push(took);
                }
            }
        }
        Ok(seconds)
    }

    /// How often each kernel has been submitted since the device was opened, as the plans have it.
    pub fn launches(&self) -> BTreeMap<String, u64> {
        let mut total = self.released.clone();
        for program in self.programs.iter().flatten() {
            program.count_launches(&mut total);
        }
        total
    }

    fn prepared(&self, program: ProgramId) -> &Prepared {
        self.programs[program.0]
            .as_ref()
            .expect("a program is not used after its release")
    }

    fn find_state(&self, name: &str) -> Result<usize, DeviceError> {
        let unknown = || DeviceError::Unknown {
            what: "state",
            name: name.to_owned(),
            known: None,
        };
        self.by_name.get(name).copied().ok_or_else(unknown)
    }

    /// Calls `run(program, stale)` and counts the change of the states that the program writes.
    fn run_with<R>(
        &mut self,
        program: ProgramId,
        run: impl FnOnce(
            &mut Prepared,
            &Arc<CudaContext>,
            &Arc<CudaStream>,
            bool,
        ) -> Result<R, DeviceError>,
    ) -> Result<R, DeviceError> {
        let prepared = self.programs[program.0]
            .as_mut()
            .expect("a program is not used after its release");
        let version = |s: &usize| self.states[prepared.states[*s]].version;
        let versions: Vec<u64> = prepared.plan.version_states.iter().map(version).collect();
        let stale = prepared.fresh_for.as_ref() != Some(&versions);
        prepared.fresh_for = None;
        let result = run(prepared, &self.context, &self.stream, stale)?;
        prepared.fresh_for = Some(versions);
        for (state, reference) in prepared.states.iter().zip(&prepared.plan.states) {
            self.states[*state].version += u64::from(reference.written);
        }
        Ok(result)
    }
}

impl Device for Cuda {
    fn name(&self) -> String {
        self.gpu.name.clone()
    }

    fn available_bytes(&self) -> usize {
        self.context.mem_get_info().map_or(0, |(free, _)| free)
    }

    fn prepare(&mut self, plan: Plan) -> Result<ProgramId, DeviceError> {
        let mut states = Vec::with_capacity(plan.states.len());
        for s in &plan.states {
            self.declare_state(&s.name, s.shape)?;
            states.push(self.by_name[&s.name]);
        }
        let blocks: Vec<StateBlock<'_>> = (self.states.iter())
            .map(|s| StateBlock { memory: &s.memory })
            .collect();
        let prepared = variants::with(self.chooser.clone(), || {
            Prepared::new(
                &self.context,
                &self.stream,
                &mut self.modules,
                Target::new(self.precision, self.gpu.shared).with_sm_90a(self.gpu.is_sm_90a()),
                plan,
                states,
                &blocks,
            )
        })?;
        self.programs.push(Some(prepared));
        Ok(ProgramId(self.programs.len() - 1))
    }

    fn plan(&self, program: ProgramId) -> &Plan {
        &self.prepared(program).plan
    }

    fn release(&mut self, program: ProgramId) {
        // Freed memory must not be in use; what went wrong is told by the next read.
        let _ = self.stream.synchronize();
        if let Some(program) = self.programs[program.0].take() {
            program.count_launches(&mut self.released);
        }
    }

    fn feed(&mut self, program: ProgramId, name: &str, data: &[f32]) -> Result<(), DeviceError> {
        let feeds = &self.prepared(program).plan.feeds;
        let slot = named(feeds, "feed", name)?;
        expect_len("feed", name, slot.shape, data.len())?;
        let index = feeds.iter().position(|f| f.name == name);
        let prepared = self.programs[program.0].as_mut();
        match (prepared, index) {
            (Some(prepared), Some(index)) => prepared.feed(index, data),
            _ => unreachable!("found just now"),
        }
    }

    fn run_steps(
        &mut self,
        program: ProgramId,
        noise: Noise,
        steps: u32,
    ) -> Result<(), DeviceError> {
        self.run_with(program, |prepared, _, stream, stale| {
            prepared.run(stream, noise, steps, stale)
        })
    }

    fn time_launches(&mut self, program: ProgramId, noise: Noise) -> Result<Vec<f64>, DeviceError> {
        self.run_with(program, |prepared, context, stream, stale| {
            prepared.time(context, stream, noise, stale)
        })
    }

    fn profiler_window(&mut self, open: bool) -> Result<(), DeviceError> {
        self.stream.synchronize().doing("the GPU failed")?;
        self.context
            .bind_to_thread()
            .doing("the GPU's context is not available")?;
        let told = if open {
            profiler_start()
        } else {
            profiler_stop()
        };
        told.doing("the driver does not open or close a profiler's window")
    }

    fn fetch(&mut self, program: ProgramId, name: &str) -> Result<Vec<f32>, DeviceError> {
        let prepared = self.prepared(program);
        let outputs = &prepared.plan.outputs;
        let slot = named(outputs, "output", name)?;
        let index = outputs.iter().position(|o| o.name == name);
        let (memory, offset) = match slot.place {
            Place::State(index) => (&self.states[prepared.states[index]].memory, 0),
            _ => prepared.location(index.expect("found just now")),
        };
        memory.read(&self.stream, offset, slot.shape.len())
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.stream.synchronize().doing("the GPU failed")
    }

    fn program_bytes(&self, program: ProgramId) -> usize {
        self.prepared(program).bytes()
    }

    fn facts(&self) -> Facts {
        Facts {
            tuned: self.tuned.clone(),
            ..driver::facts(&self.gpu)
        }
    }

    fn measure_rates(&mut self) -> Result<Rates, DeviceError> {
        peaks::rates(self)
    }

    fn states(&self) -> Vec<(String, Shape)> {
        self.states
            .iter()
            .map(|s| (s.name.clone(), s.shape))
            .collect()
    }

    fn declare_state(&mut self, name: &str, shape: Shape) -> Result<(), DeviceError> {
        if let Some(&index) = self.by_name.get(name) {
            let have = self.states[index].shape;
            if have != shape {
                return Err(DeviceError::StateShape {
                    name: name.to_owned(),
                    have,
                    want: shape,
                });
            }
            return Ok(());
        }
        let bytes = shape.len() * size_of::<f32>();
        let memory = Block::new(&self.context, bytes, &format!("state `{name}` {shape}"))?;
        memory.clear(&self.stream, 0, bytes)?;
        self.by_name.insert(name.to_owned(), self.states.len());
        self.states.push(State {
            name: name.to_owned(),
            shape,
            memory,
            version: 0,
        });
        Ok(())
    }

    fn read_state(&mut self, name: &str) -> Result<Vec<f32>, DeviceError> {
        let state = &self.states[self.find_state(name)?];
        state.memory.read(&self.stream, 0, state.shape.len())
    }

    fn write_state(&mut self, name: &str, data: &[f32]) -> Result<(), DeviceError> {
        let index = self.find_state(name)?;
        let state = &mut self.states[index];
        expect_len("state", name, state.shape, data.len())?;
        state.version += 1;
        state.memory.write(&self.stream, 0, data)
    }
}
