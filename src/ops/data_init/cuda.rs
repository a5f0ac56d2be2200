//! Launches of `kernels/data_init.cu`.

use crate::ops::Shapes;
use crate::ops::reduce::Columns;
use crate::program::gpu::{GpuKernel, GpuLaunch};

const MODULE: &str = "data_init";

pub(super) fn data_init(shapes: Shapes<'_>) -> GpuKernel {
    let y = shapes.inputs[0];
    let columns = Columns::sums(1, y.rows(), y.last());
    let partial = columns.slices * columns.results();
    let sums = columns
        .launch(MODULE, "data_init_f32_sums")
        .input(0)
        .workspace(0)
        .value(columns.argument());
    let squares = columns
        .launch(MODULE, "data_init_f32_squares")
        .input(0)
        .workspace(0)
        .workspace(partial)
        .value(columns.argument());
    let finish = GpuLaunch::new(MODULE, "data_init_f32")
        .threads_for(32 * y.last())
        .workspace(0)
        .workspace(partial)
        .update(0);
    let finish = match shapes.updates.len() {
        1 => finish.input_or_null(None),
        _ => finish.update(1),
    }
    .count(columns.slices)
    .count(y.rows())
    .count(y.last());
    GpuKernel::new(vec![sums, squares, finish], 2 * partial)
}
