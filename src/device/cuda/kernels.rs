//! What all ops of a plan do on a GPU: their launches, and the room that they need beside the plan's arena.

use std::collections::HashMap;

use super::tensors::{Arena, Places, Tensors};
use crate::device::DeviceError;
use crate::program::gpu::{
    Arg, GpuContext, GpuKernel, Kept, MAX_ELEMENTS, Narrow, Precision, Stored, Tensor,
};
use crate::program::{Kernel, Launch, Place, Plan, Shapes, Slot};
use crate::tensor::Shape;

fn shapes_of(slots: &[Slot]) -> Vec<Shape> {
    slots.iter().map(|s| s.shape).collect()
}

/// What decides the kernels of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// How matrix products compute.
    pub precision: Precision,
    /// Bytes of shared memory that a block can have on the GPU.
    pub shared: usize,
    /// As [`GpuContext::sm_90a`].
    pub sm_90a: bool,
    /// How intermediates are stored where their ops can.
    pub stored: Stored,
}

impl Target {
    /// As programs run: bf16 is stored where bf16 is multiplied. For a GPU of any compute capability.
    pub fn new(precision: Precision, shared: usize) -> Self {
        let stored = match precision {
            Precision::F32 | Precision::Tf32 => Stored::F32,
            Precision::Bf16 => Stored::Bf16,
        };
        Target {
            precision,
            shared,
            sm_90a: false,
            stored,
        }
    }

    /// The same for a GPU that runs code for compute capability 9.0, or not.
    pub fn with_sm_90a(self, sm_90a: bool) -> Self {
        Target { sm_90a, ..self }
    }
}

/// Calls `ask` with a launch's op and what that knows when it chooses its kernels; `kept` and `narrow` as [`GpuContext`] has them.
///
/// # Errors
/// A tensor too large for the kernels.
fn with_context<R>(
    launch: &Launch,
    target: Target,
    kept: bool,
    narrow: Narrow,
    ask: impl FnOnce(&dyn Kernel, GpuContext<'_>) -> R,
) -> Result<R, DeviceError> {
    let (inputs, outputs, updates) = (
        shapes_of(&launch.inputs),
        shapes_of(&launch.outputs),
        shapes_of(&launch.updates),
    );
    for shape in inputs.iter().chain(&outputs).chain(&updates) {
        if shape.len() > MAX_ELEMENTS {
            return Err(DeviceError::Failed(format!(
                "{} in `{}` has a tensor {shape} of more than 2^31 numbers, which the kernels do not count: take a smaller batch",
                launch.kernel.name(),
                launch.label
            )));
        }
    }
    let shapes = Shapes {
        inputs: &inputs,
        outputs: &outputs,
        updates: &updates,
    };
    Ok(ask(
        &*launch.kernel,
        GpuContext {
            shapes,
            precision: target.precision,
            shared: target.shared,
            sm_90a: target.sm_90a,
            kept,
            narrow,
        },
    ))
}

/// What a launch does on a GPU; `kept` and `narrow` as [`GpuContext`] has them.
///
/// # Errors
/// A tensor too large for the kernels.
pub fn gpu_kernel(
    launch: &Launch,
    target: Target,
    kept: bool,
    narrow: Narrow,
) -> Result<GpuKernel, DeviceError> {
    with_context(launch, target, kept, narrow, |op, cx| op.cuda(cx))
}

/// Of the tensors that are proposed to be stored as bf16, those that a launch takes so.
///
/// # Errors
/// A tensor too large for the kernels.
pub fn narrow(
    launch: &Launch,
    target: Target,
    kept: bool,
    proposed: Narrow,
) -> Result<Narrow, DeviceError> {
    let taken = with_context(launch, target, kept, proposed, |op, cx| op.narrow(cx))?;
    Ok(taken.and(proposed))
}

/// A planned launch's kernels.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What it does.
    pub kernel: GpuKernel,
    /// Where the room that it shares with another begins among those of the plan, in elements; 0 for one that shares none.
    pub kept_at: usize,
    /// Which of its tensors are stored as bf16.
    pub narrow: Narrow,
    /// Where its tensors stand in the arena.
    pub places: Places,
}

