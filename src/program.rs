//! What the planner makes and a device runs: a list of launches over one arena.
//!
//! These are types only, at the bottom of the house: the planner ([`crate::tape`]) fills them, a
//! [`crate::device::Device`] executes them, and neither needs to know the other.

use std::fmt;
use std::sync::Arc;

use crate::tensor::Shape;
use gpu::{GpuContext, GpuKernel, Narrow};

pub mod arena;
pub mod gpu;
pub mod variants;

/// Where the noise of a run comes from: together with a stream and an element it names one random number.
///
/// A node's stream is fixed when it is recorded; the element counts within the whole batch of chains or images, starting
/// at `first_sample`, so that splitting a batch changes no number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noise {
    /// The seed of the run: the generator's key.
    pub seed: u64,
    /// The step within the run: part of the generator's counter.
    pub step: u32,
    /// The global number of the first sample of this batch.
    pub first_sample: u64,
}

/// The arguments of one launch, as slices of the device's memory.
///
/// Outputs hold unspecified numbers on entry and are written whole; updates are read and written in place.
pub struct Io<'a, T> {
    /// The tensors read, in the order in which they were recorded.
    pub inputs: &'a [(&'a [T], Shape)],
    /// The tensors written.
    pub outputs: &'a mut [(&'a mut [T], Shape)],
    /// The state tensors changed in place.
    pub updates: &'a mut [(&'a mut [T], Shape)],
    /// As many elements of scratch as the kernel asked for.
    pub workspace: &'a mut [T],
    /// The counter of this run's noise.
    pub noise: Noise,
}

impl<'a, T: Copy> Io<'a, T> {
    /// The elements of input `i`.
    pub fn input(&self, i: usize) -> &'a [T] {
        self.inputs[i].0
    }
    /// The shape of input `i`.
    pub fn input_shape(&self, i: usize) -> Shape {
        self.inputs[i].1
    }
    /// The elements of output `i`.
    pub fn output(&mut self, i: usize) -> &mut [T] {
        self.outputs[i].0
    }
    /// The shape of output `i`.
    pub fn output_shape(&self, i: usize) -> Shape {
        self.outputs[i].1
    }
    /// The elements of update `i`.
    pub fn update(&mut self, i: usize) -> &mut [T] {
        self.updates[i].0
    }
    /// The only output; most kernels have one.
    pub fn out(&mut self) -> &mut [T] {
        self.output(0)
    }
}

/// The shapes of a node's arguments, as rules see them.
#[derive(Clone, Copy, Debug)]
pub struct Shapes<'a> {
    /// Tensors read.
    pub inputs: &'a [Shape],
    /// Tensors written; empty while they are being inferred.
    pub outputs: &'a [Shape],
    /// States changed in place.
    pub updates: &'a [Shape],
}

/// One computation as a device sees it.
pub trait Kernel: fmt::Debug + Send + Sync {
    /// The op's name, for reports and errors.
    fn name(&self) -> &'static str;
    /// The native CPU kernel.
    fn cpu(&self, io: &mut Io<'_, f32>);
    /// The plain reference in single precision.
    fn reference_f32(&self, io: &mut Io<'_, f32>);
    /// The plain reference in double precision.
    fn reference_f64(&self, io: &mut Io<'_, f64>);
    /// The launches on a GPU.
    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel;
    /// Of the tensors that [`GpuContext::narrow`] proposes to store as bf16, those that its launches then take so.
    fn narrow(&self, cx: GpuContext<'_>) -> Narrow;
}

/// What a launch costs, counted from its shapes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; a fused multiply-add is two.
    pub flops: f64,
    /// Bytes that must be read and written at least once.
    pub bytes: f64,
}

impl std::ops::Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            flops: self.flops + other.flops,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(iter: I) -> Cost {
        iter.fold(Cost::default(), |a, b| a + b)
    }
}

/// Where a tensor lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In [`Plan::constants`], at this index.
    Constant(usize),
    /// In the device's state, named by [`Plan::states`] at this index.
    State(usize),
    /// In the program's arena, at this element offset. Feeds live there too.
    Arena(usize),
}

/// A tensor of a program.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Where it lives.
    pub place: Place,
    /// Its shape.
    pub shape: Shape,
}

/// One kernel with its arguments.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What to compute.
    pub kernel: Arc<dyn Kernel>,
    /// The network part it belongs to, such as `dec_tower.3.se`; for reports.
    pub label: String,
    /// Tensors read.
    pub inputs: Vec<Slot>,
    /// Tensors written.
    pub outputs: Vec<Slot>,
    /// States changed in place.
    pub updates: Vec<Slot>,
    /// Scratch, in the arena.
    pub workspace: Slot,
    /// What it costs.
    pub cost: Cost,
}

/// A tensor that lives in the arena under a name: a feed or an output.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub slot: Slot,
}

/// A state tensor that a program reads or writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRef {
    /// Its name, shared by all programs of a device.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// Whether this program changes it.
    pub written: bool,
}

/// A program, laid out: nothing about memory is decided after this.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What the program is called in reports, such as `stage1/train`.
    pub name: String,
    /// Launches whose results hold as long as the states they read do not change (folded batch norms, effective
    /// weights). A device runs them again only when one of [`Plan::version_states`] changed.
    pub per_version: Vec<Launch>,
    /// The states that `per_version` depends on, as indices into `states`.
    pub version_states: Vec<usize>,
    /// Launches of every run, in order.
    pub per_step: Vec<Launch>,
    /// The arena's length in elements.
    pub arena: usize,
    /// Tensors the host writes before a run.
    pub feeds: Vec<Named>,
    /// Tensors the host may read after a run.
    pub outputs: Vec<Named>,
    /// Values fixed when the program was recorded.
    pub constants: Vec<(Shape, Arc<[f64]>)>,
    /// States used.
    pub states: Vec<StateRef>,
}

impl Plan {
    /// Bytes of the arena and the constants: what preparing this program takes beyond its states.
    pub fn bytes(&self) -> usize {
        let constants: usize = self.constants.iter().map(|(shape, _)| shape.len()).sum();
        (self.arena + constants) * size_of::<f32>()
    }

    /// Bytes of the states this program touches.
    pub fn state_bytes(&self) -> usize {
        self.states
            .iter()
            .map(|s| s.shape.len() * size_of::<f32>())
            .sum()
    }

    /// The cost of one run, without the launches that run once per parameter version.
    pub fn step_cost(&self) -> Cost {
        self.per_step.iter().map(|l| l.cost).sum()
    }

    /// The feed of this name.
    pub fn feed(&self, name: &str) -> Option<&Named> {
        self.feeds.iter().find(|f| f.name == name)
    }

    /// The output of this name.
    pub fn output(&self, name: &str) -> Option<&Named> {
        self.outputs.iter().find(|f| f.name == name)
    }
}
