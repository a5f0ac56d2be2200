//! Launches of `kernels/spectral.cu`.

use super::{SigmaSum, SigmaSumGrad};
use crate::ops::Shapes;
use crate::program::gpu::{GpuKernel, GpuLaunch, THREADS, Tensor, Word};
use crate::tensor::Shape;

const MODULE: &str = "spectral";
/// Elements of the largest weight that one block works on alone.
const SMALL: usize = 16 * 1024;
/// Elements of a piece of a weight, about.
const PIECE: usize = 8 * 1024;
/// Rows of a piece at most: `PIECE_ROWS` of the kernel.
const PIECE_ROWS: usize = 1024;
/// Rows of a piece at least, so that its sums over them are fewer than its elements.
const FEWEST_ROWS: usize = 8;
/// Columns of a block that sums pieces up.
const TILE: usize = 32;
/// Elements of a piece of a gradient.
const OUTER: usize = 16 * THREADS as usize;

/// How a weight is cut into pieces of whole rows.
#[derive(Clone, Copy, Debug)]
struct Cut {
    rows: usize,
    columns: usize,
    /// Rows of a piece.
    piece: usize,
    pieces: usize,
}

impl Cut {
    fn new(w: Shape) -> Self {
        let (rows, columns) = (w.rows(), w.last());
        let piece = (PIECE / columns.max(1)).clamp(FEWEST_ROWS, PIECE_ROWS);
        Cut {
            rows,
            columns,
            piece,
            pieces: rows.div_ceil(piece),
        }
    }

    /// Partial sums of a piece: those of `Lanes` of the kernel, several for each of few columns.
    fn partial(&self) -> usize {
        let width = self.columns.clamp(1, THREADS as usize);
        self.pieces * (THREADS as usize / width) * self.columns
    }
}

/// Hands out the workspace.
#[derive(Default)]
struct Workspace(usize);

impl Workspace {
    fn take(&mut self, elements: usize) -> Word {
        let at = self.0;
        self.0 += elements;
        Word::Address(Tensor::Workspace, at)
    }
}

pub(super) fn sigma_sum(op: &SigmaSum, shapes: Shapes<'_>) -> GpuKernel {
    let count = shapes.inputs.len();
    let small = shapes.inputs.iter().all(|w| w.len() <= SMALL);
    let cuts: Vec<Cut> = shapes.inputs.iter().map(|w| Cut::new(*w)).collect();
    let mut workspace = Workspace::default();
    // One behind the other, at the start.
    let sigmas: Vec<Word> = (0..count).map(|_| workspace.take(1)).collect();
    let mut weights = Vec::new();
    for (i, (cut, sigma)) in cuts.iter().zip(sigmas).enumerate() {
        let (partial, squares) = if small {
            (0, 0)
        } else {
            (cut.partial(), cut.pieces + 1)
        };
        weights.extend([
            Word::Address(Tensor::Input(i), 0),
            Word::Address(Tensor::Update(i), 0),
            Word::Address(Tensor::Output(1 + i), 0),
            Word::Address(Tensor::Output(1 + count + i), 0),
            workspace.take(cut.columns),
            workspace.take(partial),
            workspace.take(squares),
            sigma,
        ]);
        weights
            .extend([cut.rows, cut.columns, cut.pieces, cut.piece].map(|n| Word::Number(n as u64)));
    }
    let launch = |kernel: &str, blocks: usize| {
        let launch = GpuLaunch::new(MODULE, format!("spectral_sigma_f32_{kernel}"));
        launch.blocks(blocks).table(weights.clone())
    };
    let mut launches = if small {
        vec![launch("whole", count).count(op.iterations)]
    } else {
        let mut launches = Vec::new();
        let pieces = table(&cuts, |cut| 0..cut.pieces);
        let tiles = table(&cuts, |cut| (0..cut.columns).step_by(TILE));
        for iteration in 0..op.iterations {
            launches.push(
                launch("rows", pieces.len() / 2)
                    .table(pieces.clone())
                    .count(usize::from(iteration == 0)),
            );
            launches.push(launch("columns", tiles.len() / 2).table(tiles.clone()));
        }
        launches.push(launch("finish", count));
        launches
    };
    launches.push(total(count));
    GpuKernel::new(launches, workspace.0)
}

