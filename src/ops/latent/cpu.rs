//! Native kernels of samples, log-densities and divergences; see [`super::lanes`] for how they walk.

use super::density::{LogProb, LogProbGrad};
use super::gaussian::{HALF_LN_2PI, Law};
use super::kl::{Divergence, DivergenceGrad, Keep};
use super::lanes::{
    Cutter, DENSE, blocks, fits, gather, pieces, scatter, sigma, sigma_and_slope, sum,
};
use super::sample::{Sample, SampleGrad};
use crate::device::cpu::simd::{self, Kernel, Simd};
use crate::device::cpu::slices::{for_each_task, load, store};
use crate::device::cpu::vmath;
use crate::ops::Op;
use crate::ops::unary::{soft_clamp, soft_clamp_slope};
use crate::program::Io;
use crate::tensor::Shape;

/// FLOPs of an element, for the choice between one thread and all.
const FLOPS: u64 = 100;

/// Walks over the pieces of tensors of one geometry: `inputs` and `outputs` of the kernel with the numbers each has per element
/// (1, or 2 for parameters). `work(sample, inputs, outputs)` returns the piece's sum; sums come back for each sample.
pub(crate) fn walk<const I: usize, const O: usize>(
    params: Shape,
    inputs: [(&[f32], usize); I],
    outputs: [(&mut [f32], usize); O],
    work: impl Fn(usize, [&[f32]; I], [&mut [f32]; O]) -> f64 + Sync + Send,
) -> Vec<f64> {
    let factors = outputs.each_ref().map(|(_, factor)| *factor);
    let mut cutters = outputs.map(|(y, _)| Cutter::new(y));
    let mut at = 0;
    let mut tasks = Vec::new();
    let pieces = pieces(params);
    let mut sums = vec![0.0; pieces.len()];
    for ((n, len), sum) in pieces.iter().zip(&mut sums) {
        let x = inputs.map(|(x, factor)| &x[at * factor..][..len * factor]);
        let mut factor = factors.iter();
        let y = cutters.each_mut().map(|cutter| {
            let factor = factor.next().expect("as many factors as outputs");
            cutter.next(len * factor)
        });
        tasks.push((*n, x, y, sum));
        at += len;
    }
    for_each_task(tasks, FLOPS * at as u64, |(n, x, y, sum)| {
        *sum = work(n, x, y)
    });
    let mut totals = vec![0.0; params[0]];
    for ((n, _), sum) in pieces.iter().zip(sums) {
        totals[*n] += sum;
    }
    totals
}

/// `z`, and the sum of the log-densities if `density`.
struct Draw<'a> {
    law: Law,
    density: bool,
    channels: usize,
    params: &'a [f32],
    eps: &'a [f32],
    z: &'a mut [f32],
    sum: &'a mut f64,
}

impl Kernel for Draw<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut m, mut l, mut terms) = (DENSE, DENSE, DENSE);
        for here in blocks(self.z.len(), self.channels) {
            let params = &self.params[2 * here.start..2 * here.end];
            gather(s, params, self.channels, &mut m, &mut l);
            let (eps, z) = (&self.eps[here.clone()], &mut self.z[here]);
            for at in (0..z.len()).step_by(S::LANES) {
                let (mu, e) = (soft_clamp(s, load(s, &m, at)), load(s, eps, at));
                let sigma = sigma(s, self.law, load(s, &l, at));
                store(s, z, at, s.fma(e, sigma, mu));
                if self.density {
                    let half = s.mul(s.splat(-0.5), e);
                    let term = s.sub(s.mul(half, e), vmath::ln(s, sigma));
                    store(s, &mut terms, at, term);
                }
            }
            if self.density {
                *self.sum += sum(s, &terms, z.len()) - HALF_LN_2PI * z.len() as f64;
            }
        }
    }
}

/// `dparams` and `deps`.
struct DrawGrad<'a> {
    law: Law,
    channels: usize,
    params: &'a [f32],
    eps: &'a [f32],
    dz: &'a [f32],
    dlog_p: f32,
    dparams: &'a mut [f32],
    deps: &'a mut [f32],
}

impl Kernel for DrawGrad<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut m, mut l) = (DENSE, DENSE);
        let dlog_p = s.splat(self.dlog_p);
        for here in blocks(self.deps.len(), self.channels) {
            let twice = 2 * here.start..2 * here.end;
            gather(
                s,
                &self.params[twice.clone()],
                self.channels,
                &mut m,
                &mut l,
            );
            let (eps, dz) = (&self.eps[here.clone()], &self.dz[here.clone()]);
            let deps = &mut self.deps[here];
            for at in (0..deps.len()).step_by(S::LANES) {
                let (e, dz) = (load(s, eps, at), load(s, dz, at));
                let slope = soft_clamp_slope(s, load(s, &m, at));
                let (sigma, sigma_slope) = sigma_and_slope(s, self.law, load(s, &l, at));
                let dsigma = s.sub(s.mul(dz, e), s.div(dlog_p, sigma));
                store(s, &mut m, at, s.mul(dz, slope));
                store(s, &mut l, at, s.mul(dsigma, sigma_slope));
                store(s, deps, at, s.fnma(dlog_p, e, s.mul(dz, sigma)));
            }
            scatter(s, &m, &l, self.channels, &mut self.dparams[twice]);
        }
    }
}

