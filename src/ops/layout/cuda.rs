//! Launches of `kernels/layout.cu`, and of the plain copies of `kernels/copy.cuh`.

use super::{Concat, Place, Slice, around};
use crate::program::gpu::{EIGHT, GpuContext, GpuLaunch, Narrow, Tensor, Word};
use crate::tensor::Shape;

const MODULE: &str = "layout";

/// How many neighbours a thread takes at once, where all of these are to be multiples of it; and how the kernel's name ends.
fn vector(lengths: impl IntoIterator<Item = usize>) -> (usize, &'static str) {
    let fours = lengths.into_iter().all(|n| n.is_multiple_of(4));
    if fours { (4, "_x4") } else { (1, "") }
}

/// As [`vector`] for a copy between tensors that are all stored as bf16 or all not: eight of bf16 move as four of f32 would.
fn copied(narrow: bool, lengths: impl IntoIterator<Item = usize>) -> (usize, &'static str) {
    match narrow {
        true => (EIGHT, "_x4"),
        false => vector(lengths),
    }
}

fn eights(lengths: impl IntoIterator<Item = usize>) -> bool {
    lengths.into_iter().all(|n| n.is_multiple_of(EIGHT))
}

/// Elements of a row of each part.
fn rows(op: &Concat, cx: GpuContext<'_>) -> impl Iterator<Item = usize> {
    let (axis, (_, inner)) = (op.axis, around(cx.shapes.outputs[0], op.axis));
    let inputs = cx.shapes.inputs.iter();
    inputs.map(move |s| s[axis] * inner)
}

/// Any of its tensors, where eight numbers are moved at once.
pub(super) fn concat_narrow(op: &Concat, cx: GpuContext<'_>) -> Narrow {
    match eights(rows(op, cx)) {
        true => cx.narrow,
        false => Narrow::NONE,
    }
}

pub(super) fn concat(op: &Concat, cx: GpuContext<'_>) -> GpuLaunch {
    let (outer, _) = around(cx.shapes.outputs[0], op.axis);
    let inputs = || (0..cx.shapes.inputs.len()).map(Tensor::Input);
    let all = cx.narrow.has(Tensor::Output(0)) && inputs().all(|t| cx.narrow.has(t));
    let mixed = cx.narrow != Narrow::NONE && !all;
    let (vector, suffix) = match mixed {
        true => (EIGHT, "_h"),
        false => copied(all, rows(op, cx)),
    };
    let (mut table, mut offset) = (Vec::new(), 0);
    for (tensor, row) in inputs().zip(rows(op, cx)) {
        let width = row / vector;
        table.push(Word::Address(tensor, 0));
        table.extend([width, offset].map(|n| Word::Number(n as u64)));
        if mixed {
            table.push(Word::Number(cx.narrow.has(tensor).into()));
        }
        offset += width;
    }
    let longest = cx.shapes.inputs.iter().map(Shape::len).max().unwrap_or(0);
    let launch =
        GpuLaunch::new(MODULE, format!("concat_f32{suffix}")).threads_for(longest / vector);
    let across = launch.grid[0] as usize;
    let launch = launch
        .grid([across, cx.shapes.inputs.len(), 1])
        .table(table)
        .output(0)
        .count(offset)
        .count(outer);
    match mixed {
        true => launch.value(cx.narrow.flags([Tensor::Output(0)])),
        false => launch,
    }
}

/// Elements of a row of the slice, of the whole, and before the slice.
fn lengths(slice: &Slice, whole: Shape) -> [usize; 3] {
    let (_, inner) = around(whole, slice.axis);
    [slice.len, whole[slice.axis], slice.start].map(|extent| extent * inner)
}

/// Both tensors or none: a copy converts nothing, and what is read in f32 behind it stays as exact as it was.
fn both(cx: GpuContext<'_>, lengths: impl IntoIterator<Item = usize>) -> Narrow {
    let both = Narrow::new(&[0], &[0]);
    match cx.narrow.and(both) == both && eights(lengths) {
        true => both,
        false => Narrow::NONE,
    }
}

pub(super) fn slice_narrow(slice: &Slice, whole: Shape, cx: GpuContext<'_>) -> Narrow {
    both(cx, lengths(slice, whole))
}

pub(super) fn reshape_narrow(cx: GpuContext<'_>) -> Narrow {
    both(cx, [cx.shapes.inputs[0].len()])
}

/// What slices and their transposes share; `n` elements are written.
fn cut(kernel: &str, slice: &Slice, whole: Shape, n: usize, narrow: Narrow) -> GpuLaunch {
    let lengths = lengths(slice, whole);
    let (vector, suffix) = copied(narrow != Narrow::NONE, lengths);
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

pub(super) fn slice(op: &Slice, cx: GpuContext<'_>) -> GpuLaunch {
    let n = cx.shapes.outputs[0].len();
    cut("slice_f32", op, cx.shapes.inputs[0], n, cx.narrow)
}

pub(super) fn place(op: &Place, narrow: Narrow) -> GpuLaunch {
    let n = op.whole.len();
    cut("slice_dgrad_f32", &op.slice, op.whole, n, narrow)
}

pub(super) fn reshape(cx: GpuContext<'_>) -> GpuLaunch {
    let n = cx.shapes.inputs[0].len();
    // Two of bf16 move as one of f32.
    let moved = if cx.narrow == Narrow::NONE { n } else { n / 2 };
    copy(MODULE, "reshape_f32", moved, Tensor::Output(0))
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
    use crate::ops::Shapes;
    use crate::program::gpu::{Arg, Precision};

    fn context<'a>(inputs: &'a [Shape], outputs: &'a [Shape], narrow: Narrow) -> GpuContext<'a> {
        GpuContext {
            shapes: Shapes {
                inputs,
                outputs,
                updates: &[],
            },
            precision: Precision::Bf16,
            shared: 0,
            sm_90a: false,
            kept: true,
            narrow,
        }
    }

    #[test]
    fn a_copy_of_bf16_takes_both_tensors_or_none() {
        let (inputs, outputs) = ([Shape::from([2, 3, 3, 16])], [Shape::from([2, 3, 3, 8])]);
        let slice = |start| Slice {
            axis: 3,
            start,
            len: 8,
        };
        let of = |start, narrow| {
            slice_narrow(&slice(start), inputs[0], context(&inputs, &outputs, narrow))
        };
        let both = Narrow::new(&[0], &[0]);
        assert_eq!(of(8, both), both);
        assert_eq!(of(8, Narrow::new(&[0], &[])), Narrow::NONE);
        assert_eq!(of(4, both), Narrow::NONE);
    }

    #[test]
    fn parts_of_a_concatenation_stand_one_after_the_other() {
        let inputs = [[2, 3, 8], [2, 3, 4], [2, 3, 12]].map(Shape::from);
        let outputs = [Shape::from([2, 3, 24])];
        let cx = context(&inputs, &outputs, Narrow::NONE);
        let launch = concat(&Concat { axis: 2 }, cx);
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
        assert_eq!(cut("slice_f32", &slice, whole, 0, Narrow::NONE).grid[0], 0);
        assert_eq!(place(&Place { slice, whole }, Narrow::NONE).grid[0], 1);
    }
}
