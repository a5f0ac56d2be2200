//! Launches of `kernels/weight_norm.cu`.

use super::Parts;
use crate::ops::Shapes;
use crate::ops::reduce::Columns;
use crate::program::gpu::{GpuKernel, GpuLaunch};

const MODULE: &str = "weight_norm";

/// The inputs of `log_weight_norm` and the mask, if any, in a kernel whose first input after the weight is `next`.
fn companions(parts: Parts, next: usize) -> (Option<usize>, Option<usize>) {
    let mask = next + usize::from(parts.log_weight_norm);
    (
        parts.log_weight_norm.then_some(next),
        parts.mask.then_some(mask),
    )
}

/// One launch where blocks hold whole filters, else one that leaves sums of slices and one that uses them. `whole` and `partial`
/// append what the kernels take before their geometry; `sums` are left for each filter and slice.
fn one_or_two(
    kernel: &str,
    columns: &Columns,
    sums: usize,
    whole: impl Fn(GpuLaunch) -> GpuLaunch,
    partial: impl Fn(GpuLaunch) -> GpuLaunch,
) -> GpuKernel {
    let argument = columns.argument();
    if columns.slices == 1 {
        return whole(columns.launch(MODULE, kernel)).value(argument).into();
    }
    let first = partial(columns.launch(MODULE, &format!("{kernel}_squares")));
    let second = whole(columns.launch(MODULE, &format!("{kernel}_sliced")));
    let launches = [first, second].map(|l| l.workspace(0).value(argument));
    GpuKernel::new(launches.into(), sums * columns.slices * columns.results())
}

pub(super) fn forward(parts: Parts, shapes: Shapes<'_>) -> GpuKernel {
    let w = shapes.inputs[0];
    let (log_weight_norm, mask) = companions(parts, 1);
    one_or_two(
        "weight_norm_f32",
        &Columns::sums(1, w.rows(), w.last()),
        1,
        |l| {
            l.input(0)
                .input_or_null(log_weight_norm)
                .input_or_null(mask)
                .output(0)
        },
        |l| l.input(0).input_or_null(mask),
    )
}

pub(super) fn backward(parts: Parts, shapes: Shapes<'_>) -> GpuKernel {
    let w = shapes.inputs[1];
    let (log_weight_norm, mask) = companions(parts, 2);
    one_or_two(
        "weight_norm_dgrad_f32",
        &Columns::sums(1, w.rows(), w.last()),
        2,
        |l| {
            let l = l
                .input(0)
                .input(1)
                .input_or_null(log_weight_norm)
                .input_or_null(mask)
                .output(0);
            match parts.log_weight_norm {
                true => l.output(1),
                false => l.input_or_null(None),
            }
        },
        |l| l.input(0).input(1).input_or_null(mask),
    )
}
