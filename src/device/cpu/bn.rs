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
use super::wgrad::sum_partials;

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

/// Mean and centred sum of squares of one chunk of rows: `out[0..c]`, `out[c..2c]`.
struct Moments {
    x: Source,
    rows: std::ops::Range<usize>,
    c: usize,
    out: *mut f32,
}

impl Kernel for Moments {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let count = self.rows.len() as f32;
        channels!(s, self.c, |at, n| {
            // Four sums, joined in order, hide the latency of the addition.
            let mut sums = [s.splat(0.0); 4];
            // SAFETY: rows and channels exist; this task owns its part of `out`.
            unsafe {
                for row in self.rows.clone() {
                    let x = s.load_upto(self.x.at(row * self.c + at), n);
                    sums[row & 3] = s.add(sums[row & 3], x);
                }
                let sum = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
                let mean = s.div(sum, s.splat(count));
                let mut squares = [s.splat(0.0); 4];
                let mut rest = [s.splat(0.0); 4];
                for row in self.rows.clone() {
                    let d = s.sub(s.load_upto(self.x.at(row * self.c + at), n), mean);
                    squares[row & 3] = s.fma(d, d, squares[row & 3]);
                    rest[row & 3] = s.add(rest[row & 3], d);
                }
                let squares = s.add(s.add(squares[0], squares[1]), s.add(squares[2], squares[3]));
                // What rounding left in the mean: put back, and taken out of the squares.
                let rest = s.add(s.add(rest[0], rest[1]), s.add(rest[2], rest[3]));
                let shift = s.div(rest, s.splat(count));
                s.store_upto(self.out.add(at), n, s.add(mean, shift));
                s.store_upto(self.out.add(self.c + at), n, s.fnma(rest, shift, squares));
            }
        });
    }
}

/// Scratch elements of [`moments`].
pub fn moments_workspace(rows: usize, c: usize) -> usize {
    chunks(rows) * 2 * c
}

/// Per-channel mean and biased variance of `x` `[rows, c]`.
///
/// # Panics
/// If `rows` is zero or a slice is too short.
pub fn moments(
    rows: usize,
    c: usize,
    x: &[f32],
    mean: &mut [f32],
    variance: &mut [f32],
    workspace: &mut [f32],
) {
    assert!(
        rows > 0 && x.len() >= rows * c && mean.len() >= c && variance.len() >= c,
        "moments of {rows} rows of {c}"
    );
    let chunks = chunks(rows);
    let (source, isa) = (Source(x.as_ptr()), simd::isa());
    let parts = &mut workspace[..chunks * 2 * c];
    {
        let parts = Shared::new(parts);
        parallel::for_each(chunks, (rows * c * 8) as u64, |i| {
            let rows = parallel::chunk(rows, chunks, i);
            simd::dispatch(
                isa,
                Moments {
                    x: source,
                    rows,
                    c,
                    out: parts.at(i * 2 * c),
                },
            );
        });
    }
    let (mean, variance) = (&mut mean[..c], &mut variance[..c]);
    let mut seen = 0.0f32;
    for (i, part) in parts.chunks_exact(2 * c.max(1)).enumerate() {
        let count = parallel::chunk(rows, chunks, i).len() as f32;
        let (part_mean, part_squares) = part.split_at(c);
        if i == 0 {
            mean.copy_from_slice(part_mean);
            variance.copy_from_slice(part_squares);
        } else {
            let total = seen + count;
            for ((m, v), (pm, ps)) in mean
                .iter_mut()
                .zip(variance.iter_mut())
                .zip(part_mean.iter().zip(part_squares))
            {
                let delta = pm - *m;
                *m += delta * (count / total);
                *v += ps + delta * delta * (seen * count / total);
            }
        }
        seen += count;
    }
    variance.iter_mut().for_each(|v| *v /= rows as f32);
}

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

/// Sums over one chunk of rows: of `g` to `out[0..c]`, of `g x_hat` to `out[c..2c]`.
struct GradientSums {
    params: Params,
    activation: Activation,
    x: Source,
    dy: Source,
    rows: std::ops::Range<usize>,
    c: usize,
    out: *mut f32,
}

impl Kernel for GradientSums {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        channels!(s, self.c, |at, n| {
            let mut sums = [s.splat(0.0); 2];
            let mut products = [s.splat(0.0); 2];
            // SAFETY: rows and channels exist; this task owns its part of `out`.
            unsafe {
                let p = self.params.load(s, at, n);
                for row in self.rows.clone() {
                    let i = row * self.c + at;
                    let hat = s.mul(s.sub(s.load_upto(self.x.at(i), n), p.mean), p.inv_std);
                    let (_, slope) = activate(s, self.activation, s.fma(hat, p.gamma, p.beta));
                    let g = s.mul(slope, s.load_upto(self.dy.at(i), n));
                    sums[row & 1] = s.add(sums[row & 1], g);
                    products[row & 1] = s.fma(g, hat, products[row & 1]);
                }
                s.store_upto(self.out.add(at), n, s.add(sums[0], sums[1]));
                s.store_upto(
                    self.out.add(self.c + at),
                    n,
                    s.add(products[0], products[1]),
                );
            }
        });
    }
}

/// Scratch elements of [`backward`].
pub fn backward_workspace(rows: usize, c: usize) -> usize {
    chunks(rows) * 2 * c
}

