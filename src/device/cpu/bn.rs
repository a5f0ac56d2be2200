//! Batch normalisation over `[rows, c]` (rows are images times pixels), fused with the activation that follows.
//!
//! Training: mean and variance in two passes over each chunk of rows (never `E[x^2] - E[x]^2`), chunks joined by the exact update of Chan,
//! Golub and LeVeque (1983) in fixed order; then `y = act(gamma (x - mean) inv_std + beta)`. The gradient recomputes the activation's
//! argument from `x`, so nothing but mean and inverse deviation is kept. Evaluation: `y = act(scale x + shift)` and its gradient.
//! All of it is bound by memory: reads and writes of `x`, `y`, `dy`, `dx` once per pass.

use super::gemm::{Activation, LIP};
use super::parallel::{self, Shared};
use super::simd::{self, Kernel, Simd};
use super::vmath;

mod backward;
mod moments;

pub use backward::{backward, backward_constant, backward_dx, backward_workspace, gradient_sums};
pub use moments::{moments, moments_workspace};

/// Chunks of rows that a reduction is cut into, at most.
const MAX_CHUNKS: usize = 16;
/// Rows of a chunk at least.
const MIN_ROWS: usize = 64;

fn chunks(rows: usize) -> usize {
    (rows / MIN_ROWS).clamp(1, MAX_CHUNKS)
}

/// An activation's value and derivative.
#[inline(always)]
fn activate<S: Simd>(s: S, activation: Activation, x: S::V) -> (S::V, S::V) {
    match activation {
        Activation::None => (x, s.splat(1.0)),
        Activation::Swish => vmath::swish_and_grad(s, x),
        Activation::LipSwish => {
            let (y, d) = vmath::swish_and_grad(s, x);
            (s.mul(s.splat(LIP), y), s.mul(s.splat(LIP), d))
        }
        Activation::Elu => (vmath::elu(s, x), vmath::elu_grad(s, x)),
    }
}

/// A read-only tensor as tasks share it.
#[derive(Clone, Copy)]
struct Source(*const f32);
// SAFETY: a view of a slice borrowed for the whole call.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}
impl Source {
    #[inline(always)]
    fn at(&self, i: usize) -> *const f32 {
        self.0.wrapping_add(i)
    }
}

/// Ranges of rows of which a few tensors together stay in the first-level cache: reductions go over all channels of one before they
/// turn to the next, so that they read memory in order. The terms of one are added up one after the other, in several sums side by side,
/// before the result joins a sum of such: the rounding error of a sum grows with both lengths, not with their product.
fn blocks(rows: &std::ops::Range<usize>, c: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let (start, end, step) = (rows.start, rows.end, (4096 / c.max(1)).clamp(8, 32));
    // Of no rows there is one empty block, so that sums of nothing are written too.
    (0..rows.len().div_ceil(step).max(1)).map(move |i| {
        let first = start + i * step;
        first..(first + step).min(end)
    })
}

/// Calls the body for every row, with `$k` the one of `$n` accumulators that it goes to: a constant wherever it stands, so that
/// accumulators stay in registers.
macro_rules! rows {
    ($rows:expr, $n:literal, |$row:ident, $k:ident| $body:block) => {{
        let (mut row, end) = ($rows.start, $rows.end);
        while row + $n <= end {
            for $k in 0..$n {
                let $row = row + $k;
                $body
            }
            row += $n;
        }
        for $row in row..end {
            let $k = 0;
            $body
        }
    }};
}
use rows;

/// Adds a vector to what stands at `to`, or puts it there.
///
/// # Safety
/// `min(n, LANES)` numbers from `to` on may be written, and hold numbers unless `first`.
#[inline(always)]
unsafe fn gather<S: Simd>(s: S, to: *mut f32, n: usize, first: bool, v: S::V) {
    // SAFETY: the caller's promise.
    unsafe {
        let sum = if first {
            v
        } else {
            s.add(s.load_upto(to, n), v)
        };
        s.store_upto(to, n, sum);
    }
}

/// Calls `f(channel, lanes)` for every vector of channels.
macro_rules! channels {
    ($s:ident, $c:expr, |$at:ident, $n:ident| $body:block) => {{
        let mut $at = 0;
        while $at < $c {
            let $n = $c - $at;
            $body
            $at += S::LANES;
        }
    }};
}
use channels;

/// The argument of the activation, `(x - mean) inv_std gamma + beta` per channel.
///
/// In evaluation mode `mean` and `inv_std` are `None` and `gamma`, `beta` hold the folded scale and shift.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// `[c]`; `None` is zero.
    pub mean: Option<&'a [f32]>,
    /// `1 / sqrt(variance + eps)`, `[c]`; `None` is one.
    pub inv_std: Option<&'a [f32]>,
    /// `[c]`.
    pub gamma: &'a [f32],
    /// `[c]`.
    pub beta: &'a [f32],
}

/// [`Affine`] as tasks share it.
#[derive(Clone, Copy)]
struct Params {
    mean: Option<Source>,
    inv_std: Option<Source>,
    gamma: Source,
    beta: Source,
}

