//! The plain bottleneck, image by image, with every intermediate in a vector of its own.

use crate::ops::unary::Function;
use crate::program::Io;
use crate::real::Real;

const SWISH: Function = Function::Swish;

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
    /// From inputs `first..` = `(x, w1, b1, dw, b_dw, w2)`.
    fn of<T: Real>(upsample: bool, io: &Io<'_, T>, first: usize) -> Self {
        let (x, w1) = (io.input_shape(first), io.input_shape(first + 1));
        Extents {
            h: x[1],
            w: x[2],
            grow: if upsample { 2 } else { 1 },
            ci: w1[0],
            hidden: w1[1],
            k: io.input_shape(first + 3)[0],
            co: io.input_shape(first + 5)[1],
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

fn forward<T: Real>(e: Extents, x: &[T], w1: &[T], b1: &[T], dw: &[T], b_dw: &[T]) -> Hidden<T> {
    let hidden = e.hidden;
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

/// `y` from `(x, w1, b1, dw, b_dw, w2, b2)`.
pub(super) fn fprop<T: Real>(upsample: bool, io: &mut Io<'_, T>) {
    let e = Extents::of(upsample, io, 0);
    let [x, w1, b1, dw, b_dw, w2, b2] = [0, 1, 2, 3, 4, 5, 6].map(|i| io.input(i));
    let (oh, ow) = e.outer();
    let images = x.chunks_exact(e.inputs());
    for (x, y) in images.zip(io.out().chunks_exact_mut(oh * ow * e.co)) {
        let Hidden { mixed, .. } = forward(e, x, w1, b1, dw, b_dw);
        for (y, d) in y.chunks_exact_mut(e.co).zip(mixed.chunks_exact(e.hidden)) {
            y.copy_from_slice(b2);
            for (d, w) in d.iter().zip(w2.chunks_exact(e.co)) {
                let d = SWISH.value(*d);
                y.iter_mut().zip(w).for_each(|(y, w)| *y += d * *w);
            }
        }
    }
}

/// `dx` from `(dy, x, w1, b1, dw, b_dw, w2)`.
pub(super) fn dgrad<T: Real>(upsample: bool, io: &mut Io<'_, T>) {
    let e = Extents::of(upsample, io, 1);
    let [dy, x, w1, b1, dw, b_dw, w2] = [0, 1, 2, 3, 4, 5, 6].map(|i| io.input(i));
    let (hidden, (oh, ow)) = (e.hidden, e.outer());
    let dot = |a: &[T], b: &[T]| a.iter().zip(b).map(|(a, b)| *a * *b).sum::<T>();
    let images = x
        .chunks_exact(e.inputs())
        .zip(dy.chunks_exact(oh * ow * e.co));
    for ((x, dy), dx) in images.zip(io.out().chunks_exact_mut(e.inputs())) {
        let Hidden { expanded, mixed } = forward(e, x, w1, b1, dw, b_dw);
        let mut d_mixed = mixed;
        for (d, dy) in d_mixed.chunks_exact_mut(hidden).zip(dy.chunks_exact(e.co)) {
            for (d, w) in d.iter_mut().zip(w2.chunks_exact(e.co)) {
                *d = SWISH.derivative(*d) * dot(dy, w);
            }
        }
        let mut d_expanded = vec![T::zero(); expanded.len()];
        e.for_each_tap(|from, tap, to| {
            for j in 0..hidden {
                d_expanded[from * hidden + j] += d_mixed[to * hidden + j] * dw[tap * hidden + j];
            }
        });
        for (d, a) in d_expanded.iter_mut().zip(&expanded) {
            *d *= SWISH.derivative(*a);
        }
        for (dx, d) in dx
            .chunks_exact_mut(e.ci)
            .zip(d_expanded.chunks_exact(hidden))
        {
            for (dx, w) in dx.iter_mut().zip(w1.chunks_exact(hidden)) {
                *dx = dot(d, w);
            }
        }
    }
}
