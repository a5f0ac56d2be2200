//! Launches of `kernels/state.cu`.

use crate::ops::Shapes;
use crate::ops::layout::copy;
use crate::program::gpu::{GpuLaunch, Tensor};

const MODULE: &str = "state";

pub(super) fn assign(shapes: Shapes<'_>) -> GpuLaunch {
    copy(
        MODULE,
        "assign_f32",
        shapes.inputs[0].len(),
        Tensor::Update(0),
    )
}

pub(super) fn stop_gradient(shapes: Shapes<'_>) -> GpuLaunch {
    copy(
        MODULE,
        "stop_gradient_f32",
        shapes.inputs[0].len(),
        Tensor::Output(0),
    )
}
