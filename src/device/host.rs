//! Programs on the host: the `cpu` device with its native kernels, and the same executor over the plain references in
//! single or double precision, which are the oracles of everything else.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::time::Instant;

use super::{Device, DeviceError, ProgramId, expect_len, named};
use crate::program::{Io, Kernel, Launch, Noise, Place, Plan, Slot};
use crate::real::{Real, cast};
use crate::tensor::Shape;

/// Which face of a kernel a host device calls.
pub trait Face: Send + 'static {
    /// The number type of its memory.
    type Number: Real;
    /// The device's name.
    const NAME: &'static str;
    /// Calls the face.
    fn call(kernel: &dyn Kernel, io: &mut Io<'_, Self::Number>);
}

/// The native kernels.
pub struct Native;
/// The plain references in `f32`.
pub struct Plain32;
/// The plain references in `f64`.
pub struct Plain64;

impl Face for Native {
    type Number = f32;
    const NAME: &'static str = "cpu";
    fn call(kernel: &dyn Kernel, io: &mut Io<'_, f32>) {
        kernel.cpu(io);
    }
}

impl Face for Plain32 {
    type Number = f32;
    const NAME: &'static str = "reference-f32";
    fn call(kernel: &dyn Kernel, io: &mut Io<'_, f32>) {
        kernel.reference_f32(io);
    }
}

impl Face for Plain64 {
    type Number = f64;
    const NAME: &'static str = "reference-f64";
    fn call(kernel: &dyn Kernel, io: &mut Io<'_, f64>) {
        kernel.reference_f64(io);
    }
}

/// The `cpu` device.
pub type Cpu = Host<Native>;

/// A cache line of numbers: what the arena is made of, so that every tensor starts on a line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line<T>([T; 16]);

/// Memory that starts on a cache line.
struct Buffer<T> {
    lines: Vec<Line<T>>,
    len: usize,
}

impl<T: Real> Buffer<T> {
    fn zeros(len: usize) -> Self {
        Buffer {
            lines: vec![Line([T::zero(); 16]); len.div_ceil(16)],
            len,
        }
    }

    fn pointer(&mut self) -> *mut T {
        self.lines.as_mut_ptr().cast()
    }

    fn as_mut(&mut self) -> &mut [T] {
        let len = self.len;
        // SAFETY: `lines` owns at least `len` initialised numbers, contiguous because `Line<T>` is an array of them whose size
        // is a multiple of its alignment; the borrow of `self` covers the slice.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), len) }
    }

