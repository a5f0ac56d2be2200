//! The `cuda` device: NVIDIA GPUs through the driver alone, found at run time.
//!
//! Kernels are PTX within the binary ([`modules`]); a program is prepared into one allocation, resolved kernels and captured graphs;
//! a run copies what was fed out of pinned memory and submits one graph. The host waits only where it reads.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};

pub mod driver;
pub mod kernels;
mod memory;
pub mod modules;
mod prepared;

use super::{Device, DeviceError, ProgramId, expect_len, named};
use crate::program::gpu::Precision;
use crate::program::{Noise, Place, Plan};
use crate::tensor::Shape;
use driver::{Doing, Gpu};
use memory::Block;
use modules::Modules;
use prepared::{Prepared, StateBlock};

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
        })
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
        let prepared = Prepared::new(
            &self.context,
            &self.stream,
            &mut self.modules,
            (self.precision, self.gpu.limits()),
            plan,
            states,
            &blocks,
        )?;
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

    fn fetch(&mut self, program: ProgramId, name: &str) -> Result<Vec<f32>, DeviceError> {
        let prepared = self.prepared(program);
        let slot = named(&prepared.plan.outputs, "output", name)?;
        let (memory, offset) = match slot.place {
            Place::State(index) => (&self.states[prepared.states[index]].memory, 0),
            _ => prepared.location(&slot).expect("not a state"),
        };
        memory.read(&self.stream, offset, slot.shape.len())
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
