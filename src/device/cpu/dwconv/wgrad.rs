//! The weight gradient of a depthwise convolution.
//!
//! `dw[ky, kx, c] = sum over images and output pixels of x[pixel + tap, c] dy[pixel, c]`. Slices of `x` (padded) and `dy` lie in planes of 16
//! channels; the taps of one filter row are accumulators in registers, so a loaded `dy` serves them all. Images are cut into at most 8
//! chunks by geometry, whose partial sums are added in order.

use super::super::conv::ConvGeometry;
use super::super::gemm::Activation;
use super::super::parallel::{self, Shared};
use super::super::simd::{self, Kernel, Simd};
use super::super::wgrad::sum_partials;
use super::window::PLANE;
use super::{
    Operands, SLICE, band_rows, bands, check, copy_slice, padded_width, slices, slides, weight_len,
};

/// Cuts of the images in the weight gradient, at most.
const MAX_CHUNKS: usize = 8;

/// Bands of images, the units that the sum over pixels runs through, in [`MAX_CHUNKS`] chunks at most.
fn chunks(g: &ConvGeometry) -> usize {
    (g.n * bands(g)).clamp(1, MAX_CHUNKS)
}

/// Scratch of one task: padded slice of `x`, slice of `dy`, sums.
fn wgrad_scratch(g: &ConvGeometry) -> usize {
    let rows = g.stride * (band_rows(g) - 1) + g.kh;
    (rows * padded_width(g) + band_rows(g) * g.ow() + g.kh * g.kw) * SLICE
}

/// Scratch elements of [`wgrad`].
pub fn wgrad_workspace(g: &ConvGeometry) -> usize {
    let partials = chunks(g) * weight_len(g);
    if slides(g) {
        partials + parallel::slots(chunks(g) * slices(g)) * wgrad_scratch(g) + parallel::ALIGN
    } else {
        partials
    }
}

/// One slice of channels of one chunk of bands.
struct SlideWeights<'a> {
    g: &'a ConvGeometry,
    x: *const f32,
    dy: *const f32,
    chunk: usize,
    slice: usize,
    scratch: *mut f32,
    /// The chunk's partial, `[kh, kw, c]`.
    dw: *mut f32,
}

impl SlideWeights<'_> {
    /// Adds the sums of one band, held in planes, to `sums` `[planes, k, k, 16]`. A filter row's taps stay in registers, `P` sets of
    /// them to hide the latency of the multiply-add.
    ///
    /// # Safety
    /// `xs` and `dys` hold the planes of `rows` output rows.
    #[inline(always)]
    unsafe fn band<S: Simd, const K: usize, const ST: usize, const P: usize>(
        &self,
        s: S,
        xs: *const f32,
        dys: *const f32,
        rows: usize,
        sums: *mut f32,
    ) {
        let (ow, cols) = (self.g.ow(), padded_width(self.g));
        for ky in 0..K {
            let mut acc = [[s.splat(0.0); K]; P];
            // SAFETY: the caller's promise; outputs `x .. x + P` exist.
            unsafe {
                for oy in 0..rows {
                    let row = xs.add((ST * oy + ky) * cols * PLANE);
                    let grad = dys.add(oy * ow * PLANE);
                    let mut x = 0;
                    while x + P <= ow {
                        for (p, acc) in acc.iter_mut().enumerate() {
                            let d = s.load(grad.add((x + p) * PLANE));
                            for (kx, a) in acc.iter_mut().enumerate() {
                                *a = s.fma(s.load(row.add((ST * (x + p) + kx) * PLANE)), d, *a);
                            }
                        }
                        x += P;
                    }
                    while x < ow {
                        let d = s.load(grad.add(x * PLANE));
                        for (kx, a) in acc[0].iter_mut().enumerate() {
                            *a = s.fma(s.load(row.add((ST * x + kx) * PLANE)), d, *a);
                        }
                        x += 1;
                    }
                }
                for kx in 0..K {
                    let at = sums.add((ky * K + kx) * PLANE);
                    let mut total = s.load(at);
                    for acc in &acc {
                        total = s.add(total, acc[kx]);
                    }
                    s.store(at, total);
                }
            }
        }
    }
}

