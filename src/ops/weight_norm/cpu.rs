//! Native kernels. Filters stand in columns: norms are summed by tasks that take some columns of all rows, their vectors holding
//! neighbouring filters; the result is then made row by row.

use super::{FLOOR, WeightNorm, WeightNormGrad};
use crate::device::cpu::simd::{self, Kernel, Simd};
use crate::device::cpu::slices::{for_each_task, load, store};
use crate::program::Io;

/// Columns of a task.
const COLUMNS: usize = 32;
/// Rows that are summed in `f32` before their sum joins the total in `f64`.
const ROWS: usize = 32;

/// The columns `first .. first + width` of matrices with rows of `columns`.
#[derive(Clone, Copy)]
struct Block {
    columns: usize,
    first: usize,
    width: usize,
}

impl Block {
    /// This block's part of row `r`.
    #[inline(always)]
    fn of<'a>(&self, x: &'a [f32], r: usize) -> &'a [f32] {
        &x[r * self.columns + self.first..][..self.width]
    }
}

/// `sums[i][o]` of the products that `terms` gives for each vector of each row, over all rows.
#[inline(always)]
fn sum_rows<S: Simd, const N: usize>(
    s: S,
    rows: usize,
    width: usize,
    terms: impl Fn(usize, usize) -> [(S::V, S::V); N],
) -> [[f64; COLUMNS]; N] {
    let mut totals = [[0.0; COLUMNS]; N];
    for start in (0..rows).step_by(ROWS) {
        let mut sums = [[0.0; COLUMNS]; N];
        for at in (0..width).step_by(S::LANES) {
            let mut vectors = [s.splat(0.0); N];
            for r in start..rows.min(start + ROWS) {
                for (sum, (a, b)) in vectors.iter_mut().zip(terms(r, at)) {
                    *sum = s.fma(a, b, *sum);
                }
            }
            for (sums, v) in sums.iter_mut().zip(vectors) {
                store(s, sums, at, v);
            }
        }
        for (total, sum) in totals
            .as_flattened_mut()
            .iter_mut()
            .zip(sums.as_flattened())
        {
            *total += f64::from(*sum);
        }
    }
    totals
}

/// The weight, the mask if there is one, and the logarithms of the gains.
#[derive(Clone, Copy)]
struct Weight<'a> {
    w: &'a [f32],
    mask: Option<&'a [f32]>,
    log_weight_norm: Option<&'a [f32]>,
    columns: usize,
}

/// What becomes of one block of filters.
struct Factors<'a> {
    block: Block,
    /// Of the forward pass and of `dy`.
    gain: &'a mut [f32],
    /// Of the part of the gradient along the filter; backward only.
    radial: &'a mut [f32],
    /// Backward only.
    dlog_weight_norm: Option<&'a mut [f32]>,
}

/// Fills the factors of a block from norms and, with `dy`, from products.
struct Filters<'a, 'b> {
    weight: Weight<'a>,
    dy: Option<&'a [f32]>,
    factors: Factors<'b>,
}

impl Kernel for Filters<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (weight, mut factors) = (self.weight, self.factors);
        let block = factors.block;
        let rows = weight.w.len() / weight.columns;
        let v = |r: usize, at: usize| {
            let w = load(s, block.of(weight.w, r), at);
            match weight.mask {
                Some(mask) => s.mul(w, load(s, block.of(mask, r), at)),
                None => w,
            }
        };
        let [squares, dots] = sum_rows(s, rows, block.width, |r, at| {
            let v = v(r, at);
            let dy = self
                .dy
                .map_or(s.splat(0.0), |dy| load(s, block.of(dy, r), at));
            [(v, v), (dy, v)]
        });
        for o in 0..block.width {
            let log_gain = weight.log_weight_norm.map_or(0.0, |l| l[block.first + o]);
            let norm = squares[o].sqrt();
            let gain = f64::from(log_gain).exp() / (norm + FLOOR);
            factors.gain[o] = gain as f32;
            if self.dy.is_some() {
                let radial = gain * dots[o] / ((norm + FLOOR) * norm);
                factors.radial[o] = if norm > 0.0 { radial as f32 } else { 0.0 };
            }
            if let Some(d) = &mut factors.dlog_weight_norm {
                d[o] = (gain * dots[o]) as f32;
            }
        }
    }
}