/// Gradient of [`forward`] where mean and deviation come from `x` itself (training): `dx`, `dgamma`, `dbeta`.
///
/// With `g = dy act'`, `x_hat = (x - mean) inv_std`: `dbeta = sum g`, `dgamma = sum g x_hat`,
/// `dx = gamma inv_std (g - dbeta / rows - x_hat dgamma / rows)`.
///
/// # Panics
/// If a slice is too short.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    rows: usize,
    c: usize,
    x: &[f32],
    dy: &[f32],
    affine: &Affine<'_>,
    activation: Activation,
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    workspace: &mut [f32],
) {
    gradient_sums(rows, c, x, dy, affine, activation, dgamma, dbeta, workspace);
    backward_dx(rows, c, x, dy, affine, activation, (dbeta, dgamma), dx);
}

/// `dx` alone, as [`backward`] has it, from its sums `(dbeta, dgamma)`.
///
/// # Panics
/// If a slice is too short.
#[allow(clippy::too_many_arguments)]
pub fn backward_dx(
    rows: usize,
    c: usize,
    x: &[f32],
    dy: &[f32],
    affine: &Affine<'_>,
    activation: Activation,
    (dbeta, dgamma): (&[f32], &[f32]),
    dx: &mut [f32],
) {
    assert!(
        x.len() >= rows * c && dy.len() >= rows * c && dx.len() >= rows * c,
        "{rows} rows of {c}"
    );
    assert!(
        dbeta.len() >= c && dgamma.len() >= c,
        "sums of {c} channels"
    );
    let pass = Pass::Gradient {
        dy: Source(dy.as_ptr()),
        sums: Some((Source(dbeta.as_ptr()), Source(dgamma.as_ptr()))),
        inv_rows: 1.0 / rows as f32,
    };
    elementwise(pass, Params::new(affine, c), activation, rows, c, x, dx);
}

/// `dgamma` and `dbeta` alone, as [`backward`] has them; with the folded scale and shift of evaluation mode, their gradients.
///
/// # Panics
/// If a slice is too short.
#[allow(clippy::too_many_arguments)]
pub fn gradient_sums(
    rows: usize,
    c: usize,
    x: &[f32],
    dy: &[f32],
    affine: &Affine<'_>,
    activation: Activation,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    workspace: &mut [f32],
) {
    assert!(
        x.len() >= rows * c && dy.len() >= rows * c,
        "{rows} rows of {c}"
    );
    let chunks = chunks(rows);
    let (params, isa) = (Params::new(affine, c), simd::isa());
    let (x, dy) = (Source(x.as_ptr()), Source(dy.as_ptr()));
    let parts = &mut workspace[..chunks * 2 * c];
    {
        let parts = Shared::new(parts);
        parallel::for_each(chunks, (rows * c) as u64 * FLOPS_PER_ELEMENT, |i| {
            let rows = parallel::chunk(rows, chunks, i);
            simd::dispatch(
                isa,
                GradientSums {
                    params,
                    activation,
                    x,
                    dy,
                    rows,
                    c,
                    out: parts.at(i * 2 * c),
                },
            );
        });
    }
    let (dgamma, dbeta) = (&mut dgamma[..c], &mut dbeta[..c]);
    dgamma.fill(0.0);
    dbeta.fill(0.0);
    for part in parts.chunks_exact(2 * c.max(1)) {
        dbeta.iter_mut().zip(&part[..c]).for_each(|(d, p)| *d += p);
        dgamma.iter_mut().zip(&part[c..]).for_each(|(d, p)| *d += p);
    }
}

/// Gradient of [`forward`] with respect to `x` where mean and deviation are constants (evaluation): `dx = gamma inv_std act' dy`.
///
/// # Panics
/// If a slice is too short.
pub fn backward_constant(
    rows: usize,
    c: usize,
    x: &[f32],
    dy: &[f32],
    affine: &Affine<'_>,
    activation: Activation,
    dx: &mut [f32],
) {
    assert!(
        x.len() >= rows * c && dy.len() >= rows * c && dx.len() >= rows * c,
        "{rows} rows of {c}"
    );
    let pass = Pass::Gradient {
        dy: Source(dy.as_ptr()),
        sums: None,
        inv_rows: 0.0,
    };
    elementwise(pass, Params::new(affine, c), activation, rows, c, x, dx);
}

/// Sums of one chunk of rows.
struct ColumnSum {
    x: Source,
    rows: std::ops::Range<usize>,
    c: usize,
    out: *mut f32,
}

impl Kernel for ColumnSum {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        channels!(s, self.c, |at, n| {
            let mut sums = [s.splat(0.0); 4];
            // SAFETY: rows and channels exist; this task owns its part of `out`.
            unsafe {
                for row in self.rows.clone() {
                    sums[row & 3] =
                        s.add(sums[row & 3], s.load_upto(self.x.at(row * self.c + at), n));
                }
                let sum = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
                s.store_upto(self.out.add(at), n, sum);
            }
        });
    }
}

/// Scratch elements of [`column_sum`].
pub fn column_sum_workspace(rows: usize, c: usize) -> usize {
    chunks(rows) * c
}

/// `out[c] (+)= sum over rows of x[rows, c]`: the gradient of a bias.
///
/// # Panics
/// If a slice is too short.
pub fn column_sum(
    rows: usize,
    c: usize,
    x: &[f32],
    out: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    assert!(x.len() >= rows * c, "{rows} rows of {c}");
    let chunks = chunks(rows);
    let (x, isa) = (Source(x.as_ptr()), simd::isa());
    let parts = &mut workspace[..chunks * c];
    {
        let parts = Shared::new(parts);
        parallel::for_each(chunks, (rows * c) as u64 * 2, |i| {
            let rows = parallel::chunk(rows, chunks, i);
            simd::dispatch(
                isa,
                ColumnSum {
                    x,
                    rows,
                    c,
                    out: parts.at(i * c),
                },
            );
        });
    }
    sum_partials(parts, &mut out[..c], accumulate);
}

#[cfg(test)]
#[path = "bn_tests.rs"]
mod tests;
