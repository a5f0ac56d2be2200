//! Launches of `kernels/batch_norm.cu`.

use super::eval::{ScaleShift, ScaleShiftDgrad, ScaleShiftSums};
use super::train::{Dgrad, Normalize, Sums, Track};
use super::{Activation, MOMENTUM};
use crate::ops::Shapes;
use crate::ops::reduce::Columns;
use crate::program::gpu::{GpuKernel, GpuLaunch, Tensor};
use crate::tensor::Shape;

const MODULE: &str = "batch_norm";

fn inputs(launch: GpuLaunch, count: usize) -> GpuLaunch {
    (0..count).fold(launch, GpuLaunch::input)
}

/// A map of each element of `x` in which its channel's numbers take part.
fn map(kernel: &str, inputs_count: usize, act: Activation, x: Shape) -> GpuLaunch {
    let columns = Columns::map(1, x.rows(), x.last());
    inputs(columns.launch(MODULE, kernel), inputs_count)
        .output(0)
        .value(act.code())
        .value(columns.argument())
}

pub(super) fn moments(shapes: Shapes<'_>) -> GpuKernel {
    let (rows, c) = (shapes.inputs[0].rows(), shapes.inputs[0].last());
    let first = Columns::sums(1, rows, c);
    let launch = first.launch(MODULE, "batch_norm_moments_f32").input(0);
    if first.slices == 1 {
        let launch = launch.output(0).output(1);
        return launch.value(first.argument()).into();
    }
    let one = first.slices * c;
    let second = Columns::whole(1, first.slices, c);
    let finish = second
        .launch(MODULE, "batch_norm_moments_f32_finish")
        .workspace(0)
        .workspace(one)
        .output(0)
        .output(1)
        .value(second.argument())
        .count(rows)
        .count(first.slice());
    let launch = launch.workspace(0).workspace(one);
    GpuKernel::new(vec![launch.value(first.argument()), finish], 2 * one)
}

pub(super) fn track(op: &Track, shapes: Shapes<'_>) -> GpuLaunch {
    let c = shapes.inputs[0].len();
    let count = op.count as f64;
    per_channel("batch_norm_track_f32", 2, c)
        .update(0)
        .update(1)
        .count(c)
        .real(1.0 - MOMENTUM)
        .real(MOMENTUM)
        .real(count / (count - 1.0))
}

pub(super) fn normalize(op: &Normalize, shapes: Shapes<'_>) -> GpuLaunch {
    map("batch_norm_fprop_f32", 5, op.0, shapes.inputs[0])
}

pub(super) fn sums(op: &Sums, shapes: Shapes<'_>) -> GpuKernel {
    let to = [Tensor::Output(0), Tensor::Output(1)];
    two_sums("batch_norm_wgrad_f32", 6, op.0, shapes.inputs[0], to)
}

pub(super) fn dgrad(op: &Dgrad, shapes: Shapes<'_>) -> GpuLaunch {
    let x = shapes.inputs[0];
    let columns = Columns::map(1, x.rows(), x.last());
    inputs(columns.launch(MODULE, "batch_norm_dgrad_f32"), 8)
        .output(0)
        .value(op.0.code())
        .real(x.rows() as f64)
        .value(columns.argument())
}

/// The sums of `dz` and of `dz` times what its factor weighs, in the order in which the kernel takes their addresses.
fn two_sums(
    kernel: &str,
    inputs_count: usize,
    act: Activation,
    x: Shape,
    to: [Tensor; 2],
) -> GpuKernel {
    let c = x.last();
    let first = Columns::sums(1, x.rows(), c);
    let launch = inputs(first.launch(MODULE, kernel), inputs_count);
    let finished = |launch: GpuLaunch| launch.value(act.code()).value(first.argument());
    if first.slices == 1 {
        return finished(launch.address(to[0], 0).address(to[1], 0)).into();
    }
    let one = first.slices * c;
    let second = Columns::whole(2, first.slices, c);
    let finish = second
        .launch(MODULE, "batch_norm_wgrad_f32_finish")
        .workspace(0)
        .address(to[0], 0)
        .address(to[1], 0)
        .value(second.argument());
    GpuKernel::new(
        vec![finished(launch.workspace(0).workspace(one)), finish],
        2 * one,
    )
}

/// A thread for each of `c` channels.
fn per_channel(kernel: &str, inputs_count: usize, c: usize) -> GpuLaunch {
    inputs(GpuLaunch::new(MODULE, kernel).threads_for(c), inputs_count)
}

pub(super) fn fold(shapes: Shapes<'_>) -> GpuLaunch {
    let c = shapes.inputs[0].len();
    per_channel("batch_norm_fold_f32", 4, c)
        .output(0)
        .output(1)
        .count(c)
}

pub(super) fn fold_dgrad(shapes: Shapes<'_>) -> GpuLaunch {
    let c = shapes.inputs[0].len();
    per_channel("batch_norm_fold_dgrad_f32", 4, c)
        .output(0)
        .count(c)
}

pub(super) fn scale_shift(op: &ScaleShift, shapes: Shapes<'_>) -> GpuLaunch {
    map("scale_shift_f32", 3, op.0, shapes.inputs[0])
}

pub(super) fn scale_shift_dgrad(op: &ScaleShiftDgrad, shapes: Shapes<'_>) -> GpuLaunch {
    let x = shapes.inputs[0];
    if op.0 != Activation::None {
        return map("scale_shift_dgrad_f32", 4, op.0, x);
    }
    let columns = Columns::map(1, x.rows(), x.last());
    inputs(columns.launch(MODULE, "scale_shift_dgrad_f32_linear"), 2)
        .output(0)
        .value(columns.argument())
}

pub(super) fn scale_shift_sums(op: &ScaleShiftSums, shapes: Shapes<'_>) -> GpuKernel {
    // dshift is the plain sum.
    let to = [Tensor::Output(1), Tensor::Output(0)];
    two_sums("scale_shift_wgrad_f32", 4, op.0, shapes.inputs[0], to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_columns_are_summed_in_slices_that_a_second_launch_joins() {
        let inputs = [Shape::from([64, 32, 32, 30])];
        let outputs = [Shape::from([30]); 2];
        let shapes = Shapes {
            inputs: &inputs,
            outputs: &outputs,
            updates: &[],
        };
        let kernel = moments(shapes);
        let [first, second] = &kernel.launches[..] else {
            panic!("two launches")
        };
        let slices = first.grid[1] as usize;
        assert!(slices > 1 && kernel.workspace == 2 * slices * 30);
        assert_eq!(second.grid, [1, 1, 1]);
    }
}
