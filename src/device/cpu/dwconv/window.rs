//! The sliding window at the core of the depthwise kernels.

use super::super::simd::{Simd, unroll};

/// Receives outputs of the sliding window.
pub(in super::super) trait Sink<S: Simd> {
    /// Takes outputs of one vector of channels, starting at channel `c` of the slice, for pixel `(y, x)`.
    ///
    /// # Safety
    /// Implementations say what must hold.
    unsafe fn put(&self, s: S, y: usize, x: usize, c: usize, v: S::V);
}

/// Channels of a plane, and so the distance between its pixels: a cache line.
pub(in super::super) const PLANE: usize = 16;

/// One or more planes of 16 channels of a zero-padded image, and a filter over them.
///
/// Planes make the distance between pixels a constant: the window's addresses then fold into its instructions.
#[derive(Clone, Copy)]
pub(in super::super) struct Window {
    /// First padded row and column of the first plane.
    pub src: *const f32,
    /// Elements from one padded row to the next.
    pub pitch: usize,
    /// Elements from one plane to the next.
    pub plane: usize,
    pub planes: usize,
    /// Filter, `[planes, k, k, 16]`.
    pub weights: *const f32,
    /// One start value per channel.
    pub bias: *const f32,
    pub oh: usize,
    pub ow: usize,
}

/// `W` outputs of `NV` vectors; the second vector of the image lies `next` elements after the first, that of the filter `next_weights`.
///
/// # Safety
/// `src` is valid for `K` rows of `ST * (W - 1) + K` pixels, `weights` for the filter, `bias` for the channels.
#[inline(always)]
// `J >= kx` is vacuous for the first column.
#[allow(clippy::absurd_extreme_comparisons)]
unsafe fn outputs<S: Simd, const K: usize, const ST: usize, const W: usize, const NV: usize>(
    s: S,
    pitch: usize,
    src: *const f32,
    next: usize,
    weights: *const f32,
    next_weights: usize,
    bias: *const f32,
) -> [[S::V; W]; NV] {
    let mut acc = [[s.splat(0.0); W]; NV];
    // SAFETY: the caller's promise.
    unsafe {
        for (v, row) in acc.iter_mut().enumerate() {
            *row = [s.load(bias.add(v * S::LANES)); W];
        }
        for ky in 0..K {
            let row = src.add(ky * pitch);
            let taps = weights.add(ky * K * PLANE);
            let mut w = [[s.splat(0.0); NV]; K];
            for (kx, w) in w.iter_mut().enumerate() {
                for (v, w) in w.iter_mut().enumerate() {
                    *w = s.load(taps.add(kx * PLANE + v * next_weights));
                }
            }
            unroll!(J < ST * (W - 1) + K, {
                for v in 0..NV {
                    let x = s.load(row.add(J * PLANE + v * next));
                    for kx in 0..K {
                        if J >= kx && (J - kx).is_multiple_of(ST) && (J - kx) / ST < W {
                            acc[v][(J - kx) / ST] = s.fma(x, w[kx][v], acc[v][(J - kx) / ST]);
                        }
                    }
                }
            });
        }
    }
    acc
}

impl Window {
    /// All outputs, row by row.
    ///
    /// # Safety
    /// Each plane has `ST * (oh - 1) + K` rows of `ST * (ow - 1) + K` pixels; filter and bias cover the planes; and what `sink` asks.
    #[inline(always)]
    // Every index is below the width of its span.
    #[allow(clippy::out_of_bounds_indexing)]
    pub(in super::super) unsafe fn run<S: Simd, const K: usize, const ST: usize>(
        &self,
        s: S,
        sink: &impl Sink<S>,
    ) {
        // A row of `W` outputs of one vector each, or of half as many of two vectors: the same registers.
        macro_rules! span {
            ($y:expr, $x:expr, $w:literal, $nv:literal) => {{
                let mut c = 0;
                while c < self.planes * PLANE {
                    let (plane, within) = (c / PLANE, c % PLANE);
                    let (next, next_weights) =
                        if S::LANES == PLANE { (self.plane, K * K * PLANE) } else { (S::LANES, S::LANES) };
                    let at = plane * self.plane + ST * $y * self.pitch + ST * $x * PLANE + within;
                    // SAFETY: outputs `x .. x + W` of row `y` exist, and so do `NV` vectors from channel `c` on.
                    unsafe {
                        let acc = outputs::<S, K, ST, $w, $nv>(
                            s,
                            self.pitch,
                            self.src.add(at),
                            next,
                            self.weights.add(plane * K * K * PLANE + within),
                            next_weights,
                            self.bias.add(c),
                        );
                        for v in 0..$nv {
                            unroll!(I < $w, {
                                sink.put(s, $y, $x + I, c + v * S::LANES, acc[v][I]);
                            });
                        }
                    }
                    c += $nv * S::LANES;
                }
            }};
        }
        // A pair of vectors lies in one plane, or in two whole ones.
        let pairs = S::LANES < PLANE || self.planes.is_multiple_of(2);
        for y in 0..self.oh {
            let mut x = 0;
            if S::WINDOW == 16 && ST == 1 {
                while self.ow - x >= 16 {
                    span!(y, x, 16, 1);
                    x += 16;
                }
            }
            while self.ow - x >= 8 {
                if S::WINDOW == 16 && pairs {
                    span!(y, x, 8, 2);
                } else {
                    span!(y, x, 8, 1);
                }
                x += 8;
            }
            while self.ow - x >= 4 {
                if pairs {
                    span!(y, x, 4, 2);
                } else {
                    span!(y, x, 4, 1);
                }
                x += 4;
            }
            while x < self.ow {
                span!(y, x, 1, 1);
                x += 1;
            }
        }
    }
}