/// A row `(weight, number)` for each number that a weight has.
fn table<I: Iterator<Item = usize>>(cuts: &[Cut], numbers: impl Fn(&Cut) -> I) -> Vec<Word> {
    let rows = cuts.iter().enumerate().flat_map(|(weight, cut)| {
        numbers(cut).map(move |number| [weight, number].map(|n| Word::Number(n as u64)))
    });
    rows.flatten().collect()
}

/// The sum of the first `count` numbers of the workspace.
fn total(count: usize) -> GpuLaunch {
    GpuLaunch::new(MODULE, "spectral_f32_total")
        .block(32)
        .workspace(0)
        .output(0)
        .count(count)
}

pub(super) fn sigma_sum_grad(op: &SigmaSumGrad, shapes: Shapes<'_>) -> GpuLaunch {
    let count = op.weights.len();
    let mut pieces = Vec::new();
    let mut blocks = 0;
    for (i, w) in shapes.outputs.iter().enumerate() {
        for start in (0..w.len()).step_by(OUTER) {
            pieces.extend([
                Word::Address(Tensor::Output(i), 0),
                Word::Address(Tensor::Input(1 + i), 0),
                Word::Address(Tensor::Input(1 + count + i), 0),
            ]);
            let elements = OUTER.min(w.len() - start);
            pieces.extend([start, elements, w.last()].map(|n| Word::Number(n as u64)));
            blocks += 1;
        }
    }
    GpuLaunch::new(MODULE, "spectral_sigma_dgrad_f32")
        .blocks(blocks)
        .input(0)
        .table(pieces)
}

/// Tensors from input `first` on, with their gradients as outputs if there are any.
fn gains(tensors: &[Shape], first: usize, gradients: bool) -> Vec<Word> {
    let rows = tensors.iter().enumerate().map(|(i, x)| {
        let gradient = match gradients {
            true => Word::Address(Tensor::Output(i), 0),
            false => Word::Number(0),
        };
        [
            Word::Address(Tensor::Input(first + i), 0),
            gradient,
            Word::Number(x.len() as u64),
        ]
    });
    rows.flatten().collect()
}

pub(super) fn max_abs_sum(shapes: Shapes<'_>) -> GpuKernel {
    let count = shapes.inputs.len();
    let largest = GpuLaunch::new(MODULE, "max_abs_sum_f32")
        .threads_for(32 * count)
        .table(gains(shapes.inputs, 0, false))
        .workspace(0)
        .count(count);
    GpuKernel::new(vec![largest, total(count)], count)
}

pub(super) fn max_abs_sum_grad(shapes: Shapes<'_>) -> GpuLaunch {
    let tensors = &shapes.inputs[1..];
    GpuLaunch::new(MODULE, "max_abs_sum_dgrad_f32")
        .threads_for(32 * tensors.len())
        .input(0)
        .table(gains(tensors, 1, true))
        .count(tensors.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_all_rows_within_the_kernels_room() {
        for extents in [[1, 1], [1 << 20, 1], [2304, 256], [7, 6144], [100_000, 3]] {
            let cut = Cut::new(extents.into());
            assert!(cut.pieces * cut.piece >= cut.rows, "{cut:?}");
            assert!((cut.pieces - 1) * cut.piece < cut.rows, "{cut:?}");
            assert!((FEWEST_ROWS..=PIECE_ROWS).contains(&cut.piece), "{cut:?}");
        }
        assert_eq!(Cut::new([9, 3].into()).partial(), 85 * 3);
        assert_eq!(Cut::new([9, 300].into()).partial(), 300);
    }

    /// The kernels of a sum over weights of these shapes.
    fn kernels(weights: &[Shape], iterations: usize) -> Vec<String> {
        let updates: Vec<Shape> = weights.iter().map(|w| Shape::new(&[w.last()])).collect();
        let shapes = Shapes {
            inputs: weights,
            outputs: &[],
            updates: &updates,
        };
        let kernel = sigma_sum(&SigmaSum { iterations }, shapes);
        (kernel.launches.into_iter())
            .map(|l| l.function.replace("spectral_", ""))
            .collect()
    }

    #[test]
    fn small_weights_are_one_launch_and_large_ones_two_an_iteration() {
        let small = Shape::from([128, 128]);
        assert_eq!(kernels(&[small; 3], 40), ["sigma_f32_whole", "f32_total"]);
        let (rows, columns) = ("sigma_f32_rows", "sigma_f32_columns");
        let want = [
            rows,
            columns,
            rows,
            columns,
            "sigma_f32_finish",
            "f32_total",
        ];
        assert_eq!(kernels(&[small, [2304, 256].into()], 2), want);
    }
}
