//! Gradients: of the input, and of scale and shift.

use super::{
    Affine, FLOPS_PER_ELEMENT, Params, Pass, Source, activate, blocks, channels, chunks,
    elementwise, gather, rows,
};
use crate::device::cpu::gemm::Activation;
use crate::device::cpu::parallel::{self, Shared};
use crate::device::cpu::simd::{self, Kernel, Simd};

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

/// Gradient of [`super::forward`] where mean and deviation come from `x` itself (training): `dx`, `dgamma`, `dbeta`.
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
    // A chunk's part is the sums of `g`, then those of `g x_hat`.
    let (dgamma, dbeta) = (&mut dgamma[..c], &mut dbeta[..c]);
    for channel in 0..c {
        let total = |first: usize| {
            let parts = parts.iter().skip(first).step_by(2 * c);
            parts.map(|p| f64::from(*p)).sum::<f64>() as f32
        };
        (dbeta[channel], dgamma[channel]) = (total(channel), total(c + channel));
    }
}

/// Gradient of [`super::forward`] with respect to `x` where mean and deviation are constants (evaluation): `dx = gamma inv_std act' dy`.
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