/// The point whose density is asked for.
#[inline(always)]
fn point<S: Simd>(s: S, image: bool, x: S::V) -> S::V {
    if image {
        s.sub(s.add(x, x), s.splat(1.0))
    } else {
        x
    }
}

/// The sum of log-densities.
struct Score<'a> {
    law: Law,
    image: bool,
    channels: usize,
    params: &'a [f32],
    x: &'a [f32],
    sum: &'a mut f64,
}

impl Kernel for Score<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut m, mut l, mut terms) = (DENSE, DENSE, DENSE);
        for here in blocks(self.x.len(), self.channels) {
            let params = &self.params[2 * here.start..2 * here.end];
            gather(s, params, self.channels, &mut m, &mut l);
            let x = &self.x[here];
            for at in (0..x.len()).step_by(S::LANES) {
                let mu = soft_clamp(s, load(s, &m, at));
                let sigma = sigma(s, self.law, load(s, &l, at));
                let d = s.div(s.sub(point(s, self.image, load(s, x, at)), mu), sigma);
                let half = s.mul(s.splat(-0.5), d);
                store(
                    s,
                    &mut terms,
                    at,
                    s.sub(s.mul(half, d), vmath::ln(s, sigma)),
                );
            }
            *self.sum += sum(s, &terms, x.len()) - HALF_LN_2PI * x.len() as f64;
        }
    }
}

/// `dparams` and `dx`.
struct ScoreGrad<'a> {
    law: Law,
    image: bool,
    channels: usize,
    params: &'a [f32],
    x: &'a [f32],
    dlog_p: f32,
    dparams: &'a mut [f32],
    dx: &'a mut [f32],
}

impl Kernel for ScoreGrad<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut m, mut l) = (DENSE, DENSE);
        let (one, zero) = (s.splat(1.0), s.splat(0.0));
        for here in blocks(self.x.len(), self.channels) {
            let twice = 2 * here.start..2 * here.end;
            gather(
                s,
                &self.params[twice.clone()],
                self.channels,
                &mut m,
                &mut l,
            );
            let (x, dx) = (&self.x[here.clone()], &mut self.dx[here]);
            for at in (0..x.len()).step_by(S::LANES) {
                let raw = load(s, &m, at);
                let (sigma, sigma_slope) = sigma_and_slope(s, self.law, load(s, &l, at));
                let point = point(s, self.image, load(s, x, at));
                let d = s.div(s.sub(point, soft_clamp(s, raw)), sigma);
                let scale = s.div(s.splat(self.dlog_p), sigma);
                let along = s.mul(scale, d);
                store(s, &mut m, at, s.mul(along, soft_clamp_slope(s, raw)));
                let dsigma = s.mul(scale, s.sub(s.mul(d, d), one));
                store(s, &mut l, at, s.mul(dsigma, sigma_slope));
                let by_point = s.sub(zero, along);
                let by_x = if self.image {
                    s.add(by_point, by_point)
                } else {
                    by_point
                };
                store(s, dx, at, by_x);
            }
            scatter(s, &m, &l, self.channels, &mut self.dparams[twice]);
        }
    }
}

/// The sum of divergences.
struct Diverge<'a> {
    channels: usize,
    q: &'a [f32],
    p: &'a [f32],
    /// The sum over everything, or one for each channel.
    sums: &'a mut [f64],
}

impl Kernel for Diverge<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let law = Law::at(1.0);
        let (mut mq, mut lq, mut mp, mut lp) = (DENSE, DENSE, DENSE, DENSE);
        let half = s.splat(0.5);
        for here in blocks(self.q.len() / 2, self.channels) {
            let twice = 2 * here.start..2 * here.end;
            gather(s, &self.q[twice.clone()], self.channels, &mut mq, &mut lq);
            gather(s, &self.p[twice], self.channels, &mut mp, &mut lp);
            for at in (0..here.len()).step_by(S::LANES) {
                let (mu_q, mu_p) = (load(s, &mq, at), load(s, &mp, at));
                let mu = s.sub(soft_clamp(s, mu_q), soft_clamp(s, mu_p));
                let inverse = s.div(s.splat(1.0), sigma(s, law, load(s, &lp, at)));
                let d = s.mul(mu, inverse);
                let ratio = s.mul(sigma(s, law, load(s, &lq, at)), inverse);
                let squares = s.fma(d, d, s.mul(ratio, ratio));
                let term = s.sub(s.fma(half, squares, s.splat(-0.5)), vmath::ln(s, ratio));
                store(s, &mut mq, at, term);
            }
            if let [total] = &mut *self.sums {
                *total += sum(s, &mq, here.len());
                continue;
            }
            for position in mq[..here.len()].chunks_exact(self.channels) {
                for (sum, term) in self.sums.iter_mut().zip(position) {
                    *sum += f64::from(*term);
                }
            }
        }
    }
}