/// The kernels of a whole plan.
#[derive(Clone, Debug)]
pub struct PlanKernels {
    /// Those of [`Plan::per_version`].
    pub per_version: Vec<Planned>,
    /// Those of [`Plan::per_step`].
    pub per_step: Vec<Planned>,
    /// Elements of the scratch, which ops use one after the other.
    pub workspace: usize,
    /// Elements of all rooms that pairs of ops share.
    pub kept: usize,
    /// The intermediates' memory.
    pub arena: Arena,
}

/// The two tensors that a pair of ops knows its room by.
fn beside(launch: &Launch, kept: &Kept) -> [Place; 2] {
    kept.beside.map(|tensor| match tensor {
        Tensor::Input(i) => launch.inputs[i].place,
        Tensor::Output(i) => launch.outputs[i].place,
        Tensor::Update(i) => launch.updates[i].place,
        Tensor::Workspace | Tensor::Kept => unreachable!("a room is known by tensors of the plan"),
    })
}

/// Every kernel, for the storage given, and the elements of all rooms. An op that would read a room gets it if an op before it fills it;
/// a room that nobody reads is not filled. Tells as well which ops found or will find a room.
fn choose(
    launches: &[&Launch],
    target: Target,
    tensors: &Tensors,
) -> Result<(Vec<Planned>, usize, Vec<bool>), DeviceError> {
    let mut all: Vec<Planned> = Vec::with_capacity(launches.len());
    // The last op that fills the room beside two tensors, and whether something reads it.
    let mut filled: HashMap<[Place; 2], usize> = HashMap::new();
    let mut read = vec![false; launches.len()];
    let mut kept_len = 0;
    let mut found = vec![true; launches.len()];
    for (index, launch) in launches.iter().enumerate() {
        let narrow = tensors.narrow(index);
        let mut kernel = gpu_kernel(launch, target, true, narrow)?;
        let mut kept_at = 0;
        if let Some(kept) = kernel.kept {
            let key = beside(launch, &kept);
            if kept.fills {
                filled.insert(key, index);
            } else if let Some(&filler) = filled.get(&key) {
                if !std::mem::replace(&mut read[filler], true) {
                    all[filler].kept_at = kept_len;
                    kept_len += kept.len;
                }
                kept_at = all[filler].kept_at;
            } else {
                found[index] = false;
                kernel = gpu_kernel(launch, target, false, narrow)?;
            }
        }
        all.push(Planned {
            kernel,
            kept_at,
            narrow,
            places: Places::default(),
        });
    }
    for (planned, read) in all.iter_mut().zip(read) {
        let kernel = &mut planned.kernel;
        if kernel.kept.is_some_and(|kept| kept.fills) && !read {
            kernel.kept = None;
            for arg in kernel.launches.iter_mut().flat_map(|l| &mut l.args) {
                if matches!(arg, Arg::Address(Tensor::Kept, _)) {
                    *arg = Arg::Null;
                }
            }
        }
    }
    Ok((all, kept_len, found))
}

impl PlanKernels {
    /// Decides how intermediates are stored and chooses every kernel.
    ///
    /// # Errors
    /// A tensor too large for the kernels.
    ///
    /// # Panics
    /// If whether an op finds a room depends on how tensors are stored: a mistake in its `cuda.rs`.
    pub fn new(plan: &Plan, target: Target) -> Result<Self, DeviceError> {
        let launches: Vec<&Launch> = plan.per_version.iter().chain(&plan.per_step).collect();
        let mut tensors = Tensors::new(plan);
        let mut wide = tensors.clone();
        wide.widen();
        let (mut all, mut kept, found) = choose(&launches, target, &wide)?;
        match target.stored {
            Stored::F32 => tensors = wide,
            Stored::Bf16 => {
                tensors.agree(|i, proposed| narrow(launches[i], target, found[i], proposed))?;
                let again;
                (all, kept, again) = choose(&launches, target, &tensors)?;
                assert_eq!(found, again, "rooms do not depend on storage");
            }
        }
        let (arena, places) = tensors.place();
        for (planned, places) in all.iter_mut().zip(places) {
            planned.places = places;
        }
        let workspace = all.iter().map(|p| p.kernel.workspace).max().unwrap_or(0);
        let per_step = all.split_off(plan.per_version.len());
        Ok(PlanKernels {
            per_version: all,
            per_step,
            workspace,
            kept,
            arena,
        })
    }

    /// Bytes of activations: the intermediates, the scratch and the rooms.
    pub fn bytes(&self) -> usize {
        self.arena.bytes + (self.workspace + self.kept) * size_of::<f32>()
    }
}