    fn as_ref(&self) -> &[T] {
        // SAFETY: as for `as_mut`, with a shared borrow.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

struct State<T> {
    name: String,
    shape: Shape,
    data: Buffer<T>,
    /// Counts changes, so that results of a parameter version know when they are stale.
    version: u64,
}

struct Prepared<T> {
    plan: Plan,
    arena: Buffer<T>,
    constants: Vec<Buffer<T>>,
    /// Index into the device's states of each of the plan's.
    states: Vec<usize>,
    /// The versions that `plan.per_version` was last run for.
    fresh_for: Option<Vec<u64>>,
}

/// A device on the host that calls one face of each kernel.
pub struct Host<F: Face> {
    states: Vec<State<F::Number>>,
    by_name: HashMap<String, usize>,
    programs: Vec<Option<Prepared<F::Number>>>,
    face: PhantomData<F>,
}

impl<F: Face> Default for Host<F> {
    fn default() -> Self {
        Host {
            states: Vec::new(),
            by_name: HashMap::new(),
            programs: Vec::new(),
            face: PhantomData,
        }
    }
}

impl<F: Face> Host<F> {
    /// A device with no programs and no states.
    pub fn new() -> Self {
        Self::default()
    }

    fn prepared(&self, program: ProgramId) -> &Prepared<F::Number> {
        self.programs[program.0]
            .as_ref()
            .expect("a program is not used after its release")
    }

    fn find_state(&self, name: &str) -> Result<usize, DeviceError> {
        self.by_name
            .get(name)
            .copied()
            .ok_or_else(|| DeviceError::Unknown {
                what: "state",
                name: name.to_owned(),
                known: None,
            })
    }

    /// Runs the launches of a parameter version if their states changed, then those of each step.
    fn run_with(
        &mut self,
        program: ProgramId,
        noise: Noise,
        steps: u32,
        mut call: impl FnMut(&Memory<F::Number>, &Launch, Noise),
    ) {
        let prepared = self.programs[program.0]
            .as_mut()
            .expect("a program is not used after its release");
        let version = |s: &usize| self.states[prepared.states[*s]].version;
        let versions: Vec<u64> = prepared.plan.version_states.iter().map(version).collect();
        let stale = prepared.fresh_for.as_ref() != Some(&versions);
        let memory = Memory {
            arena: prepared.arena.pointer(),
            arena_len: prepared.arena.len,
            constants: prepared
                .constants
                .iter_mut()
                .map(|b| (b.pointer(), b.len))
                .collect(),
            states: prepared
                .states
                .iter()
                .map(|&s| (self.states[s].data.pointer(), self.states[s].data.len))
                .collect(),
        };
        if stale {
            for launch in &prepared.plan.per_version {
                call(&memory, launch, noise);
            }
            prepared.fresh_for = Some(versions);
        }
        for step in 0..steps {
            let noise = Noise {
                step: noise.step.wrapping_add(step),
                ..noise
            };
            for launch in &prepared.plan.per_step {
                call(&memory, launch, noise);
            }
        }
        for (state, reference) in prepared.states.iter().zip(&prepared.plan.states) {
            self.states[*state].version += u64::from(reference.written);
        }
    }

    /// Writes a feed in double precision; the reference in `f64` keeps every digit.
    pub fn feed_f64(
        &mut self,
        program: ProgramId,
        name: &str,
        data: &[f64],
    ) -> Result<(), DeviceError> {
        self.write_feed(program, name, data)
    }

    /// Reads an output of the last run in double precision.
    pub fn fetch_f64(&self, program: ProgramId, name: &str) -> Result<Vec<f64>, DeviceError> {
        self.read_output(program, name)
    }

    /// Reads a state in double precision.
    pub fn read_state_f64(&self, name: &str) -> Result<Vec<f64>, DeviceError> {
        let state = &self.states[self.find_state(name)?];
        Ok(state.data.as_ref().iter().map(|v| v.f64()).collect())
    }

    /// Writes a state in double precision.
    pub fn write_state_f64(&mut self, name: &str, data: &[f64]) -> Result<(), DeviceError> {
        self.write_state_from(name, data)
    }

    fn write_state_from<A: Real>(&mut self, name: &str, data: &[A]) -> Result<(), DeviceError> {
        let index = self.find_state(name)?;
        let state = &mut self.states[index];
        expect_len("state", name, state.shape, data.len())?;
        for (to, from) in state.data.as_mut().iter_mut().zip(data) {
            *to = cast(*from);
        }
        state.version += 1;
        Ok(())
    }

    fn write_feed<A: Real>(
        &mut self,
        program: ProgramId,
        name: &str,
        data: &[A],
    ) -> Result<(), DeviceError> {
        let prepared = self.programs[program.0]
            .as_mut()
            .expect("a program is not used after its release");
        let slot = named(&prepared.plan.feeds, "feed", name)?;
        expect_len("feed", name, slot.shape, data.len())?;
        let Place::Arena(offset) = slot.place else {
            unreachable!("a feed lives in the arena");
        };
        let target = &mut prepared.arena.as_mut()[offset..offset + data.len()];
        for (to, from) in target.iter_mut().zip(data) {
            *to = cast(*from);
        }
        Ok(())
    }

    fn read_output<A: Real>(&self, program: ProgramId, name: &str) -> Result<Vec<A>, DeviceError> {
        let prepared = self.prepared(program);
        let slot = named(&prepared.plan.outputs, "output", name)?;
        let len = slot.shape.len();
        let data = match slot.place {
            Place::Arena(offset) => &prepared.arena.as_ref()[offset..offset + len],
            Place::Constant(index) => prepared.constants[index].as_ref(),
            Place::State(index) => self.states[prepared.states[index]].data.as_ref(),
        };
        Ok(data.iter().map(|v| cast(*v)).collect())
    }
}

impl<F: Face> Device for Host<F> {
    fn name(&self) -> String {
        F::NAME.to_owned()
    }

    fn available_bytes(&self) -> usize {
        super::memory::available_bytes()
    }

    fn prepare(&mut self, plan: Plan) -> Result<ProgramId, DeviceError> {
        let mut states = Vec::with_capacity(plan.states.len());
        for s in &plan.states {
            self.declare_state(&s.name, s.shape)?;
            states.push(self.by_name[&s.name]);
        }
        let constants = plan.constants.iter().map(|(shape, data)| {
            let mut buffer = Buffer::zeros(shape.len());
            for (to, from) in buffer.as_mut().iter_mut().zip(data.iter()) {
                *to = cast(*from);
            }
            buffer
        });
        self.programs.push(Some(Prepared {
            arena: Buffer::zeros(plan.arena),
            constants: constants.collect(),
            states,
            fresh_for: None,
            plan,
        }));
        Ok(ProgramId(self.programs.len() - 1))
    }

    fn plan(&self, program: ProgramId) -> &Plan {
        &self.prepared(program).plan
    }

    fn release(&mut self, program: ProgramId) {
        self.programs[program.0] = None;
    }

    fn feed(&mut self, program: ProgramId, name: &str, data: &[f32]) -> Result<(), DeviceError> {
        self.write_feed(program, name, data)
    }

    fn run_steps(
        &mut self,
        program: ProgramId,
        noise: Noise,
        steps: u32,
    ) -> Result<(), DeviceError> {
        self.run_with(program, noise, steps, |memory, launch, noise| {
            memory.call::<F>(launch, noise)
        });
        Ok(())
    }

    fn time_launches(&mut self, program: ProgramId, noise: Noise) -> Result<Vec<f64>, DeviceError> {
        let mut seconds = Vec::new();
        self.run_with(program, noise, 1, |memory, launch, noise| {
            let clock = Instant::now();
            memory.call::<F>(launch, noise);
            seconds.push(clock.elapsed().as_secs_f64());
        });
        let per_step = self.prepared(program).plan.per_step.len();
        Ok(seconds.split_off(seconds.len() - per_step))
    }

    fn fetch(&mut self, program: ProgramId, name: &str) -> Result<Vec<f32>, DeviceError> {
        self.read_output(program, name)
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
        self.by_name.insert(name.to_owned(), self.states.len());
        self.states.push(State {
            name: name.to_owned(),
            shape,
            data: Buffer::zeros(shape.len()),
            version: 0,
        });
        Ok(())
    }

    fn read_state(&mut self, name: &str) -> Result<Vec<f32>, DeviceError> {
        let state = &self.states[self.find_state(name)?];
        Ok(state.data.as_ref().iter().map(|v| cast(*v)).collect())
    }

    fn write_state(&mut self, name: &str, data: &[f32]) -> Result<(), DeviceError> {
        self.write_state_from(name, data)
    }
}

/// Base addresses and lengths of everything a program may touch during a run.
struct Memory<T> {
    arena: *mut T,
    arena_len: usize,
    constants: Vec<(*mut T, usize)>,
    states: Vec<(*mut T, usize)>,
}

impl<T: Real> Memory<T> {
    fn range(&self, slot: &Slot) -> (*mut T, usize) {
        let len = slot.shape.len();
        match slot.place {
            Place::Arena(offset) => {
                assert!(
                    offset + len <= self.arena_len,
                    "a slot lies inside the arena"
                );
                // SAFETY: the offset lies within the arena's allocation, as just checked.
                (unsafe { self.arena.add(offset) }, len)
            }
            Place::Constant(index) => self.constants[index],
            Place::State(index) => self.states[index],
        }
    }

    fn call<F: Face<Number = T>>(&self, launch: &Launch, noise: Noise) {
        let shared = |slot: &Slot| {
            let (pointer, len) = self.range(slot);
            // SAFETY: the memory belongs to the device that runs this program and outlives the call. The planner gives tensors that
            // live at the same time disjoint places (tested), so no exclusive slice of this launch overlaps this one; an op never
            // names one state both as input and as update (checked when a program is recorded).
            (
                unsafe { std::slice::from_raw_parts(pointer.cast_const(), len) },
                slot.shape,
            )
        };
        let exclusive = |slot: &Slot| {
            let (pointer, len) = self.range(slot);
            // SAFETY: as above; outputs, updates and workspace of one launch are pairwise disjoint.
            (
                unsafe { std::slice::from_raw_parts_mut(pointer, len) },
                slot.shape,
            )
        };
        let inputs: Vec<_> = launch.inputs.iter().map(shared).collect();
        let mut outputs: Vec<_> = launch.outputs.iter().map(exclusive).collect();
        let mut updates: Vec<_> = launch.updates.iter().map(exclusive).collect();
        F::call(
            &*launch.kernel,
            &mut Io {
                inputs: &inputs,
                outputs: &mut outputs,
                updates: &mut updates,
                workspace: exclusive(&launch.workspace).0,
                noise,
            },
        );
    }
}

/// A boxed native device, for callers that choose a device at run time.
pub fn cpu() -> Box<dyn Device> {
    Box::new(Cpu::new())
}
