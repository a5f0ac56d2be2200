//! Launches of `kernels/layout.cu`, and of the plain copies of `kernels/copy.cuh`.

use super::{Concat, Place, Slice, around};
use crate::ops::Shapes;
use crate::program::gpu::{GpuLaunch, Tensor, Word};
use crate::tensor::Shape;

const MODULE: &str = "layout";

/// How many neighbours a thread takes at once, where all of these are to be multiples of it; and how the kernel's name ends.
fn vector(lengths: impl IntoIterator<Item = usize>) -> (usize, &'static str) {
    let fours = lengths.into_iter().all(|n| n.is_multiple_of(4));
    if fours { (4, "_x4") } else { (1, "") }
}

pub(super) fn concat(op: &Concat, shapes: Shapes<'_>) -> GpuLaunch {
    let (outer, inner) = around(shapes.outputs[0], op.axis);
    let row = |s: &Shape| s[op.axis] * inner;
    let (vector, suffix) = vector(shapes.inputs.iter().map(row));
    let (mut table, mut offset) = (Vec::new(), 0);
    for (i, shape) in shapes.inputs.iter().enumerate() {
        let width = row(shape) / vector;
        table.push(Word::Address(Tensor::Input(i), 0));
        table.extend([width, offset].map(|n| Word::Number(n as u64)));
        offset += width;
    }
    let longest = shapes.inputs.iter().map(Shape::len).max().unwrap_or(0);
    let launch =
        GpuLaunch::new(MODULE, format!("concat_f32{suffix}")).threads_for(longest / vector);
    let across = launch.grid[0] as usize;
    launch
        .grid([across, shapes.inputs.len(), 1])
        .table(table)
        .output(0)
        .count(offset)
        .count(outer)
}

/// What slices and their transposes share; `n` elements are written.
fn cut(kernel: &str, slice: &Slice, whole: Shape, n: usize) -> GpuLaunch {
    let (_, inner) = around(whole, slice.axis);
    let lengths = [slice.len, whole[slice.axis], slice.start].map(|extent| extent * inner);
    let (vector, suffix) = vector(lengths);
    let [width, row, start] = lengths.map(|n| n / vector);
    GpuLaunch::new(MODULE, format!("{kernel}{suffix}"))
        .threads_for(n / vector)
        .input(0)
        .output(0)
        .count(n / vector)
        .count(width)
        .count(row)
        .count(start)
}

pub(super) fn slice(op: &Slice, shapes: Shapes<'_>) -> GpuLaunch {
    cut("slice_f32", op, shapes.inputs[0], shapes.outputs[0].len())
}

pub(super) fn place(op: &Place) -> GpuLaunch {
    cut("slice_dgrad_f32", &op.slice, op.whole, op.whole.len())
}

pub(super) fn reshape(shapes: Shapes<'_>) -> GpuLaunch {
    copy(
        MODULE,
        "reshape_f32",
        shapes.inputs[0].len(),
        Tensor::Output(0),
    )
}

/// A kernel that copies the `n` elements of input 0: a thread for each four, and one for the rest.
pub(in crate::ops) fn copy(module: &'static str, kernel: &str, n: usize, to: Tensor) -> GpuLaunch {
    GpuLaunch::new(module, kernel)
        .threads_for(n.div_ceil(4))
        .input(0)
        .address(to, 0)
        .count(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::gpu::Arg;

    #[test]
    fn parts_of_a_concatenation_stand_one_after_the_other() {
        let inputs = [[2, 3, 8], [2, 3, 4], [2, 3, 12]].map(Shape::from);
        let outputs = [Shape::from([2, 3, 24])];
        let shapes = Shapes {
            inputs: &inputs,
            outputs: &outputs,
            updates: &[],
        };
        let launch = concat(&Concat { axis: 2 }, shapes);
        assert_eq!(
            (launch.function.as_str(), launch.grid),
            ("concat_f32_x4", [1, 3, 1])
        );
        let Arg::Table(words) = &launch.args[0] else {
            panic!("the first argument is the table")
        };
        let numbers: Vec<_> = (words.iter().enumerate())
            .filter(|(i, _)| i % 3 != 0)
            .map(|(_, w)| *w)
            .collect();
        assert_eq!(numbers, [2, 0, 1, 2, 3, 3].map(Word::Number));
    }

    #[test]
    fn an_empty_slice_is_no_launch_and_its_transpose_still_writes_zeros() {
        let slice = Slice {
            axis: 1,
            start: 2,
            len: 0,
        };
        let whole = Shape::from([3, 4]);
        assert_eq!(cut("slice_f32", &slice, whole, 0).grid[0], 0);
        assert_eq!(place(&Place { slice, whole }).grid[0], 1);
    }
}
