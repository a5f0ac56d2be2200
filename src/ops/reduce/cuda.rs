//! Launches of `kernels/reduce.cu`.

use super::{Reduce, Spread};
use crate::ops::Shapes;
use crate::program::gpu::{GpuKernel, GpuLaunch, THREADS};

const MODULE: &str = "reduce";
/// Elements of a row that a block takes at least, where there are as many.
const SLICE: usize = 16 * THREADS as usize;
/// Blocks that keep a large GPU busy.
const BLOCKS: usize = 512;

fn suffix(row: usize) -> &'static str {
    if row.is_multiple_of(4) { "_x4" } else { "" }
}

/// Into how many slices of how many elements a row is cut; a slice is a multiple of four.
fn cut(rows: usize, row: usize) -> (usize, usize) {
    let wanted = (BLOCKS / rows.max(1)).clamp(1, row.div_ceil(SLICE).max(1));
    let slice = row.div_ceil(wanted).next_multiple_of(4);
    (row.div_ceil(slice.max(1)).max(1), slice)
}

pub(super) fn reduce(op: &Reduce, shapes: Shapes<'_>) -> GpuKernel {
    let rows = shapes.outputs[0].len();
    let row = shapes.inputs[0].len() / rows.max(1);
    let (slices, slice) = cut(rows, row);
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
            }
        }
        assert_eq!(cut(512, 1 << 20).0, 1);
        assert_eq!(cut(1, 1 << 22).0, BLOCKS);
    }
}
