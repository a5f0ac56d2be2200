//! Launches of `kernels/resample.cu`.

use bytemuck::{Pod, Zeroable};

use super::{Kind, Resample, Transpose};
use crate::ops::Shapes;
use crate::program::gpu::GpuLaunch;
use crate::tensor::Shape;

/// `Image` of the kernels: the extents of `x`, channels in units of the vector.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Image {
    extents: [u32; 4],
}

pub(super) fn forward(op: &Resample, shapes: Shapes<'_>) -> GpuLaunch {
    map("resample_f32", op.0, shapes.inputs[0], shapes.outputs[0])
}

pub(super) fn transpose(op: &Transpose) -> GpuLaunch {
    map("resample_dgrad_f32", op.kind, op.image, op.image)
}

/// A map of input 0 to `result`, of which `kernel` says the direction; `x` is what is resampled.
fn map(kernel: &str, kind: Kind, x: Shape, result: Shape) -> GpuLaunch {
    let name = match kind {
        Kind::AvgPool => "avg_pool",
        Kind::Nearest => "nearest",
        Kind::Bilinear => "bilinear",
    };
    let (vector, suffix) = if x.last().is_multiple_of(4) {
        (4, "_x4")
    } else {
        (1, "")
    };
    let narrow = |n: usize| u32::try_from(n).expect("a tensor has fewer than 2^31 elements");
    let extents = [x[0], x[1], x[2], x[3] / vector].map(narrow);
    GpuLaunch::new("resample", format!("{kernel}_{name}{suffix}"))
        .threads_for(result.len() / vector)
        .input(0)
        .output(0)
        .value(Image { extents })
}
