//! Launches of `kernels/reduce.cu`.

use super::{Reduce, Spread};
use crate::ops::Shapes;
use crate::program::gpu::{GpuKernel, GpuLaunch, Precision, THREADS};
use crate::program::variants::{self, Site};

const MODULE: &str = "reduce";
/// Elements of a row that a block takes at least, where there are as many.
const SLICE: usize = 16 * THREADS as usize;
/// Blocks that keep a large GPU busy.
const BLOCKS: usize = 512;

fn suffix(row: usize) -> &'static str {
    if row.is_multiple_of(4) { "_x4" } else { "" }
}

/// Into how many slices of how many elements the rule cuts a row.
fn cut(rows: usize, row: usize) -> (usize, usize) {
    slices(
        (BLOCKS / rows.max(1)).clamp(1, row.div_ceil(SLICE).max(1)),
        row,
    )
}

/// About so many slices, and the elements of each, a multiple of four.
fn slices(wanted: usize, row: usize) -> (usize, usize) {
    let slice = row.div_ceil(wanted).next_multiple_of(4);
    (row.div_ceil(slice.max(1)).max(1), slice)
}

/// The rule's cut, and others of a power of two of slices, none of which has less than two numbers for each thread of a block.
fn cuts(rows: usize, row: usize) -> Vec<(usize, usize)> {
    let mut all = vec![cut(rows, row)];
    let most = (row / (2 * THREADS as usize)).clamp(1, BLOCKS);
    for wanted in (0..).map(|power| 1 << power).take_while(|n| *n <= most) {
        let variant = slices(wanted, row);
        if all.iter().all(|(n, _)| *n != variant.0) {
            all.push(variant);
        }
    }
    all
}

pub(super) fn reduce(op: &Reduce, shapes: Shapes<'_>) -> GpuKernel {
    let rows = shapes.outputs[0].len();
    let row = shapes.inputs[0].len() / rows.max(1);
    let site = || Site::new("reduce", vec![rows, row], Precision::F32);
    let (slices, slice) = variants::choose(site, &cuts(rows, row), |(n, _)| n.to_string(), 0);
    let suffix = suffix(row);
    if slices == 1 {
        return GpuLaunch::new(MODULE, format!("reduce_f32{suffix}"))
            .blocks(rows)
            .input(0)
            .output(0)
            .count(row)
            .real(op.scale)
            .into();
    }
    let parts = GpuLaunch::new(MODULE, format!("reduce_f32_slices{suffix}"))
        .grid([rows, slices, 1])
        .input(0)
        .workspace(0)
        .count(row)
        .count(slice);
    let finish = GpuLaunch::new(MODULE, "reduce_f32_finish")
        .threads_for(rows * 32)
        .workspace(0)
        .output(0)
        .count(rows)
        .count(slices)
        .real(op.scale);
    // Partial sums are f64.
    GpuKernel::new(vec![parts, finish], 2 * rows * slices)
}

pub(super) fn spread(op: &Spread, shapes: Shapes<'_>) -> GpuLaunch {
    let n = shapes.outputs[0].len();
    let row = n / shapes.inputs[0].len().max(1);
    let vector = if row.is_multiple_of(4) { 4 } else { 1 };
    GpuLaunch::new(MODULE, format!("reduce_dgrad_f32{}", suffix(row)))
        .threads_for(n / vector)
        .input(0)
        .output(0)
        .count(n)
        .count(row)
        .real(op.scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_a_row_and_none_is_empty() {
        for rows in [0, 1, 7, 512, 100_000] {
            for row in [0, 1, 5, 4096, 4097, 1 << 20, (1 << 20) + 1] {
                let (slices, slice) = cut(rows, row);
                assert!(slices * slice >= row, "{rows} rows of {row}");
                assert!(
                    slices == 1 || (slices - 1) * slice < row,
                    "{rows} rows of {row}"
                );
                assert!(slices <= BLOCKS);
                assert!(slice.is_multiple_of(4));
                for (slices, slice) in cuts(rows, row) {
                    assert!(slice.is_multiple_of(4) && slices * slice >= row);
                    assert!(
                        slices == 1 || (slices - 1) * slice < row,
                        "{slices} of {row}"
                    );
                }
            }
        }
        assert_eq!(cut(512, 1 << 20).0, 1);
        assert_eq!(cut(1, 1 << 22).0, BLOCKS);
    }
}