/// One vector of channels of [`Params`].
struct Lanes<S: Simd> {
    mean: S::V,
    inv_std: S::V,
    gamma: S::V,
    beta: S::V,
}

impl Params {
    fn new(a: &Affine<'_>, c: usize) -> Self {
        let optional = |v: Option<&[f32]>| v.is_none_or(|v| v.len() >= c);
        assert!(
            optional(a.mean) && optional(a.inv_std) && a.gamma.len() >= c && a.beta.len() >= c,
            "parameters of {c} channels"
        );
        let source = |v: &[f32]| Source(v.as_ptr());
        Self {
            mean: a.mean.map(source),
            inv_std: a.inv_std.map(source),
            gamma: source(a.gamma),
            beta: source(a.beta),
        }
    }

    /// # Safety
    /// `min(n, LANES)` channels from `at` on exist.
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, s: S, at: usize, n: usize) -> Lanes<S> {
        // SAFETY: the caller's promise.
        unsafe {
            Lanes {
                mean: match self.mean {
                    Some(v) => s.load_upto(v.at(at), n),
                    None => s.splat(0.0),
                },
                inv_std: match self.inv_std {
                    Some(v) => s.load_upto(v.at(at), n),
                    None => s.splat(1.0),
                },
                gamma: s.load_upto(self.gamma.at(at), n),
                beta: s.load_upto(self.beta.at(at), n),
            }
        }
    }
}

/// Rows a task of an elementwise pass takes: about 16 thousand elements.
fn pass_rows(c: usize) -> usize {
    (16 * 1024 / c.max(1)).max(1)
}

/// Cost estimate of one element of a pass with an activation.
const FLOPS_PER_ELEMENT: u64 = 24;

/// What an elementwise pass computes.
#[derive(Clone, Copy)]
enum Pass {
    /// `act(argument)`.
    Forward,
    /// `gamma inv_std (g - mean_g - x_hat mean_gx)` with `g = dy act'(argument)`; `sums` holds the per-channel sums of `g` and of `g x_hat`, or is
    /// `None` where the statistics are constants.
    Gradient {
        dy: Source,
        sums: Option<(Source, Source)>,
        inv_rows: f32,
    },
}

struct Elementwise {
    pass: Pass,
    params: Params,
    activation: Activation,
    x: Source,
    out: *mut f32,
    rows: std::ops::Range<usize>,
    c: usize,
}

impl Kernel for Elementwise {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.rows.clone() {
            channels!(s, self.c, |at, n| {
                let i = row * self.c + at;
                // SAFETY: element `i` and those of its vector exist in `x`, `dy` and `out`; this task owns its rows of `out`.
                unsafe {
                    let p = self.params.load(s, at, n);
                    let hat = s.mul(s.sub(s.load_upto(self.x.at(i), n), p.mean), p.inv_std);
                    let (y, slope) = activate(s, self.activation, s.fma(hat, p.gamma, p.beta));
                    let value = match self.pass {
                        Pass::Forward => y,
                        Pass::Gradient { dy, sums, inv_rows } => {
                            let mut g = s.mul(slope, s.load_upto(dy.at(i), n));
                            if let Some((sum_g, sum_gx)) = sums {
                                let inv = s.splat(inv_rows);
                                g = s.fnma(s.load_upto(sum_g.at(at), n), inv, g);
                                g = s.fnma(s.mul(hat, inv), s.load_upto(sum_gx.at(at), n), g);
                            }
                            s.mul(g, s.mul(p.gamma, p.inv_std))
                        }
                    };
                    s.store_upto(self.out.add(i), n, value);
                }
            });
        }
    }
}

fn elementwise(
    pass: Pass,
    params: Params,
    activation: Activation,
    rows: usize,
    c: usize,
    x: &[f32],
    out: &mut [f32],
) {
    let (x, out, isa, per_task) = (
        Source(x.as_ptr()),
        Shared::new(out),
        simd::isa(),
        pass_rows(c),
    );
    parallel::for_each(
        rows.div_ceil(per_task),
        (rows * c) as u64 * FLOPS_PER_ELEMENT,
        |task| {
            let rows = task * per_task..((task + 1) * per_task).min(rows);
            simd::dispatch(
                isa,
                Elementwise {
                    pass,
                    params,
                    activation,
                    x,
                    out: out.at(0),
                    rows,
                    c,
                },
            );
        },
    );
}

/// `y = act((x - mean) inv_std gamma + beta)` over `[rows, c]`.
///
/// # Panics
/// If a slice is too short.
pub fn forward(
    rows: usize,
    c: usize,
    x: &[f32],
    affine: &Affine<'_>,
    activation: Activation,
    y: &mut [f32],
) {
    assert!(
        x.len() >= rows * c && y.len() >= rows * c,
        "{rows} rows of {c}"
    );
    elementwise(
        Pass::Forward,
        Params::new(affine, c),
        activation,
        rows,
        c,
        x,
        y,
    );
}

#[cfg(test)]
#[path = "bn_tests.rs"]
mod tests;