impl Kernel for SlideWeights<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.g;
        let (oh, ow, cols, taps) = (g.oh(), g.ow(), padded_width(g), g.kh * g.kw);
        let c = self.slice * SLICE;
        let channels = (g.cin - c).min(SLICE);
        let planes = channels.div_ceil(PLANE);
        let most = g.stride * (band_rows(g) - 1) + g.kh;
        let dys = self.scratch.wrapping_add(most * cols * SLICE);
        let sums = dys.wrapping_add(band_rows(g) * ow * SLICE);
        // SAFETY: scratch is this task's own and sized by `wgrad_scratch`; the other operands are whole tensors of the geometry; the
        // task owns these channels of its partial.
        unsafe {
            std::ptr::write_bytes(sums, 0, planes * taps * PLANE);
            for unit in parallel::chunk(g.n * bands(g), chunks(g), self.chunk) {
                let (image, band) = (unit / bands(g), unit % bands(g));
                let rows = parallel::chunk(oh, bands(g), band);
                let in_rows = g.stride * (rows.len() - 1) + g.kh;
                let top = (g.stride * rows.start) as i64 - i64::from(g.pad[0][0]);
                let left = -i64::from(g.pad[1][0]);
                let x = self.x.add(image * g.h * g.w * g.cin);
                copy_slice(
                    s,
                    x,
                    [g.h, g.w, g.cin],
                    [top, left],
                    [in_rows, cols],
                    c,
                    planes,
                    self.scratch,
                );
                let dy = self.dy.add(image * oh * ow * g.cin);
                copy_slice(
                    s,
                    dy,
                    [oh, ow, g.cin],
                    [rows.start as i64, 0],
                    [rows.len(), ow],
                    c,
                    planes,
                    dys,
                );
                for at in (0..planes * PLANE).step_by(S::LANES) {
                    let (p, within) = (at / PLANE, at % PLANE);
                    let xs = self
                        .scratch
                        .add(p * in_rows * cols * PLANE + within)
                        .cast_const();
                    let ds = dys.add(p * rows.len() * ow * PLANE + within).cast_const();
                    let to = sums.add(p * taps * PLANE + within);
                    match (g.kh, g.stride) {
                        (3, 1) => self.band::<S, 3, 1, 3>(s, xs, ds, rows.len(), to),
                        (5, 1) => self.band::<S, 5, 1, 2>(s, xs, ds, rows.len(), to),
                        (11, _) => self.band::<S, 11, 1, 1>(s, xs, ds, rows.len(), to),
                        (3, _) => self.band::<S, 3, 2, 3>(s, xs, ds, rows.len(), to),
                        _ => self.band::<S, 5, 2, 2>(s, xs, ds, rows.len(), to),
                    }
                }
            }
            for tap in 0..taps {
                for at in (0..channels).step_by(S::LANES) {
                    let value = s.load(sums.add((at / PLANE * taps + tap) * PLANE + at % PLANE));
                    s.store_upto(self.dw.add(tap * g.cin + c + at), channels - at, value);
                }
            }
        }
    }
}

/// Filter row `ky` of one chunk of images, in the plain path.
struct FilterRow<'a> {
    g: &'a ConvGeometry,
    x: *const f32,
    dy: *const f32,
    chunk: usize,
    ky: usize,
    dw: *mut f32,
}

