//! Native kernels: weights side by side, one pass over a weight for each power iteration.
//!
//! A row `w_r` of the stored matrix gives `v_r = w_r u` and joins `W v = sum_r v_r w_r` at once; dividing both by `|v|` afterwards is
//! the same as before.

use super::{NORM_FLOOR, SigmaSum, SigmaSumGrad};
use crate::device::cpu::simd::{self, Kernel, Simd};
use crate::device::cpu::slices::{for_each_task, load, store};
use crate::program::Io;

/// Rows whose contributions are summed apart before they join the total.
const ROWS: usize = 64;
/// Elements of a task of the gradient, about.
const PIECE: usize = 8 * 1024;

/// One weight with its vectors.
struct Iterate<'a> {
    w: &'a [f32],
    iterations: usize,
    /// The state.
    u: &'a mut [f32],
    /// `W v` on the way, a copy of `u` in the end.
    copy: &'a mut [f32],
    partial: &'a mut [f32],
    v: &'a mut [f32],
    sigma: &'a mut f64,
}

#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [s.splat(0.0); 2];
    for at in (0..a.len()).step_by(2 * S::LANES) {
        sums[0] = s.fma(load(s, a, at), load(s, b, at), sums[0]);
        let next = (at + S::LANES).min(a.len());
        sums[1] = s.fma(load(s, a, next), load(s, b, next), sums[1]);
    }
    s.sum(s.add(sums[0], sums[1]))
}

/// `y += a x`.
#[inline(always)]
fn add_scaled<S: Simd>(s: S, a: f32, x: &[f32], y: &mut [f32]) {
    let a = s.splat(a);
    for at in (0..y.len()).step_by(S::LANES) {
        store(s, y, at, s.fma(a, load(s, x, at), load(s, y, at)));
    }
}

/// `y = a x`.
#[inline(always)]
fn scaled<S: Simd>(s: S, a: f32, x: &[f32], y: &mut [f32]) {
    let a = s.splat(a);
    for at in (0..y.len()).step_by(S::LANES) {
        store(s, y, at, s.mul(a, load(s, x, at)));
    }
}

/// What a vector is divided by.
#[inline(always)]
fn divisor<S: Simd>(s: S, x: &[f32]) -> f32 {
    dot(s, x, x).sqrt().max(NORM_FLOOR as f32)
}

impl Kernel for Iterate<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (u, total, v) = (self.u, self.copy, self.v);
        let columns = u.len();
        for _ in 0..self.iterations {
            total.fill(0.0);
            let blocks = self.w.chunks(ROWS * columns).zip(v.chunks_mut(ROWS));
            for (w, v) in blocks {
                self.partial.fill(0.0);
                for (w, v) in w.chunks_exact(columns).zip(v) {
                    *v = dot(s, w, u);
                    add_scaled(s, *v, w, self.partial);
                }
                add_scaled(s, 1.0, self.partial, total);
            }
            let scale = 1.0 / divisor(s, v);
            for v in v.iter_mut() {
                *v *= scale;
            }
            for t in total.iter_mut() {
                *t *= scale;
            }
            scaled(s, 1.0 / divisor(s, total), total, u);
        }
        *self.sigma = f64::from(dot(s, u, total));
        total.copy_from_slice(u);
    }
}

pub(super) fn sigma_sum(op: &SigmaSum, io: &mut Io<'_, f32>) {
    let (isa, weights, iterations) = (simd::isa(), io.inputs, op.iterations);
    let mut sigmas = vec![0.0; weights.len()];
    let [total, vectors @ ..] = &mut *io.outputs else {
        unreachable!("outputs, by the shape rule");
    };
    let (copies, right) = vectors.split_at_mut(weights.len());
    let mut scratch = &mut *io.workspace;
    let mut flops = 0;
    let states = io
        .updates
        .iter_mut()
        .zip(copies)
        .zip(right)
        .zip(&mut sigmas);
    let mut tasks: Vec<Iterate<'_>> = Vec::with_capacity(weights.len());
    for ((((u, _), (copy, _)), (v, _)), sigma) in states {
        let w = weights[tasks.len()].0;
        let (partial, rest) = std::mem::take(&mut scratch).split_at_mut(u.len());
        scratch = rest;
        flops += 4 * (iterations * w.len()) as u64;
        tasks.push(Iterate {
            w,
            iterations,
            u,
            copy,
            partial,
            v,
            sigma,
        });
    }
    for_each_task(tasks, flops, |task| simd::dispatch(isa, task));
    total.0[0] = sigmas.iter().sum::<f64>() as f32;
}

/// Some rows of `dw = dsum v u^T`.
struct Outer<'a> {
    dsum: f32,
    u: &'a [f32],
    v: &'a [f32],
    dw: &'a mut [f32],
}

impl Kernel for Outer<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (dw, v) in self.dw.chunks_exact_mut(self.u.len()).zip(self.v) {
            scaled(s, self.dsum * v, self.u, dw);
        }
    }
}

pub(super) fn sigma_sum_grad(op: &SigmaSumGrad, io: &mut Io<'_, f32>) {
    let (isa, dsum, vectors) = (simd::isa(), io.input(0)[0], &io.inputs[1..]);
    let (left, right) = vectors.split_at(op.weights.len());
    let mut tasks = Vec::new();
    for (((dw, _), (u, _)), (v, _)) in io.outputs.iter_mut().zip(left).zip(right) {
        let rows = PIECE.div_ceil(u.len().max(1));
        let pieces = dw.chunks_mut((rows * u.len()).max(1)).zip(v.chunks(rows));
        tasks.extend(pieces.map(|(dw, v)| Outer { dsum, u, v, dw }));
    }
    let elements: usize = op.weights.iter().map(|s| s.len()).sum();
    for_each_task(tasks, 4 * elements as u64, |task| simd::dispatch(isa, task));
}
