//! Launches of `kernels/resample.cu`.

use bytemuck::{Pod, Zeroable};

use super::{Kind, Resample, Transpose};
use crate::program::gpu::{EIGHT, GpuContext, GpuLaunch, Narrow, Tensor};
use crate::tensor::Shape;

/// `Image` of the kernels: the extents of `x`, channels in units of the vector.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Image {
    extents: [u32; 4],
}

pub(super) fn forward(op: &Resample, cx: GpuContext<'_>) -> GpuLaunch {
    map("resample_f32", op.0, cx.shapes.inputs[0], cx)
}

pub(super) fn transpose(op: &Transpose, cx: GpuContext<'_>) -> GpuLaunch {
    map("resample_dgrad_f32", op.kind, op.image, cx)
}

/// Both tensors or one of them, where eight channels are moved at once.
pub(super) fn narrow(cx: GpuContext<'_>) -> Narrow {
    match cx.shapes.inputs[0].last().is_multiple_of(EIGHT) {
        true => cx.narrow,
        false => Narrow::NONE,
    }
}

/// A map of input 0 to the output, of which `kernel` says the direction; `x` is what is resampled.
fn map(kernel: &str, kind: Kind, x: Shape, cx: GpuContext<'_>) -> GpuLaunch {
    let name = match kind {
        Kind::AvgPool => "avg_pool",
        Kind::Nearest => "nearest",
        Kind::Bilinear => "bilinear",
    };
    let flags = cx.narrow.flags([Tensor::Input(0), Tensor::Output(0)]);
    let (vector, suffix) = match flags {
        0 if x.last().is_multiple_of(4) => (4, "_x4"),
        0 => (1, ""),
        _ => (EIGHT, "_h"),
    };
    let narrow = |n: usize| u32::try_from(n).expect("a tensor has fewer than 2^31 elements");
    let extents = [x[0], x[1], x[2], x[3] / vector].map(narrow);
    let launch = GpuLaunch::new("resample", format!("{kernel}_{name}{suffix}"))
        .threads_for(cx.shapes.outputs[0].len() / vector)
        .input(0)
        .output(0)
        .value(Image { extents });
    match flags {
        0 => launch,
        flags => launch.value(flags),
    }
}
