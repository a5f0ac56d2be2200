//! Launches of `kernels/guard.cu`.

use bytemuck::{Pod, Zeroable};

use super::judge::{Judge, MAX_WATCHES, MAX_WINDOW};
use super::measure::{Kind, Measure};
use crate::ops::Shapes;
use crate::program::gpu::{GpuKernel, GpuLaunch, THREADS, Tensor, Word};
use crate::tensor::Shape;

const MODULE: &str = "guard";
/// Elements of a piece.
const PIECE: usize = 16 * THREADS as usize;

/// The pieces of tensors, `(tensor, start, count)`, in order.
fn pieces(tensors: &[Shape]) -> Vec<(usize, usize, usize)> {
    let all = tensors.iter().enumerate().flat_map(|(k, shape)| {
        let starts = (0..shape.len()).step_by(PIECE);
        starts.map(move |start| (k, start, PIECE.min(shape.len() - start)))
    });
    all.collect()
}

pub(super) fn measure(op: &Measure, shapes: Shapes<'_>) -> GpuKernel {
    let kind = op.0;
    let count = kind.tensors(shapes.inputs.len());
    let tensors = &shapes.inputs[..count];
    let pieces = pieces(tensors);
    let rows = pieces.iter().flat_map(|&(k, start, elements)| {
        let other = match kind {
            Kind::Distance => Word::Address(Tensor::Input(count + k), start),
            Kind::Norm | Kind::Clamped => Word::Number(0),
        };
        [
            Word::Address(Tensor::Input(k), start),
            other,
            Word::Number(elements as u64),
            Word::Number(kind.weight(tensors, k).to_bits()),
        ]
    });
    let variant = match kind {
        Kind::Norm => "norm",
        Kind::Distance => "distance",
        Kind::Clamped => "clamped",
    };
    let parts = GpuLaunch::new(MODULE, format!("guard_measure_f32_{variant}"))
        .blocks(pieces.len())
        .table(rows.collect())
        .workspace(0);
    let finish = GpuLaunch::new(MODULE, "guard_measure_f32_finish")
        .blocks(1)
        .workspace(0)
        .output(0)
        .count(pieces.len())
        .count(kind.has_root().into());
    // Partial sums are f64.
    GpuKernel::new(vec![parts, finish], 2 * pieces.len())
}

/// `Watch` of the kernel.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct WatchArgument {
    floor: f32,
    relative: f32,
    limit: f32,
    log: u32,
    both: u32,
}

/// `Settings` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct JudgeArgument {
    watches: [WatchArgument; MAX_WATCHES],
    count: u32,
    window: u32,
    warmup: u32,
    patience: u32,
    records: u32,
    threshold: f32,
}

pub(super) fn judge(op: &Judge) -> GpuLaunch {
    let s = &op.0;
    let count = s.watches.len();
    let mut watches = [WatchArgument::default(); MAX_WATCHES];
    for (to, watch) in watches.iter_mut().zip(&s.watches) {
        *to = WatchArgument {
            floor: watch.floor as f32,
            relative: watch.relative as f32,
            limit: watch.limit as f32,
            log: watch.log.into(),
            both: watch.both.into(),
        };
    }
    let values = (0..count).map(|i| Word::Address(Tensor::Input(i), 0));
    GpuLaunch::new(MODULE, "guard_judge_f32")
        .blocks(1)
        .block(MAX_WINDOW as u32)
        .table(values.collect())
        .input(count)
        .update(0)
        .output(0)
        .output(1)
        .value(JudgeArgument {
            watches,
            count: count as u32,
            window: s.window as u32,
            warmup: s.warmup as u32,
            patience: s.patience as u32,
            records: s.records as u32,
            threshold: s.threshold as f32,
        })
}

/// A table of pieces that are copied.
fn copies(
    tensors: &[Shape],
    from: impl Fn(usize) -> Tensor,
    to: impl Fn(usize) -> Tensor,
) -> (usize, Vec<Word>) {
    let pieces = pieces(tensors);
    let rows = pieces.iter().flat_map(|&(k, start, count)| {
        [
            Word::Address(from(k), start),
            Word::Address(to(k), start),
            Word::Number(count as u64),
        ]
    });
    (pieces.len(), rows.collect())
}

pub(super) fn keep(shapes: Shapes<'_>) -> GpuLaunch {
    let (blocks, rows) = copies(shapes.inputs, Tensor::Input, Tensor::Output);
    GpuLaunch::new(MODULE, "guard_keep_f32")
        .blocks(blocks)
        .table(rows)
}

pub(super) fn put_back(shapes: Shapes<'_>) -> GpuLaunch {
    let (blocks, rows) = copies(shapes.updates, Tensor::Input, Tensor::Update);
    GpuLaunch::new(MODULE, "guard_put_back_f32")
        .blocks(blocks)
        .table(rows)
        .input(shapes.updates.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_element_once() {
        let shapes = [[1, 1], [3, 683], [0, 4], [2, 4096], [5, 1000]].map(Shape::from);
        let mut seen = shapes.map(|s| vec![0; s.len()]);
        for (k, start, count) in pieces(&shapes) {
            assert!(start % 4 == 0 && count > 0);
            seen[k][start..start + count]
                .iter_mut()
                .for_each(|n| *n += 1);
        }
        assert!(seen.iter().flatten().all(|n| *n == 1));
    }

    #[test]
    fn a_measure_of_nothing_but_empty_tensors_still_writes_its_zero() {
        let inputs = [Shape::from([0, 4])];
        let shapes = Shapes {
            inputs: &inputs,
            outputs: &[Shape::SCALAR],
            updates: &[],
        };
        let kernel = measure(&Measure(Kind::Norm), shapes);
        let grids: Vec<u32> = kernel.launches.iter().map(|l| l.grid[0]).collect();
        assert_eq!(grids, [0, 1]);
    }
}
