//! Squeeze-and-excite, image by image: mean over the pixels, two small dense layers, and the gated (and residual) sum.
//!
//! Bytes decide: an image is read twice and written once, and one that fits L2 comes from memory once. Channels fill the
//! vectors, pixels run inside; a row's sum is made apart from the others', so that rounding grows with `h + w` and not with `h w`.

use super::parallel::{self, Shared};
use super::simd::{self, Kernel, Simd};
use super::vmath;

/// The shapes: images `[n, h, w, c]`, `w0 [c, hidden]`, `w2 [hidden, c]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExciteGeometry {
    /// Images.
    pub n: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// Units of the inner layer.
    pub hidden: usize,
}

impl ExciteGeometry {
    fn image(&self) -> usize {
        self.h * self.w * self.c
    }
    /// Cost of a pass: memory is what limits, so that an element counts as much as the arithmetic of its time.
    fn flops(&self) -> u64 {
        32 * (self.n * self.image()) as u64
    }
}

/// The two dense layers.
#[derive(Clone, Copy, Debug)]
pub struct ExciteWeights<'a> {
    /// `[c, hidden]`.
    pub w0: &'a [f32],
    /// `[hidden]`.
    pub b0: &'a [f32],
    /// `[hidden, c]`.
    pub w2: &'a [f32],
    /// `[c]`.
    pub b2: &'a [f32],
}

/// Pixels whose sums run side by side.
const CHAINS: usize = 4;

/// `sum[k] = factor * sum over pixels of f(pixel, k)`; `read(offset, lanes)` gives a pixel's channels.
#[inline(always)]
fn sum_pixels<S: Simd>(
    s: S,
    [h, w, c]: [usize; 3],
    factor: f32,
    sum: &mut [f32],
    read: impl Fn(usize, usize) -> S::V,
) {
    for j in (0..c).step_by(S::LANES) {
        let lanes = (c - j).min(S::LANES);
        let mut total = s.splat(0.0);
        for y in 0..h {
            let row = y * w * c + j;
            let mut chains = [s.splat(0.0); CHAINS];
            let whole = w / CHAINS * CHAINS;
            for x in (0..whole).step_by(CHAINS) {
                for (i, chain) in chains.iter_mut().enumerate() {
                    *chain = s.add(*chain, read(row + (x + i) * c, lanes));
                }
            }
            for x in whole..w {
                chains[0] = s.add(chains[0], read(row + x * c, lanes));
            }
            let [a, b, c, d] = chains;
            total = s.add(total, s.add(s.add(a, b), s.add(c, d)));
        }
        let v = s.mul(total, s.splat(factor));
        let part = &mut sum[j..j + lanes];
        // SAFETY: `part` has `lanes` elements.
        unsafe { s.store_upto(part.as_mut_ptr(), lanes, v) };
    }
}

/// `y += a w` for a row-major `w [a.len(), y.len()]`.
#[inline(always)]
fn add_product<S: Simd>(s: S, a: &[f32], w: &[f32], y: &mut [f32]) {
    let n = y.len();
    for j in (0..n).step_by(S::LANES) {
        let lanes = (n - j).min(S::LANES);
        // SAFETY: `j + lanes <= n`; `w` has `a.len()` rows of `n` elements, as the slice below checks.
        unsafe {
            let mut v = s.load_upto(y.as_ptr().add(j), lanes);
            for (i, a) in a.iter().enumerate() {
                let row = &w[i * n..(i + 1) * n];
                v = s.fma(s.splat(*a), s.load_upto(row.as_ptr().add(j), lanes), v);
            }
            s.store_upto(y.as_mut_ptr().add(j), lanes, v);
        }
    }
}

/// `sum a b` over slices of one length.
#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut sum = s.splat(0.0);
    for i in (0..a.len()).step_by(S::LANES) {
        let lanes = a.len() - i;
        // SAFETY: `i < len`, the length of both, and no more than `len - i` elements are read.
        unsafe {
            let (a, b) = (a.as_ptr().add(i), b.as_ptr().add(i));
            sum = s.fma(s.load_upto(a, lanes), s.load_upto(b, lanes), sum);
        }
    }
    s.sum(sum)
}

