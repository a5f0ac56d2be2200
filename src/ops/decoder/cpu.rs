//! Native kernels. Those of the Normal decoder walk as those of latents do (see [`crate::ops::latent::lanes`]).

use super::bernoulli::{Bernoulli, BernoulliGrad};
use super::dmol::{self, Dmol, DmolGrad};
use super::normal::{NormalMean, NormalMeanGrad, NormalSample, NormalSampleGrad};
use crate::device::cpu::simd::{self, Kernel, Simd};
use crate::device::cpu::slices::{for_each_task, load, store};
use crate::device::cpu::vmath;
use crate::ops::Op;
use crate::ops::latent::cpu::walk;
use crate::ops::latent::gaussian::Law;
use crate::ops::latent::lanes::{DENSE, blocks, fits, gather, scatter, sigma, sigma_and_slope};
use crate::ops::unary::{soft_clamp, soft_clamp_slope};
use crate::program::Io;

/// `x = clamp(mu + sigma eps, -1, 1) / 2 + 1 / 2`.
struct Draw<'a> {
    channels: usize,
    params: &'a [f32],
    eps: &'a [f32],
    x: &'a mut [f32],
}

impl Kernel for Draw<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut m, mut l) = (DENSE, DENSE);
        let (one, half) = (s.splat(1.0), s.splat(0.5));
        for here in blocks(self.x.len(), self.channels) {
            let params = &self.params[2 * here.start..2 * here.end];
            gather(s, params, self.channels, &mut m, &mut l);
            let (eps, x) = (&self.eps[here.clone()], &mut self.x[here]);
            for at in (0..x.len()).step_by(S::LANES) {
                let sigma = sigma(s, Law::at(1.0), load(s, &l, at));
                let z = s.fma(load(s, eps, at), sigma, soft_clamp(s, load(s, &m, at)));
                // `min` and `max` give their second operand where it is not a number.
                let y = s.max(s.splat(-1.0), s.min(one, z));
                store(s, x, at, s.fma(y, half, half));
            }
        }
    }
}

/// `dparams` and `deps`; zero where the sample lies strictly outside [-1, 1].
struct DrawGrad<'a> {
    channels: usize,
    params: &'a [f32],
    eps: &'a [f32],
    dx: &'a [f32],
    dparams: &'a mut [f32],
    deps: &'a mut [f32],
}

impl Kernel for DrawGrad<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut m, mut l) = (DENSE, DENSE);
        let (one, half, zero) = (s.splat(1.0), s.splat(0.5), s.splat(0.0));
        for here in blocks(self.eps.len(), self.channels) {
            let twice = 2 * here.start..2 * here.end;
            gather(
                s,
                &self.params[twice.clone()],
                self.channels,
                &mut m,
                &mut l,
            );
            let (eps, dx) = (&self.eps[here.clone()], &self.dx[here.clone()]);
            let deps = &mut self.deps[here];
            for at in (0..eps.len()).step_by(S::LANES) {
                let (raw, e) = (load(s, &m, at), load(s, eps, at));
                let (sigma, slope) = sigma_and_slope(s, Law::at(1.0), load(s, &l, at));
                let z = s.fma(e, sigma, soft_clamp(s, raw));
                let dz = s.mul(half, load(s, dx, at));
                let dz = s.select_gt(s.abs(z), one, zero, dz);
                store(s, &mut m, at, s.mul(dz, soft_clamp_slope(s, raw)));
                store(s, &mut l, at, s.mul(s.mul(dz, e), slope));
                store(s, deps, at, s.mul(dz, sigma));
            }
            scatter(s, &m, &l, self.channels, &mut self.dparams[twice]);
        }
    }
}

/// `mu`, or with `dmu` its gradient in the place of the means and zeros in that of the log sigmas.
struct Mean<'a> {
    channels: usize,
    params: &'a [f32],
    out: Slope<'a>,
}

enum Slope<'a> {
    Value(&'a mut [f32]),
    Gradient {
        dmu: &'a [f32],
        dparams: &'a mut [f32],
    },
}

impl Kernel for Mean<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut m, mut l) = (DENSE, DENSE);
        let mut out = self.out;
        for here in blocks(self.params.len() / 2, self.channels) {
            let twice = 2 * here.start..2 * here.end;
            gather(
                s,
                &self.params[twice.clone()],
                self.channels,
                &mut m,
                &mut l,
            );
            match &mut out {
                Slope::Value(mu) => {
                    let mu = &mut mu[here];
                    for at in (0..mu.len()).step_by(S::LANES) {
                        store(s, mu, at, soft_clamp(s, load(s, &m, at)));
                    }
                }
                Slope::Gradient { dmu, dparams } => {
                    let dmu = &dmu[here];
                    for at in (0..dmu.len()).step_by(S::LANES) {
                        let slope = soft_clamp_slope(s, load(s, &m, at));
                        store(s, &mut m, at, s.mul(load(s, dmu, at), slope));
                    }
                    scatter(s, &m, &DENSE, self.channels, &mut dparams[twice]);
                }
            }
        }
    }
}

