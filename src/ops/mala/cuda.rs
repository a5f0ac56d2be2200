//! Launches of `kernels/mala.cu`.

use super::accept::Accept;
use super::adapt::Adapt;
use crate::ops::Shapes;
use crate::ops::noise::row_len;
use crate::program::gpu::{GpuKernel, GpuLaunch, THREADS, Tensor, Word};
use crate::tensor::Shape;

const MODULE: &str = "mala";
/// Elements of a piece, which a warp takes.
const PIECE: usize = 2048;
/// Chains of a block: a warp each.
const CHAINS: usize = THREADS as usize / 32;

/// The pieces of a chain's rows of the tensors, `(tensor, start, count)`, in order.
fn pieces(tensors: &[Shape]) -> Vec<(usize, usize, usize)> {
    let all = tensors.iter().enumerate().flat_map(|(k, shape)| {
        let row = row_len(*shape);
        let starts = (0..row).step_by(PIECE);
        starts.map(move |start| (k, start, PIECE.min(row - start)))
    });
    all.collect()
}

pub(super) fn accept(op: &Accept, shapes: Shapes<'_>) -> GpuKernel {
    let (k, tensors) = (op.positions, shapes.updates.len() - 1);
    let chains = shapes.updates[tensors][0];
    let pieces = pieces(&shapes.updates[..k]);
    let rows = || -> Vec<Word> {
        let row = |&(i, start, count): &(usize, usize, usize)| {
            [
                Word::Address(Tensor::Input(i), start),
                Word::Address(Tensor::Input(k + i), start),
                Word::Address(Tensor::Update(i), start),
                Word::Address(Tensor::Update(k + i), start),
                Word::Number(row_len(shapes.updates[i]) as u64),
                Word::Number(count as u64),
            ]
        };
        pieces.iter().flat_map(row).collect()
    };
    let numbers = (2 * k..tensors).flat_map(|i| {
        [
            Word::Address(Tensor::Input(i), 0),
            Word::Address(Tensor::Update(i), 0),
        ]
    });
    let grid = [chains.div_ceil(CHAINS), pieces.len(), 1];
    let ratio = GpuLaunch::new(MODULE, "mala_accept_f32_ratio")
        .grid(grid)
        .table(rows())
        .input(tensors)
        .workspace(0)
        .count(chains)
        .count(op.rule.standard_normal.into());
    let decide = GpuLaunch::new(MODULE, "mala_accept_f32_decide")
        .threads_for(chains)
        .noise()
        .workspace(0)
        .table(numbers.collect())
        .update(tensors)
        .output(0)
        .output(1)
        .count(chains)
        .count(pieces.len())
        .count(op.summands)
        .count(tensors - 2 * k)
        .count(op.rule.stream as usize);
    let travel = GpuLaunch::new(MODULE, "mala_accept_f32_move")
        .grid(grid)
        .table(rows())
        .output(1)
        .count(chains);
    // Partial sums are f64.
    GpuKernel::new(vec![ratio, decide, travel], 2 * chains * pieces.len())
}

pub(super) fn adapt(op: &Adapt, shapes: Shapes<'_>) -> GpuLaunch {
    GpuLaunch::new(MODULE, "mala_adapt_f32")
        .blocks(1)
        .input(0)
        .input(1)
        .update(0)
        .update(1)
        .count(shapes.inputs[0].len())
        .value(op.target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_chains_elements_once() {
        let shapes = [[3, 5], [3, 0], [3, 2048], [3, 5000]].map(Shape::from);
        let mut seen = shapes.map(|s| vec![0; row_len(s)]);
        for (k, start, count) in pieces(&shapes) {
            assert!(count > 0);
            seen[k][start..start + count]
                .iter_mut()
                .for_each(|n| *n += 1);
        }
        assert!(seen.iter().flatten().all(|n| *n == 1));
    }
}