/// `dq` and `dp`.
struct DivergeGrad<'a> {
    channels: usize,
    q: &'a [f32],
    p: &'a [f32],
    dkl: f32,
    dq: &'a mut [f32],
    dp: &'a mut [f32],
}

impl Kernel for DivergeGrad<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let law = Law::at(1.0);
        let (mut mq, mut lq, mut mp, mut lp) = (DENSE, DENSE, DENSE, DENSE);
        let (one, zero, dkl) = (s.splat(1.0), s.splat(0.0), s.splat(self.dkl));
        for here in blocks(self.q.len() / 2, self.channels) {
            let twice = 2 * here.start..2 * here.end;
            gather(s, &self.q[twice.clone()], self.channels, &mut mq, &mut lq);
            gather(s, &self.p[twice.clone()], self.channels, &mut mp, &mut lp);
            for at in (0..here.len()).step_by(S::LANES) {
                let (mu_q, mu_p) = (load(s, &mq, at), load(s, &mp, at));
                let (sigma_q, slope_q) = sigma_and_slope(s, law, load(s, &lq, at));
                let (sigma_p, slope_p) = sigma_and_slope(s, law, load(s, &lp, at));
                let inverse = s.div(one, sigma_p);
                let mu = s.sub(soft_clamp(s, mu_q), soft_clamp(s, mu_p));
                let (d, ratio) = (s.mul(mu, inverse), s.mul(sigma_q, inverse));
                let scaled = s.mul(dkl, inverse);
                let dmu = s.mul(scaled, d);
                store(s, &mut mq, at, s.mul(dmu, soft_clamp_slope(s, mu_q)));
                let down = s.sub(zero, dmu);
                store(s, &mut mp, at, s.mul(down, soft_clamp_slope(s, mu_p)));
                let dsigma_q = s.sub(s.mul(scaled, ratio), s.div(dkl, sigma_q));
                store(s, &mut lq, at, s.mul(dsigma_q, slope_q));
                let rest = s.fnma(d, d, s.fnma(ratio, ratio, one));
                store(s, &mut lp, at, s.mul(s.mul(scaled, rest), slope_p));
            }
            scatter(s, &mq, &lq, self.channels, &mut self.dq[twice.clone()]);
            scatter(s, &mp, &lp, self.channels, &mut self.dp[twice]);
        }
    }
}

pub(super) fn sample(op: &Sample, io: &mut Io<'_, f32>) {
    let shape = io.input_shape(0);
    if !fits(shape) {
        return op.reference(io);
    }
    let (law, density, channels, isa) = (op.law, op.density, shape.last() / 2, simd::isa());
    let inputs = [(io.input(0), 2), (io.input(1), 1)];
    let (z, log_p) = io.outputs.split_at_mut(1);
    let sums = walk(
        shape,
        inputs,
        [(&mut *z[0].0, 1)],
        |_, [params, eps], [z]| {
            let mut total = 0.0;
            let sum = &mut total;
            simd::dispatch(
                isa,
                Draw {
                    law,
                    density,
                    channels,
                    params,
                    eps,
                    z,
                    sum,
                },
            );
            total
        },
    );
    if let Some((log_p, _)) = log_p.first_mut() {
        narrow(&sums, log_p);
    }
}

fn narrow(sums: &[f64], y: &mut [f32]) {
    for (y, sum) in y.iter_mut().zip(sums) {
        *y = *sum as f32;
    }
}

pub(super) fn sample_grad(op: &SampleGrad, io: &mut Io<'_, f32>) {
    let shape = io.input_shape(0);
    if !fits(shape) {
        return op.reference(io);
    }
    let (law, channels, isa) = (op.law, shape.last() / 2, simd::isa());
    let inputs = [(io.input(0), 2), (io.input(1), 1), (io.input(2), 1)];
    let dlog_p = op.density.then(|| io.input(3));
    let [(dparams, _), (deps, _)] = &mut *io.outputs else {
        unreachable!("two outputs, by the shape rule");
    };
    let outputs = [(&mut **dparams, 2), (&mut **deps, 1)];
    walk(
        shape,
        inputs,
        outputs,
        |n, [params, eps, dz], [dparams, deps]| {
            let dlog_p = dlog_p.map_or(0.0, |d| d[n]);
            let kernel = DrawGrad {
                law,
                channels,
                params,
                eps,
                dz,
                dlog_p,
                dparams,
                deps,
            };
            simd::dispatch(isa, kernel);
            0.0
        },
    );
}