impl Kernel for FilterRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.g;
        let (oh, ow) = (g.oh(), g.ow());
        let lo = [i64::from(g.pad[0][0]), i64::from(g.pad[1][0])];
        let mut c = 0;
        while c < g.cin {
            let n = g.cin - c;
            for kx in 0..g.kw {
                // Outputs whose tap `kx` lies inside the image.
                let shift = (g.dilation * kx) as i64 - lo[1];
                let st = g.stride as i64;
                let first =
                    (-shift).max(0).div_euclid(st) + i64::from((-shift).max(0).rem_euclid(st) != 0);
                let last = (g.w as i64 - 1 - shift).div_euclid(st).min(ow as i64 - 1);
                // Four sums, joined in order, hide the latency of the multiply-add.
                let mut acc = [s.splat(0.0); 4];
                for unit in parallel::chunk(g.n * bands(g), chunks(g), self.chunk) {
                    let image = unit / bands(g);
                    for oy in parallel::chunk(oh, bands(g), unit % bands(g)) {
                        let iy = (oy * g.stride + g.dilation * self.ky) as i64 - lo[0];
                        if iy < 0 || iy >= g.h as i64 {
                            continue;
                        }
                        let xs = self
                            .x
                            .wrapping_add((image * g.h + iy as usize) * g.w * g.cin + c);
                        let dys = self.dy.wrapping_add((image * oh + oy) * ow * g.cin + c);
                        for ox in first..=last {
                            let ix = (ox * st + shift) as usize;
                            let slot = (ox & 3) as usize;
                            // SAFETY: `first ..= last` keeps both pixels inside their images.
                            unsafe {
                                let a = s.load_upto(xs.add(ix * g.cin), n);
                                let b = s.load_upto(dys.add(ox as usize * g.cin), n);
                                acc[slot] = s.fma(a, b, acc[slot]);
                            }
                        }
                    }
                }
                let total = s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3]));
                // SAFETY: this task owns this filter row of its partial.
                unsafe { s.store_upto(self.dw.add((self.ky * g.kw + kx) * g.cin + c), n, total) };
            }
            c += S::LANES;
        }
    }
}

/// `dw (+)= gradient of depthwise with respect to its weights`, `[kh, kw, c]`.
///
/// # Panics
/// If the geometry is not depthwise or a slice is shorter than it says.
pub fn wgrad(
    g: &ConvGeometry,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    check(g);
    let len = weight_len(g);
    assert!(
        x.len() >= g.x_len() && dy.len() >= g.y_len() && dw.len() >= len,
        "x, dy or dw too short for {g:?}"
    );
    assert!(workspace.len() >= wgrad_workspace(g), "workspace too small");
    let (chunks, slices, isa) = (chunks(g), slices(g), simd::isa());
    let (partials, scratch) = workspace.split_at_mut(chunks * len);
    let op = Operands {
        g,
        src: x.as_ptr(),
        weights: dy.as_ptr(),
        bias: None,
        dst: partials.as_mut_ptr(),
        activation: Activation::None,
        reverse: false,
    };
    let flops = 2 * (g.y_len() * g.kh * g.kw) as u64;
    if slides(g) {
        let scratch = Shared::aligned(scratch);
        parallel::for_each_slot(chunks * slices, flops, |slot, task| {
            let (op, chunk, slice) = (&op, task / slices, task % slices);
            let (scratch, dw) = (
                scratch.at(slot * wgrad_scratch(g)),
                op.dst.wrapping_add(chunk * len),
            );
            simd::dispatch(
                isa,
                SlideWeights {
                    g,
                    x: op.src,
                    dy: op.weights,
                    chunk,
                    slice,
                    scratch,
                    dw,
                },
            );
        });
    } else {
        parallel::for_each(chunks * g.kh, flops, |task| {
            let (op, chunk, ky) = (&op, task / g.kh, task % g.kh);
            let dw = op.dst.wrapping_add(chunk * len);
            simd::dispatch(
                isa,
                FilterRow {
                    g,
                    x: op.src,
                    dy: op.weights,
                    chunk,
                    ky,
                    dw,
                },
            );
        });
    }
    sum_partials(partials, &mut dw[..len], accumulate);
}
