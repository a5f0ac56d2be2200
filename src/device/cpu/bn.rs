//! Batch normalisation over `[rows, c]` (rows are images times pixels), fused with the activation that follows.
//!
//! Training: mean and variance from [`super::moments`], then `y = act(gamma (x - mean) inv_std + beta)`. The gradient recomputes the activation's
//! argument from `x`, so nothing but mean and inverse deviation is kept. Evaluation: `y = act(scale x + shift)` and its gradient.
//! All of it is bound by memory: reads and writes of `x`, `y`, `dy`, `dx` once per pass.

use super::gemm::{Activation, LIP};
use super::moments::{Source, blocks, channels, chunks, gather, rows};
use super::parallel::{self, Shared};
use super::simd::{self, Kernel, Simd};
use super::vmath;

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
        for rows in blocks(&self.rows, self.c) {
            channels!(s, self.c, |at, n| {
                let mut sums = [s.splat(0.0); 2];
                let mut products = [s.splat(0.0); 2];
                // SAFETY: rows and channels exist; this task owns its part of `out`.
                unsafe {
                    let p = self.params.load(s, at, n);
                    rows!(rows, 2, |row, k| {
                        let i = row * self.c + at;
                        let hat = s.mul(s.sub(s.load_upto(self.x.at(i), n), p.mean), p.inv_std);
                        let (_, slope) = activate(s, self.activation, s.fma(hat, p.gamma, p.beta));
                        let g = s.mul(slope, s.load_upto(self.dy.at(i), n));
                        sums[k] = s.add(sums[k], g);
                        products[k] = s.fma(g, hat, products[k]);
                    });
                    let first = rows.start == self.rows.start;
                    let (sum, product) = (s.add(sums[0], sums[1]), s.add(products[0], products[1]));
                    gather(s, self.out.add(at), n, first, sum);
                    gather(s, self.out.add(self.c + at), n, first, product);
                }
            });
        }
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

#[cfg(test)]
#[path = "bn_tests.rs"]
mod tests;