pub(super) fn log_prob(op: &LogProb, io: &mut Io<'_, f32>) {
    let shape = io.input_shape(0);
    if !fits(shape) {
        return op.reference(io);
    }
    let (law, image, channels, isa) = (op.law, op.image, shape.last() / 2, simd::isa());
    let inputs = [(io.input(0), 2), (io.input(1), 1)];
    let sums = walk(shape, inputs, [], |_, [params, x], []| {
        let mut total = 0.0;
        let sum = &mut total;
        simd::dispatch(
            isa,
            Score {
                law,
                image,
                channels,
                params,
                x,
                sum,
            },
        );
        total
    });
    narrow(&sums, io.out());
}

pub(super) fn log_prob_grad(op: &LogProbGrad, io: &mut Io<'_, f32>) {
    let shape = io.input_shape(0);
    if !fits(shape) {
        return op.reference(io);
    }
    let (law, image, channels, isa) = (op.law, op.image, shape.last() / 2, simd::isa());
    let (inputs, dlog_p) = ([(io.input(0), 2), (io.input(1), 1)], io.input(2));
    let [(dparams, _), (dx, _)] = &mut *io.outputs else {
        unreachable!("two outputs, by the shape rule");
    };
    let outputs = [(&mut **dparams, 2), (&mut **dx, 1)];
    walk(shape, inputs, outputs, |n, [params, x], [dparams, dx]| {
        let dlog_p = dlog_p[n];
        let kernel = ScoreGrad {
            law,
            image,
            channels,
            params,
            x,
            dlog_p,
            dparams,
            dx,
        };
        simd::dispatch(isa, kernel);
        0.0
    });
}

pub(super) fn divergence(op: &Divergence, io: &mut Io<'_, f32>) {
    let shape = io.input_shape(0);
    if !fits(shape) {
        return op.reference(io);
    }
    let (channels, isa) = (shape.last() / 2, simd::isa());
    let (q, p) = (io.input(0), io.input(1));
    if op.0 == Keep::Channels {
        return divergence_per_channel(op, shape, [q, p], io.out());
    }
    let sums = walk(shape, [(q, 2), (p, 2)], [], |_, [q, p], []| {
        let mut total = [0.0];
        let sums = &mut total;
        simd::dispatch(
            isa,
            Diverge {
                channels,
                q,
                p,
                sums,
            },
        );
        total[0]
    });
    narrow(&sums, io.out());
}

/// Sums per channel: of each piece by itself, then over pieces in order.
fn divergence_per_channel(op: &Divergence, shape: Shape, [q, p]: [&[f32]; 2], kl: &mut [f32]) {
    let (channels, isa) = (shape.last() / 2, simd::isa());
    let pieces = pieces(shape);
    let mut sums = vec![0.0; pieces.len() * channels];
    let (mut tasks, mut at) = (Vec::new(), 0);
    for ((_, len), sums) in pieces.iter().zip(sums.chunks_exact_mut(channels)) {
        let here = 2 * at..2 * (at + len);
        tasks.push((&q[here.clone()], &p[here], sums));
        at += len;
    }
    for_each_task(tasks, FLOPS * at as u64, |(q, p, sums)| {
        simd::dispatch(
            isa,
            Diverge {
                channels,
                q,
                p,
                sums,
            },
        );
    });
    for (c, kl) in kl.iter_mut().enumerate() {
        let total: f64 = sums.iter().skip(c).step_by(channels).sum();
        *kl = (op.0.scale(shape) * total) as f32;
    }
}

pub(super) fn divergence_grad(op: &DivergenceGrad, io: &mut Io<'_, f32>) {
    let shape = io.input_shape(0);
    if !fits(shape) || op.0 == Keep::Channels {
        return op.reference(io);
    }
    let (channels, isa) = (shape.last() / 2, simd::isa());
    let (inputs, dkl) = ([(io.input(0), 2), (io.input(1), 2)], io.input(2));
    let [(dq, _), (dp, _)] = &mut *io.outputs else {
        unreachable!("two outputs, by the shape rule");
    };
    let outputs = [(&mut **dq, 2), (&mut **dp, 2)];
    walk(shape, inputs, outputs, |n, [q, p], [dq, dp]| {
        let dkl = dkl[n];
        simd::dispatch(
            isa,
            DivergeGrad {
                channels,
                q,
                p,
                dkl,
                dq,
                dp,
            },
        );
        0.0
    });
}