pub(super) fn normal_sample(op: &NormalSample, io: &mut Io<'_, f32>) {
    let shape = io.input_shape(0);
    if !fits(shape) {
        return op.reference(io);
    }
    let (channels, isa) = (shape.last() / 2, simd::isa());
    let inputs = [(io.input(0), 2), (io.input(1), 1)];
    let outputs = [(io.out(), 1)];
    walk(shape, inputs, outputs, |_, [params, eps], [x]| {
        simd::dispatch(
            isa,
            Draw {
                channels,
                params,
                eps,
                x,
            },
        );
        0.0
    });
}

pub(super) fn normal_sample_grad(op: &NormalSampleGrad, io: &mut Io<'_, f32>) {
    let shape = io.input_shape(0);
    if !fits(shape) {
        return op.reference(io);
    }
    let (channels, isa) = (shape.last() / 2, simd::isa());
    let inputs = [(io.input(0), 2), (io.input(1), 1), (io.input(2), 1)];
    let [(dparams, _), (deps, _)] = &mut *io.outputs else {
        unreachable!("two outputs, by the shape rule");
    };
    let outputs = [(&mut **dparams, 2), (&mut **deps, 1)];
    walk(
        shape,
        inputs,
        outputs,
        |_, [params, eps, dx], [dparams, deps]| {
            let kernel = DrawGrad {
                channels,
                params,
                eps,
                dx,
                dparams,
                deps,
            };
            simd::dispatch(isa, kernel);
            0.0
        },
    );
}

pub(super) fn normal_mean(op: &NormalMean, io: &mut Io<'_, f32>) {
    let shape = io.input_shape(0);
    if !fits(shape) {
        return op.reference(io);
    }
    let (channels, isa) = (shape.last() / 2, simd::isa());
    let inputs = [(io.input(0), 2)];
    let outputs = [(io.out(), 1)];
    walk(shape, inputs, outputs, |_, [params], [mu]| {
        let out = Slope::Value(mu);
        simd::dispatch(
            isa,
            Mean {
                channels,
                params,
                out,
            },
        );
        0.0
    });
}

pub(super) fn normal_mean_grad(op: &NormalMeanGrad, io: &mut Io<'_, f32>) {
    let shape = io.input_shape(0);
    if !fits(shape) {
        return op.reference(io);
    }
    let (channels, isa) = (shape.last() / 2, simd::isa());
    let inputs = [(io.input(0), 2), (io.input(1), 1)];
    let outputs = [(io.out(), 2)];
    walk(shape, inputs, outputs, |_, [params, dmu], [dparams]| {
        let out = Slope::Gradient { dmu, dparams };
        simd::dispatch(
            isa,
            Mean {
                channels,
                params,
                out,
            },
        );
        0.0
    });
}

/// The sum of `x l - softplus(l)` over a row of pixels.
struct Score<'a> {
    logits: &'a [f32],
    x: &'a [f32],
    sum: &'a mut f64,
}

impl Kernel for Score<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sum = s.splat(0.0);
        let whole = self.x.len() / S::LANES * S::LANES;
        let term = |at: usize| {
            let l = load(s, self.logits, at);
            s.sub(s.mul(load(s, self.x, at), l), vmath::softplus(s, l))
        };
        for at in (0..whole).step_by(S::LANES) {
            sum = s.add(sum, term(at));
        }
        *self.sum += f64::from(s.sum(sum));
        if whole < self.x.len() {
            // The lanes beyond the end hold softplus(0), which is no part of the sum.
            let mut last = [0.0; 16];
            store(s, &mut last, 0, term(whole));
            let rest = &last[..self.x.len() - whole];
            *self.sum += rest.iter().map(|v| f64::from(*v)).sum::<f64>();
        }
    }
}

/// `dlogits` and `dx` of a row of pixels.
struct ScoreGrad<'a> {
    logits: &'a [f32],
    x: &'a [f32],
    dlog_p: f32,
    dlogits: &'a mut [f32],
    dx: &'a mut [f32],
}

impl Kernel for ScoreGrad<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dlog_p = s.splat(self.dlog_p);
        for at in (0..self.x.len()).step_by(S::LANES) {
            let (l, x) = (load(s, self.logits, at), load(s, self.x, at));
            let residual = s.sub(x, vmath::sigmoid(s, l));
            store(s, self.dlogits, at, s.mul(dlog_p, residual));
            store(s, self.dx, at, s.mul(dlog_p, l));
        }
    }
}