/// `y = gain v`, or `dw = mask (gain dy - radial v)`, in some rows from element `start` on.
struct Rows<'a> {
    weight: Weight<'a>,
    /// `dy` and the radial factors, backward.
    backward: Option<(&'a [f32], &'a [f32])>,
    gain: &'a [f32],
    start: usize,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let columns = self.weight.columns;
        let rows = self.out.chunks_exact_mut(columns);
        for (row, out) in rows.enumerate() {
            let here = self.start + row * columns..self.start + (row + 1) * columns;
            let w = &self.weight.w[here.clone()];
            let mask = self.weight.mask.map(|m| &m[here.clone()]);
            let dy = self.backward.map(|(dy, radial)| (&dy[here], radial));
            for at in (0..columns).step_by(S::LANES) {
                let hide = |x: S::V| mask.map_or(x, |m| s.mul(x, load(s, m, at)));
                let (v, gain) = (hide(load(s, w, at)), load(s, self.gain, at));
                let y = match dy {
                    None => s.mul(gain, v),
                    Some((dy, radial)) => {
                        let whole = s.mul(gain, load(s, dy, at));
                        hide(s.fnma(load(s, radial, at), v, whole))
                    }
                };
                store(s, out, at, y);
            }
        }
    }
}

/// Elements of a task of [`Rows`], about.
const PIECE: usize = 8 * 1024;

fn run(
    weight: Weight<'_>,
    dy: Option<&[f32]>,
    workspace: &mut [f32],
    out: &mut [f32],
    dlog_weight_norm: Option<&mut [f32]>,
) {
    let (isa, columns) = (simd::isa(), weight.columns);
    let flops = 8 * weight.w.len() as u64;
    let (gain, rest) = workspace.split_at_mut(columns);
    let radial = &mut rest[..columns];
    let mut dlogs = dlog_weight_norm.map(|d| d.chunks_mut(COLUMNS));
    let factors = gain.chunks_mut(COLUMNS).zip(radial.chunks_mut(COLUMNS));
    let tasks = factors.enumerate().map(|(i, (gain, radial))| Factors {
        block: Block {
            columns,
            first: i * COLUMNS,
            width: gain.len(),
        },
        gain,
        radial,
        dlog_weight_norm: dlogs.as_mut().and_then(Iterator::next),
    });
    for_each_task(tasks.collect(), flops, |factors| {
        let kernel = Filters {
            weight,
            dy,
            factors,
        };
        simd::dispatch(isa, kernel);
    });
    let (gain, radial) = (&*gain, &*radial);
    let piece = PIECE.div_ceil(columns) * columns;
    let tasks = out.chunks_mut(piece).enumerate().collect();
    for_each_task(tasks, flops, |(i, out): (usize, &mut [f32])| {
        let kernel = Rows {
            weight,
            backward: dy.map(|dy| (dy, radial)),
            gain,
            start: i * piece,
            out,
        };
        simd::dispatch(isa, kernel);
    });
}

/// Scratch of either kernel: two factors a filter.
pub(super) fn workspace(columns: usize) -> usize {
    2 * columns
}

pub(super) fn forward(op: &WeightNorm, io: &mut Io<'_, f32>) {
    let (log_weight_norm, mask) = op.0.tensors(io, 1);
    let weight = Weight {
        w: io.input(0),
        mask,
        log_weight_norm,
        columns: io.input_shape(0).last(),
    };
    run(weight, None, io.workspace, io.outputs[0].0, None);
}

pub(super) fn backward(op: &WeightNormGrad, io: &mut Io<'_, f32>) {
    let (log_weight_norm, mask) = op.0.tensors(io, 2);
    let weight = Weight {
        w: io.input(1),
        mask,
        log_weight_norm,
        columns: io.input_shape(1).last(),
    };
    let dy = io.input(0);
    let (dw, dlog) = io.outputs.split_at_mut(1);
    let dlog = dlog.first_mut().map(|(d, _)| &mut **d);
    run(weight, Some(dy), io.workspace, dw[0].0, dlog);
}
