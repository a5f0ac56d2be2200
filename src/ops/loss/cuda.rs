//! Launches of `kernels/loss.cu`.

use crate::ops::Shapes;
use crate::program::gpu::GpuLaunch;
use crate::tensor::Shape;

/// A warp for each sample: the kernel's inputs and its output, then the extents of the scores.
fn launch(kernel: &str, shapes: Shapes<'_>, scores: Shape) -> GpuLaunch {
    let launch = GpuLaunch::new("loss", kernel).threads_for(32 * scores[0]);
    (0..shapes.inputs.len())
        .fold(launch, GpuLaunch::input)
        .output(0)
        .count(scores[0])
        .count(scores[1])
}

pub(super) fn softmax(shapes: Shapes<'_>) -> GpuLaunch {
    launch("softmax_f32", shapes, shapes.inputs[0])
}

pub(super) fn softmax_grad(shapes: Shapes<'_>) -> GpuLaunch {
    launch("softmax_dgrad_f32", shapes, shapes.inputs[0])
}

pub(super) fn cross_entropy(shapes: Shapes<'_>) -> GpuLaunch {
    launch("cross_entropy_f32", shapes, shapes.inputs[0])
}

pub(super) fn cross_entropy_grad(shapes: Shapes<'_>) -> GpuLaunch {
    launch("cross_entropy_dgrad_f32", shapes, shapes.inputs[1])
}