/// One image, forward.
struct Forward<'a> {
    g: ExciteGeometry,
    weights: ExciteWeights<'a>,
    x: &'a [f32],
    skip: Option<&'a [f32]>,
    alpha: f32,
    y: &'a mut [f32],
    mean: &'a mut [f32],
    inner: &'a mut [f32],
    gate: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ExciteGeometry { h, w, c, .. } = self.g;
        let (x, image) = (self.x, self.g.image());
        assert!(x.len() == image && self.y.len() == image);
        assert!(self.skip.is_none_or(|skip| skip.len() == image));
        assert!(self.mean.len() == c && self.gate.len() == c);
        let read = |at: usize, lanes: usize| {
            debug_assert!(at + lanes <= image);
            // SAFETY: `sum_pixels` asks for the channels of pixels of the image, whose length was checked.
            unsafe { s.load_upto(x.as_ptr().add(at), lanes) }
        };
        sum_pixels(s, [h, w, c], 1.0 / (h * w) as f32, self.mean, read);
        self.inner.copy_from_slice(self.weights.b0);
        add_product(s, self.mean, self.weights.w0, self.inner);
        for v in self.inner.iter_mut() {
            *v = v.max(0.0);
        }
        self.gate.copy_from_slice(self.weights.b2);
        add_product(s, self.inner, self.weights.w2, self.gate);
        for j in (0..c).step_by(S::LANES) {
            let lanes = (c - j).min(S::LANES);
            let gate = &mut self.gate[j..j + lanes];
            // SAFETY: `gate` has `lanes` elements; a pixel's channels `j .. j + lanes` lie in the image, whose length `x`, `y` and `skip`
            // have.
            unsafe {
                let g = vmath::sigmoid(s, s.load_upto(gate.as_ptr(), lanes));
                s.store_upto(gate.as_mut_ptr(), lanes, g);
                let g = s.mul(g, s.splat(self.alpha));
                for at in (j..image).step_by(c) {
                    let mut v = s.mul(g, s.load_upto(x.as_ptr().add(at), lanes));
                    if let Some(skip) = self.skip {
                        v = s.add(v, s.load_upto(skip.as_ptr().add(at), lanes));
                    }
                    s.store_upto(self.y.as_mut_ptr().add(at), lanes, v);
                }
            }
        }
    }
}

/// `y = skip + alpha x gate` with `mean [n, c]`, `inner [n, hidden]` and `gate [n, c]` on the way.
///
/// # Panics
/// If a slice has another length than the geometry says.
#[allow(clippy::too_many_arguments)]
pub fn fprop(
    g: &ExciteGeometry,
    x: &[f32],
    weights: ExciteWeights<'_>,
    skip: Option<&[f32]>,
    alpha: f32,
    y: &mut [f32],
    mean: &mut [f32],
    inner: &mut [f32],
    gate: &mut [f32],
) {
    let (g, isa, image) = (*g, simd::isa(), g.image());
    assert_eq!(x.len(), g.n * image);
    let [y, mean, inner, gate] = [y, mean, inner, gate].map(Shared::new);
    parallel::for_each(g.n, g.flops(), |n| {
        // SAFETY: each image's parts are written by its own task alone.
        let (y, mean, inner, gate) = unsafe {
            (
                y.slice(n * image, image),
                mean.slice(n * g.c, g.c),
                inner.slice(n * g.hidden, g.hidden),
                gate.slice(n * g.c, g.c),
            )
        };
        let forward = Forward {
            g,
            weights,
            x: &x[n * image..(n + 1) * image],
            skip: skip.map(|s| &s[n * image..(n + 1) * image]),
            alpha,
            y,
            mean,
            inner,
            gate,
        };
        simd::dispatch(isa, forward);
    });
}

/// What the gradient reads besides `dy`.
#[derive(Clone, Copy, Debug)]
pub struct ExciteSaved<'a> {
    /// The input image.
    pub x: &'a [f32],
    /// `[c, hidden]`.
    pub w0: &'a [f32],
    /// `[hidden, c]`.
    pub w2: &'a [f32],
    /// `[n, hidden]`, as the forward pass wrote it.
    pub inner: &'a [f32],
    /// `[n, c]`, as the forward pass wrote it.
    pub gate: &'a [f32],
}

