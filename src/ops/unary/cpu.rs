//! Native kernels: one pass in vectors, cut into chunks.

use super::{Function, Unary, UnaryGrad};
use crate::device::cpu::simd::{self, Kernel, Simd};
use crate::device::cpu::slices::{CHUNK, for_each_task, load, store};
use crate::device::cpu::vmath;
use crate::program::Io;

/// `y = f(x)`.
struct Value<'a> {
    f: Function,
    x: &'a [f32],
    y: &'a mut [f32],
}

/// `dx = dy f'(x)`.
struct Derivative<'a> {
    f: Function,
    dy: &'a [f32],
    x: &'a [f32],
    dx: &'a mut [f32],
}

/// `5 tanh(x / 5)`.
#[inline(always)]
pub(crate) fn soft_clamp<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(s.splat(5.0), vmath::tanh(s, s.mul(x, s.splat(0.2))))
}

/// Its derivative `4 e / (1 + e)^2` with `e = exp(-2 |x| / 5)`: no cancellation far out.
#[inline(always)]
pub(crate) fn soft_clamp_slope<S: Simd>(s: S, x: S::V) -> S::V {
    let e = vmath::exp(s, s.mul(s.abs(x), s.splat(-0.4)));
    let sum = s.add(s.splat(1.0), e);
    s.div(s.mul(s.splat(4.0), e), s.mul(sum, sum))
}

impl Kernel for Value<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (x, y) = (self.x, self.y);
        macro_rules! sweep {
            ($f:expr) => {
                for at in (0..x.len()).step_by(S::LANES) {
                    store(s, y, at, $f(s, load(s, x, at)));
                }
            };
        }
        match self.f {
            Function::Swish => sweep!(vmath::swish),
            Function::LipSwish => {
                sweep!(|s: S, x| s.div(vmath::swish(s, x), s.splat(1.1)))
            }
            Function::Elu => sweep!(vmath::elu),
            Function::Relu => sweep!(|s: S, x| s.max(s.splat(0.0), x)),
            Function::Sigmoid => sweep!(vmath::sigmoid),
            Function::Softplus => sweep!(vmath::softplus),
            Function::SoftClamp => sweep!(soft_clamp),
            Function::Exp => sweep!(vmath::exp),
            Function::Ln => sweep!(vmath::ln),
            Function::Square => sweep!(|s: S, x| s.mul(x, x)),
            Function::Affine { scale, shift } => {
                let (scale, shift) = (s.splat(scale as f32), s.splat(shift as f32));
                sweep!(|s: S, x| s.fma(scale, x, shift));
            }
        }
    }
}

impl Kernel for Derivative<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (dy, x, dx) = (self.dy, self.x, self.dx);
        macro_rules! sweep {
            ($f:expr) => {
                for at in (0..x.len()).step_by(S::LANES) {
                    store(s, dx, at, s.mul(load(s, dy, at), $f(s, load(s, x, at))));
                }
            };
        }
        let one = s.splat(1.0);
        let swish = |s: S, x| vmath::swish_and_grad(s, x).1;
        match self.f {
            Function::Swish => sweep!(swish),
            Function::LipSwish => sweep!(|s: S, x| s.div(swish(s, x), s.splat(1.1))),
            Function::Elu => sweep!(vmath::elu_grad),
            Function::Relu => sweep!(|s: S, x| s.select_gt(x, s.splat(0.0), one, s.splat(0.0))),
            Function::Sigmoid => sweep!(|s: S, x| {
                let y = vmath::sigmoid(s, x);
                s.mul(y, vmath::sigmoid(s, s.sub(s.splat(0.0), x)))
            }),
            Function::Softplus => sweep!(vmath::sigmoid),
            Function::SoftClamp => sweep!(soft_clamp_slope),
            Function::Exp => sweep!(vmath::exp),
            Function::Ln => sweep!(|s: S, x| s.div(one, x)),
            Function::Square => sweep!(|s: S, x| s.add(x, x)),
            Function::Affine { scale, .. } => sweep!(|s: S, _| s.splat(scale as f32)),
        }
    }
}

pub(super) fn value(op: &Unary, io: &mut Io<'_, f32>) {
    let (f, isa) = (op.0, simd::isa());
    let x = io.input(0);
    let flops = work(f, x.len());
    let tasks = x.chunks(CHUNK).zip(io.out().chunks_mut(CHUNK)).collect();
    for_each_task(tasks, flops, |(x, y)| {
        simd::dispatch(isa, Value { f, x, y })
    });
}

pub(super) fn derivative(op: &UnaryGrad, io: &mut Io<'_, f32>) {
    let (f, isa) = (op.0, simd::isa());
    let (dy, x) = (io.input(0), io.input(1));
    let flops = work(f, x.len());
    let inputs = dy.chunks(CHUNK).zip(x.chunks(CHUNK));
    let tasks = inputs.zip(io.out().chunks_mut(CHUNK)).collect();
    for_each_task(tasks, flops, |((dy, x), dx)| {
        simd::dispatch(isa, Derivative { f, dy, x, dx });
    });
}

/// What a pass costs, for the choice between one thread and all.
fn work(f: Function, elements: usize) -> u64 {
    (6.0 * f.flops()) as u64 * elements as u64
}
