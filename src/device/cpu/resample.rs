//! Resampling by a factor of 2, row by row: bound by memory, so the loops are plain and only compiled for the processor's vectors.

use super::parallel::{self, Shared};
use super::simd::{self, Kernel, Simd};

/// Cost of an element that is read or written: the arithmetic of the time that memory takes.
const FLOPS_PER_ELEMENT: u64 = 16;

/// Calls `row(i, y[i])` for the rows of `width` elements of `y`, in parallel.
fn for_each_row(y: &mut [f32], width: usize, row: impl Fn(usize, &mut [f32]) + Sync + Send) {
    if y.is_empty() {
        return;
    }
    /// Rows a task takes, so that a task is worth its call.
    const ROWS: usize = 16;
    let (rows, flops) = (y.len() / width, y.len() as u64 * FLOPS_PER_ELEMENT);
    let y = Shared::new(y);
    parallel::for_each(rows.div_ceil(ROWS), flops, |task| {
        for i in task * ROWS..rows.min((task + 1) * ROWS) {
            // SAFETY: each row belongs to one task.
            row(i, unsafe { y.slice(i * width, width) });
        }
    });
}

/// `y[j] = scale * (sum of the 2x2 pixels of x at 2j)`, one row of `y` from two rows of `x`.
struct Gather<'a> {
    c: usize,
    scale: f32,
    top: &'a [f32],
    bottom: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Gather<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let c = self.c;
        let sources = self
            .top
            .chunks_exact(2 * c)
            .zip(self.bottom.chunks_exact(2 * c));
        for (y, (top, bottom)) in self.y.chunks_exact_mut(c).zip(sources) {
            let (a, b) = top.split_at(c);
            let (d, e) = bottom.split_at(c);
            for i in 0..c {
                y[i] = self.scale * ((a[i] + b[i]) + (d[i] + e[i]));
            }
        }
    }
}

/// `y[n, i, j, :] = scale * (sum of x[n, 2i..2i+2, 2j..2j+2, :])` for images `[n, h, w, c]`; an odd last row or column is left out.
///
/// # Panics
/// If a slice is shorter than its shape.
pub fn gather2(x: &[f32], [n, h, w, c]: [usize; 4], scale: f32, y: &mut [f32]) {
    let (oh, ow, isa) = (h / 2, w / 2, simd::isa());
    assert_eq!(y.len(), n * oh * ow * c);
    for_each_row(y, ow * c, |row, y| {
        let first = (row / oh * h + row % oh * 2) * w * c;
        let (top, bottom) = x[first..first + 2 * w * c].split_at(w * c);
        let gather = Gather {
            c,
            scale,
            top,
            bottom,
            y,
        };
        simd::dispatch(isa, gather);
    });
}

/// Every pixel of `x` twice, times `scale`; zeros beyond.
struct Spread<'a> {
    c: usize,
    scale: f32,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Spread<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let c = self.c;
        let (whole, rest) = self.y.split_at_mut(2 * self.x.len());
        for (y, x) in whole.chunks_exact_mut(2 * c).zip(self.x.chunks_exact(c)) {
            let (left, right) = y.split_at_mut(c);
            for i in 0..c {
                let v = self.scale * x[i];
                left[i] = v;
                right[i] = v;
            }
        }
        rest.fill(0.0);
    }
}

/// `y[n, i, j, :] = scale * x[n, i / 2, j / 2, :]` for `y` of shape `[n, h, w, c]` and `x` of `[n, h / 2, w / 2, c]`; zero in an odd last
/// row or column.
///
/// # Panics
/// If a slice is shorter than its shape.
pub fn spread2(x: &[f32], scale: f32, y: &mut [f32], [n, h, w, c]: [usize; 4]) {
    let (ih, iw, isa) = (h / 2, w / 2, simd::isa());
    assert!(y.len() == n * h * w * c && x.len() == n * ih * iw * c);
    for_each_row(y, w * c, |row, y| {
        let (image, i) = (row / h, row % h / 2);
        if i >= ih {
            return y.fill(0.0);
        }
        let first = (image * ih + i) * iw * c;
        let x = &x[first..first + iw * c];
        simd::dispatch(isa, Spread { c, scale, x, y });
    });
}