/// One image, backward.
struct Backward<'a> {
    g: ExciteGeometry,
    dy: &'a [f32],
    saved: ExciteSaved<'a>,
    alpha: f32,
    dx: &'a mut [f32],
    d_inner: &'a mut [f32],
    d_gate: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ExciteGeometry {
            h, w, c, hidden, ..
        } = self.g;
        let ExciteSaved {
            x,
            w0,
            w2,
            inner,
            gate,
        } = self.saved;
        let (dy, image) = (self.dy, self.g.image());
        assert!(x.len() == image && dy.len() == image && self.dx.len() == image);
        assert!(gate.len() == c && self.d_gate.len() == c && w0.len() == c * hidden);
        let read = |at: usize, lanes: usize| {
            debug_assert!(at + lanes <= image);
            // SAFETY: `sum_pixels` asks for the channels of pixels of the image, whose length was checked.
            unsafe {
                let x = s.load_upto(x.as_ptr().add(at), lanes);
                s.mul(x, s.load_upto(dy.as_ptr().add(at), lanes))
            }
        };
        sum_pixels(s, [h, w, c], self.alpha, self.d_gate, read);
        for (d, g) in self.d_gate.iter_mut().zip(gate) {
            *d *= g * (1.0 - g);
        }
        for (j, d) in self.d_inner.iter_mut().enumerate() {
            let open = inner[j] > 0.0;
            let row = &w2[j * c..(j + 1) * c];
            *d = if open { dot(s, self.d_gate, row) } else { 0.0 };
        }
        let share = 1.0 / (h * w) as f32;
        for j in (0..c).step_by(S::LANES) {
            let lanes = (c - j).min(S::LANES);
            let mut mean = [0.0; 16];
            for (i, m) in mean[..lanes].iter_mut().enumerate() {
                *m = share * dot(s, self.d_inner, &w0[(j + i) * hidden..(j + i + 1) * hidden]);
            }
            // SAFETY: `mean` has 16 elements and `gate` `c`; a pixel's channels `j .. j + lanes` lie in the image, whose length `dy`
            // and `dx` have.
            unsafe {
                let mean = s.load(mean.as_ptr());
                let g = s.load_upto(gate.as_ptr().add(j), lanes);
                let g = s.mul(g, s.splat(self.alpha));
                for at in (j..image).step_by(c) {
                    let v = s.fma(g, s.load_upto(dy.as_ptr().add(at), lanes), mean);
                    s.store_upto(self.dx.as_mut_ptr().add(at), lanes, v);
                }
            }
        }
    }
}

/// `dx`, and the gradients of what goes into the two non-linearities: `d_inner [n, hidden]`, `d_gate [n, c]`.
///
/// # Panics
/// If a slice has another length than the geometry says.
pub fn dgrad(
    g: &ExciteGeometry,
    dy: &[f32],
    saved: ExciteSaved<'_>,
    alpha: f32,
    dx: &mut [f32],
    d_inner: &mut [f32],
    d_gate: &mut [f32],
) {
    let (g, isa, image) = (*g, simd::isa(), g.image());
    assert_eq!(dy.len(), g.n * image);
    let [dx, d_inner, d_gate] = [dx, d_inner, d_gate].map(Shared::new);
    parallel::for_each(g.n, g.flops(), |n| {
        // SAFETY: each image's parts are written by its own task alone.
        let (dx, d_inner, d_gate) = unsafe {
            (
                dx.slice(n * image, image),
                d_inner.slice(n * g.hidden, g.hidden),
                d_gate.slice(n * g.c, g.c),
            )
        };
        let backward = Backward {
            g,
            dy: &dy[n * image..(n + 1) * image],
            saved: ExciteSaved {
                x: &saved.x[n * image..(n + 1) * image],
                inner: &saved.inner[n * g.hidden..(n + 1) * g.hidden],
                gate: &saved.gate[n * g.c..(n + 1) * g.c],
                ..saved
            },
            alpha,
            dx,
            d_inner,
            d_gate,
        };
        simd::dispatch(isa, backward);
    });
}
