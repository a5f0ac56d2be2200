//! What all ops of a plan do on a GPU: their launches, and the room that they need beside the plan's arena.

use std::collections::HashMap;

use crate::device::DeviceError;
use crate::program::gpu::{Arg, GpuContext, GpuKernel, Kept, Limits, MAX_ELEMENTS, Precision, Tensor};
use crate::program::{Launch, Place, Plan, Shapes, Slot};
use crate::tensor::Shape;

fn shapes_of(slots: &[Slot]) -> Vec<Shape> {
    slots.iter().map(|s| s.shape).collect()
}

/// What a launch does on a GPU of these limits; `kept` as [`GpuContext::kept`].
///
/// # Errors
/// A tensor too large for the kernels.
pub fn gpu_kernel(
    launch: &Launch,
    precision: Precision,
    limits: impl Into<Limits>,
    kept: bool,
) -> Result<GpuKernel, DeviceError> {
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
    let Limits { shared, sm_90a } = limits.into();
    let shapes = Shapes {
        inputs: &inputs,
        outputs: &outputs,
        updates: &updates,
    };
    Ok(launch.kernel.cuda(GpuContext {
        shapes,
        precision,
        shared,
        sm_90a,
        kept,
    }))
}

/// A planned launch's kernels.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What it does.
    pub kernel: GpuKernel,
    /// Where the room that it shares with another begins among those of the plan, in elements; 0 for one that shares none.
    pub kept_at: usize,
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

impl PlanKernels {
    /// Chooses every kernel. An op that would read a room gets it if an op before it fills it; a room that nobody reads is not filled.
    ///
    /// # Errors
    /// A tensor too large for the kernels.
    pub fn new(
        plan: &Plan,
        precision: Precision,
        limits: impl Into<Limits>,
    ) -> Result<Self, DeviceError> {
        let limits = limits.into();
        let launches: Vec<&Launch> = plan.per_version.iter().chain(&plan.per_step).collect();
        let mut all: Vec<Planned> = Vec::with_capacity(launches.len());
        // The last op that fills the room beside two tensors, and whether something reads it.
        let mut filled: HashMap<[Place; 2], usize> = HashMap::new();
        let mut read = vec![false; launches.len()];
        let (mut workspace, mut kept_len) = (0, 0);
        for (index, launch) in launches.iter().enumerate() {
            let mut kernel = gpu_kernel(launch, precision, limits, true)?;
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
                    kernel = gpu_kernel(launch, precision, limits, false)?;
                }
            }
            workspace = workspace.max(kernel.workspace);
            all.push(Planned { kernel, kept_at });
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
        let per_step = all.split_off(plan.per_version.len());
        Ok(PlanKernels {
            per_version: all,
            per_step,
            workspace,
            kept: kept_len,
        })
    }
}