/// The two neighbours that output `i` of `2 * extent` reads with aligned corners, and the second one's weight.
fn neighbours(i: usize, extent: usize) -> (usize, usize, f32) {
    let (position, unit) = (i * (extent - 1), 2 * extent - 1);
    let first = position / unit;
    let second = (first + 1).min(extent - 1);
    (first, second, (position % unit) as f32 / unit as f32)
}

/// One row of a bilinear enlargement.
struct Blend<'a> {
    c: usize,
    /// Two rows of `x` and the second one's weight.
    rows: (&'a [f32], &'a [f32], f32),
    y: &'a mut [f32],
}

impl Kernel for Blend<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (c, (up, down, wy)) = (self.c, self.rows);
        for (j, y) in self.y.chunks_exact_mut(c).enumerate() {
            let (left, right, wx) = neighbours(j, up.len() / c);
            let [a, b] = [left, right].map(|x| &up[x * c..(x + 1) * c]);
            let [d, e] = [left, right].map(|x| &down[x * c..(x + 1) * c]);
            let weights = [
                (1.0 - wy) * (1.0 - wx),
                (1.0 - wy) * wx,
                wy * (1.0 - wx),
                wy * wx,
            ];
            for i in 0..c {
                y[i] = (weights[0] * a[i] + weights[1] * b[i])
                    + (weights[2] * d[i] + weights[3] * e[i]);
            }
        }
    }
}

/// Bilinear interpolation of images `[n, h, w, c]` to `[n, 2h, 2w, c]`, corner pixels on corner pixels.
///
/// # Panics
/// If a slice is shorter than its shape.
pub fn bilinear2(x: &[f32], [n, h, w, c]: [usize; 4], y: &mut [f32]) {
    let isa = simd::isa();
    assert_eq!(y.len(), 4 * n * h * w * c);
    for_each_row(y, 2 * w * c, |row, y| {
        let (image, i) = (row / (2 * h), row % (2 * h));
        let (up, down, weight) = neighbours(i, h);
        let [up, down] =
            [up, down].map(|r| &x[(image * h + r) * w * c..(image * h + r + 1) * w * c]);
        let rows = (up, down, weight);
        simd::dispatch(isa, Blend { c, rows, y });
    });
}

/// `dx` of one image from its enlarged gradient.
struct Unblend<'a> {
    extents: [usize; 3],
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for Unblend<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let [h, w, c] = self.extents;
        self.dx.fill(0.0);
        for (i, row) in self.dy.chunks_exact(2 * w * c).enumerate() {
            let (up, down, wy) = neighbours(i, h);
            for (j, dy) in row.chunks_exact(c).enumerate() {
                let (left, right, wx) = neighbours(j, w);
                for (y, wy) in [(up, 1.0 - wy), (down, wy)] {
                    for (x, wx) in [(left, 1.0 - wx), (right, wx)] {
                        let (weight, at) = (wy * wx, (y * w + x) * c);
                        let dx = &mut self.dx[at..at + c];
                        for i in 0..c {
                            dx[i] += weight * dy[i];
                        }
                    }
                }
            }
        }
    }
}

/// The gradient of [`bilinear2`]: `dx` of shape `[n, h, w, c]`.
///
/// # Panics
/// If a slice is shorter than its shape.
pub fn bilinear2_dgrad(dy: &[f32], dx: &mut [f32], [n, h, w, c]: [usize; 4]) {
    let (isa, image) = (simd::isa(), h * w * c);
    assert!(dx.len() == n * image && dy.len() == 4 * n * image);
    let flops = dy.len() as u64 * FLOPS_PER_ELEMENT;
    let dx = Shared::new(dx);
    parallel::for_each(n, flops, |i| {
        let unblend = Unblend {
            extents: [h, w, c],
            dy: &dy[4 * i * image..4 * (i + 1) * image],
            // SAFETY: each image belongs to one task.
            dx: unsafe { dx.slice(i * image, image) },
        };
        simd::dispatch(isa, unblend);
    });
}
