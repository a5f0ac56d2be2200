//! Launches of `kernels/kl_balance.cu`.

use crate::ops::Shapes;
use crate::program::gpu::{GpuLaunch, THREADS, Tensor, Word};

const MODULE: &str = "kl_balance";

pub(super) fn balance(alpha: &[f64], shapes: Shapes<'_>) -> GpuLaunch {
    let groups = alpha.iter().enumerate().flat_map(|(g, alpha)| {
        let inverse = ((1.0 / alpha) as f32).to_bits();
        [
            Word::Address(Tensor::Input(g), 0),
            Word::Number(inverse.into()),
        ]
    });
    GpuLaunch::new(MODULE, "kl_balance_f32")
        .table(groups.collect())
        .input(alpha.len())
        .output(0)
        .output(1)
        .count(alpha.len())
        .count(shapes.outputs[0].len())
}

pub(super) fn balance_grad(shapes: Shapes<'_>) -> GpuLaunch {
    let (groups, n) = (shapes.outputs.len(), shapes.inputs[0].len());
    let gradients = (0..groups).map(|g| Word::Address(Tensor::Output(g), 0));
    GpuLaunch::new(MODULE, "kl_balance_dgrad_f32")
        .grid([n.div_ceil(THREADS as usize), groups, 1])
        .input(0)
        .input(1)
        .table(gradients.collect())
        .count(n)
}
