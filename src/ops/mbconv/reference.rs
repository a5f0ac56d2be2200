//! The plain bottleneck, image by image, with every intermediate in a vector of its own.

use super::{Channels, Fprop};
use crate::ops::unary::Function;
use crate::program::Io;
use crate::real::Real;
use crate::tensor::Shape;

const SWISH: Function = Function::Swish;

/// The weights, taken out of the tensor in which [`super::Pack`]'s reference put them one after the other.
#[derive(Clone, Copy)]
struct Weights<'a, T> {
    w1: &'a [T],
    b1: &'a [T],
    dw: &'a [T],
    b_dw: &'a [T],
    w2: &'a [T],
    b2: &'a [T],
}

impl<'a, T> Weights<'a, T> {
    fn of(c: Channels, packed: &'a [T]) -> Self {
        let mut rest = packed;
        let mut take = |len: usize| {
            let (part, tail) = rest.split_at(len);
            rest = tail;
            part
        };
        Weights {
            w1: take(c.ci * c.hidden),
            b1: take(c.hidden),
            dw: take(c.k * c.k * c.hidden),
            b_dw: take(c.hidden),
            w2: take(c.hidden * c.co),
            b2: take(c.co),
        }
    }
}

/// The extents of one image of a bottleneck.
#[derive(Clone, Copy)]
struct Extents {
    h: usize,
    w: usize,
    grow: usize,
    ci: usize,
    hidden: usize,
    k: usize,
    co: usize,
}

impl Extents {
    fn of(op: &Fprop, x: Shape) -> Self {
        let Channels {
            ci, hidden, k, co, ..
        } = op.channels;
        Extents {
            h: x[1],
            w: x[2],
            grow: op.grow(),
            ci,
            hidden,
            k,
            co,
        }
    }

    fn inputs(&self) -> usize {
        self.h * self.w * self.ci
    }

    /// The extents after upsampling.
    fn outer(&self) -> (usize, usize) {
        (self.grow * self.h, self.grow * self.w)
    }

    /// Calls `visit(pixel of x, tap, pixel of y)` for every product of the depthwise convolution.
    fn for_each_tap(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let (oh, ow) = self.outer();
        let half = self.k / 2;
        for (oy, ox) in (0..oh).flat_map(|oy| (0..ow).map(move |ox| (oy, ox))) {
            for (ky, kx) in (0..self.k).flat_map(|ky| (0..self.k).map(move |kx| (ky, kx))) {
                let (iy, ix) = (oy + ky, ox + kx);
                if iy >= half && ix >= half && iy - half < oh && ix - half < ow {
                    let from = (iy - half) / self.grow * self.w + (ix - half) / self.grow;
                    visit(from, ky * self.k + kx, oy * ow + ox);
                }
            }
        }
    }
}

/// One image's activations before each swish: `u w1 + b1` at the pixels of `x`, `dwconv(a) + b_dw` at those of `y`.
struct Hidden<T> {
    expanded: Vec<T>,
    mixed: Vec<T>,
}

fn forward<T: Real>(e: Extents, x: &[T], weights: Weights<'_, T>) -> Hidden<T> {
    let (
        hidden,
        Weights {
            w1, b1, dw, b_dw, ..
        },
    ) = (e.hidden, weights);
    let mut expanded = vec![T::zero(); e.h * e.w * hidden];
    for (a, x) in expanded.chunks_exact_mut(hidden).zip(x.chunks_exact(e.ci)) {
        a.copy_from_slice(b1);
        for (x, w) in x.iter().zip(w1.chunks_exact(hidden)) {
            a.iter_mut().zip(w).for_each(|(a, w)| *a += *x * *w);
        }
    }
    let (oh, ow) = e.outer();
    let mut mixed: Vec<T> = b_dw
        .iter()
        .copied()
        .cycle()
        .take(oh * ow * hidden)
        .collect();
    e.for_each_tap(|from, tap, to| {
        for j in 0..hidden {
            mixed[to * hidden + j] +=
                SWISH.value(expanded[from * hidden + j]) * dw[tap * hidden + j];
        }
    });
    Hidden { expanded, mixed }
}

/// `y` from `(x, packed weights)`.
pub(super) fn fprop<T: Real>(op: &Fprop, io: &mut Io<'_, T>) {
    let e = Extents::of(op, io.input_shape(0));
    let (x, weights) = (io.input(0), Weights::of(op.channels, io.input(1)));
    let (oh, ow) = e.outer();
    let images = x.chunks_exact(e.inputs());
    for (x, y) in images.zip(io.out().chunks_exact_mut(oh * ow * e.co)) {
        let Hidden { mixed, .. } = forward(e, x, weights);
        for (y, d) in y.chunks_exact_mut(e.co).zip(mixed.chunks_exact(e.hidden)) {
            y.copy_from_slice(weights.b2);
            for (d, w) in d.iter().zip(weights.w2.chunks_exact(e.co)) {
                let d = SWISH.value(*d);
                y.iter_mut().zip(w).for_each(|(y, w)| *y += d * *w);
            }
        }
    }
}

/// `dx` from `(dy, x, packed weights)`.
pub(super) fn dgrad<T: Real>(op: &Fprop, io: &mut Io<'_, T>) {
    let e = Extents::of(op, io.input_shape(1));
    let (dy, x) = (io.input(0), io.input(1));
    let weights = Weights::of(op.channels, io.input(2));
    let (hidden, (oh, ow)) = (e.hidden, e.outer());
    let dot = |a: &[T], b: &[T]| a.iter().zip(b).map(|(a, b)| *a * *b).sum::<T>();
    let images = x
        .chunks_exact(e.inputs())
        .zip(dy.chunks_exact(oh * ow * e.co));
    for ((x, dy), dx) in images.zip(io.out().chunks_exact_mut(e.inputs())) {
        let Hidden { expanded, mixed } = forward(e, x, weights);
        let mut d_mixed = mixed;
        for (d, dy) in d_mixed.chunks_exact_mut(hidden).zip(dy.chunks_exact(e.co)) {
            for (d, w) in d.iter_mut().zip(weights.w2.chunks_exact(e.co)) {
                *d = SWISH.derivative(*d) * dot(dy, w);
            }
        }
        let mut d_expanded = vec![T::zero(); expanded.len()];
        e.for_each_tap(|from, tap, to| {
            for j in 0..hidden {
                d_expanded[from * hidden + j] +=
                    d_mixed[to * hidden + j] * weights.dw[tap * hidden + j];
            }
        });
        for (d, a) in d_expanded.iter_mut().zip(&expanded) {
            *d *= SWISH.derivative(*a);
        }
        for (dx, d) in dx
            .chunks_exact_mut(e.ci)
            .zip(d_expanded.chunks_exact(hidden))
        {
            for (dx, w) in dx.iter_mut().zip(weights.w1.chunks_exact(hidden)) {
                *dx = dot(d, w);
            }
        }
    }
}