/// What is left of `extent` pixels without `crop` at either end.
fn inside(extent: usize, crop: usize) -> std::ops::Range<usize> {
    crop.min(extent)..extent.saturating_sub(crop).max(crop.min(extent))
}

pub(super) fn bernoulli(op: &Bernoulli, io: &mut Io<'_, f32>) {
    let (isa, shape) = (simd::isa(), io.input_shape(0));
    let (logits, x) = (io.input(0), io.input(1));
    let (row, image) = (shape[2] * shape[3], shape[1] * shape[2] * shape[3]);
    let (rows, columns) = (inside(shape[1], op.crop), inside(shape[2], op.crop));
    let tasks = io.out().iter_mut().enumerate().collect();
    for_each_task(
        tasks,
        40 * x.len() as u64,
        |(n, log_p): (usize, &mut f32)| {
            let mut total = 0.0;
            for h in rows.clone() {
                let start = n * image + h * row;
                let here = start + columns.start * shape[3]..start + columns.end * shape[3];
                let kernel = Score {
                    logits: &logits[here.clone()],
                    x: &x[here],
                    sum: &mut total,
                };
                simd::dispatch(isa, kernel);
            }
            *log_p = total as f32;
        },
    );
}

pub(super) fn bernoulli_grad(op: &BernoulliGrad, io: &mut Io<'_, f32>) {
    let (isa, shape) = (simd::isa(), io.input_shape(0));
    let (logits, x, dlog_p) = (io.input(0), io.input(1), io.input(2));
    let (row, image) = (shape[2] * shape[3], shape[1] * shape[2] * shape[3]);
    let (rows, columns) = (inside(shape[1], op.crop), inside(shape[2], op.crop));
    let [(dlogits, _), (dx, _)] = &mut *io.outputs else {
        unreachable!("two outputs, by the shape rule");
    };
    let images = dlogits
        .chunks_mut(image.max(1))
        .zip(dx.chunks_mut(image.max(1)));
    let tasks = images.enumerate().collect();
    for_each_task(
        tasks,
        40 * x.len() as u64,
        |(n, (dlogits, dx)): (usize, (&mut [f32], &mut [f32]))| {
            dlogits.fill(0.0);
            dx.fill(0.0);
            for h in rows.clone() {
                let here = h * row + columns.start * shape[3]..h * row + columns.end * shape[3];
                let there = n * image + here.start..n * image + here.end;
                let kernel = ScoreGrad {
                    logits: &logits[there.clone()],
                    x: &x[there],
                    dlog_p: dlog_p[n],
                    dlogits: &mut dlogits[here.clone()],
                    dx: &mut dx[here],
                };
                simd::dispatch(isa, kernel);
            }
        },
    );
}

/// Pixels of a task of the mixture.
const PIXELS: usize = 64;
/// FLOPs of a pixel's component of one colour, about.
const BIN: u64 = 400;

/// Pixel by pixel as the reference, side by side, with sums in `f64`.
pub(super) fn dmol(op: &Dmol, io: &mut Io<'_, f32>) {
    let (logits, x, shape) = (io.input(0), io.input(1), io.input_shape(0));
    let (channels, positions) = (shape.last(), (shape[1] * shape[2]).max(1));
    let mut sums = vec![0.0f64; x.len() / 3];
    let tasks = sums.chunks_mut(PIXELS).enumerate().collect();
    for_each_task(
        tasks,
        BIN * logits.len() as u64 / 3,
        |(i, sums): (usize, &mut [f64])| {
            for (p, sum) in (i * PIXELS..).zip(sums) {
                let logits = &logits[p * channels..][..channels];
                *sum = f64::from(dmol::log_prob(op.bits, logits, &x[3 * p..][..3]));
            }
        },
    );
    for (log_p, sums) in io.out().iter_mut().zip(sums.chunks(positions)) {
        *log_p = sums.iter().sum::<f64>() as f32;
    }
}

/// Pixel by pixel as the reference, side by side.
pub(super) fn dmol_grad(op: &DmolGrad, io: &mut Io<'_, f32>) {
    let (logits, x, dlog_p) = (io.input(0), io.input(1), io.input(2));
    let shape = io.input_shape(0);
    let (channels, positions) = (shape.last(), (shape[1] * shape[2]).max(1));
    let tasks = io.out().chunks_mut(PIXELS * channels).enumerate().collect();
    for_each_task(
        tasks,
        BIN * logits.len() as u64 / 3,
        |(i, dlogits): (usize, &mut [f32])| {
            for (p, dlogits) in (i * PIXELS..).zip(dlogits.chunks_mut(channels)) {
                let logits = &logits[p * channels..][..channels];
                let x = &x[3 * p..][..3];
                dmol::gradient(op.bits, logits, x, dlog_p[p / positions], dlogits);
            }
        },
    );
}
