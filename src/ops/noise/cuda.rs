//! Launches of `kernels/noise.cu`.

use super::{Draw, Law, row_len};
use crate::program::gpu::GpuLaunch;

pub(super) fn draw(op: &Draw) -> GpuLaunch {
    let law = match op.law {
        Law::Uniform => "uniform",
        Law::Normal => "normal",
    };
    let n = op.shape.len();
    // A range of n elements that begins anywhere meets at most one group of four more than one that begins at a group.
    let groups = if n == 0 { 0 } else { n.div_ceil(4) + 1 };
    GpuLaunch::new("noise", format!("noise_f32_{law}"))
        .threads_for(groups)
        .noise()
        .output(0)
        .count(n)
        .count(row_len(op.shape))
        .value(op.stream)
}
