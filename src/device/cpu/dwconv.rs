//! Depthwise convolution: forward, input gradient, weight gradient.
//!
//! `y[n, oy, ox, c] = sum over taps of x[n, oy s + ky d - lo, ox s + kx d - lo, c] w[ky, kx, c]`. Channels fill the vectors. For the
//! model's filters (3x3, 5x5 of stride 1 or 2, 11x11 of stride 1, all of dilation 1) a slice of 32 channels of the image is copied into a zero-padded scratch
//! image, small enough for L1 or L2, and a row of outputs is held in registers while the window slides: a loaded input feeds up to `k`
//! multiply-adds, so a 5x5 row of 16 outputs takes 20 loads for 80 multiply-adds per filter row. The input gradient of stride 1 is
//! the same kernel with the filter reversed. Any other geometry takes a plain path, vectorised over channels, that reads in place.

use super::conv::ConvGeometry;
use super::gemm::{Activation, Finish};
use super::parallel::{self, Shared};
use super::simd::{self, Kernel, Simd};
use window::{PLANE, Sink, Window};

mod wgrad;
pub(super) mod window;

pub use wgrad::{wgrad, wgrad_workspace};

/// Channels of a slice.
pub(super) const SLICE: usize = 32;

/// The geometry's shape as a depthwise convolution has it: `groups == cin == cout`.
fn check(g: &ConvGeometry) {
    assert!(g.cin == g.cout && g.groups == g.cin, "not depthwise: {g:?}");
    assert!(
        g.stride > 0 && g.dilation > 0 && g.kh > 0 && g.kw > 0,
        "{g:?}"
    );
}

/// Whether the sliding window serves this filter.
fn slides(g: &ConvGeometry) -> bool {
    g.kh == g.kw && g.dilation == 1 && matches!((g.kh, g.stride), (3 | 5, 1 | 2) | (11, 1))
}

/// Elements of the weights `[kh, kw, c]`.
pub fn weight_len(g: &ConvGeometry) -> usize {
    g.kh * g.kw * g.cin
}

/// The convolution of `dy` that gives `dx`, for stride and dilation 1: filter reversed, padding complemented.
fn reversed(g: &ConvGeometry) -> ConvGeometry {
    let pad = |axis: usize, k: usize, size: usize, out: usize| {
        let lo = k as i32 - 1 - g.pad[axis][0];
        [lo, size as i32 - out as i32 - lo + k as i32 - 1]
    };
    ConvGeometry {
        h: g.oh(),
        w: g.ow(),
        pad: [pad(0, g.kh, g.h, g.oh()), pad(1, g.kw, g.w, g.ow())],
        ..*g
    }
}

/// Rows of outputs per task.
fn band_rows(g: &ConvGeometry) -> usize {
    // A padded slice of a band stays within a quarter of a megabyte.
    let row = padded_width(g) * SLICE * g.stride;
    ((1 << 16) / row.max(1)).clamp(4, 64).min(g.oh().max(1))
}
fn bands(g: &ConvGeometry) -> usize {
    g.oh().div_ceil(band_rows(g))
}
/// Columns of the padded image: all that the taps of all outputs read.
fn padded_width(g: &ConvGeometry) -> usize {
    g.stride * g.ow().saturating_sub(1) + g.kw
}
fn slices(g: &ConvGeometry) -> usize {
    g.cin.div_ceil(SLICE)
}
/// Scratch of one task: the padded slice, the filter's slice, the bias.
fn scratch(g: &ConvGeometry) -> usize {
    let rows = g.stride * (band_rows(g) - 1) + g.kh;
    (rows * padded_width(g) + g.kh * g.kw + 1) * SLICE
}
fn slide_workspace(g: &ConvGeometry) -> usize {
    parallel::slots(g.n * bands(g) * slices(g)) * scratch(g) + parallel::ALIGN
}

/// Copies channels from `c` on of `rows` by `cols` pixels, the first at `(top, left)` which may lie outside, into `planes` planes; zeros
/// outside and beyond the last channel.
///
/// # Safety
/// `src` is one image of `size` (rows, columns, channels), `dst` has `planes * rows * cols * PLANE` elements that this thread owns.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
unsafe fn copy_slice<S: Simd>(
    s: S,
    src: *const f32,
    size: [usize; 3],
    [top, left]: [i64; 2],
    [rows, cols]: [usize; 2],
    c: usize,
    planes: usize,
    dst: *mut f32,
) {
    let [h, w, channels] = size;
    let before = (-left).clamp(0, cols as i64) as usize;
    let end = (w as i64 - left).clamp(before as i64, cols as i64) as usize;
    for r in 0..rows {
        let y = top + r as i64;
        for p in 0..planes {
            // SAFETY: target pixels are within the planes; source pixels are read only inside the image.
            unsafe {
                let row = dst.add((p * rows + r) * cols * PLANE);
                if y < 0 || y >= h as i64 {
                    std::ptr::write_bytes(row, 0, cols * PLANE);
                    continue;
                }
                std::ptr::write_bytes(row, 0, before * PLANE);
                std::ptr::write_bytes(row.add(end * PLANE), 0, (cols - end) * PLANE);
                let from = src.wrapping_add(y as usize * w * channels + c + p * PLANE);
                let real = channels - c - p * PLANE;
                for x in before..end {
                    let from = from.add((x as i64 + left) as usize * channels);
                    copy_channels(s, from, real, row.add(x * PLANE), PLANE);
                }
            }
        }
    }
}

/// Stores outputs as they are.
struct Store {
    dst: *mut f32,
    /// Elements between rows and between pixels.
    row: usize,
    pixel: usize,
    /// Channels that exist.
    channels: usize,
}

impl<S: Simd> Sink<S> for Store {
    /// # Safety
    /// `dst` is valid at the pixel for the slice's existing channels, and this thread alone writes there.
    #[inline(always)]
    unsafe fn put(&self, s: S, y: usize, x: usize, c: usize, v: S::V) {
        if c < self.channels {
            // SAFETY: the caller's promise.
            unsafe {
                s.store_upto(
                    self.dst.add(y * self.row + x * self.pixel + c),
                    self.channels - c,
                    v,
                );
            }
        }
    }
}

/// Operands of a pass as tasks share them.
#[derive(Clone, Copy)]
struct Operands<'a> {
    g: &'a ConvGeometry,
    src: *const f32,
    weights: *const f32,
    bias: Option<*const f32>,
    dst: *mut f32,
    activation: Activation,
    /// Reads the filter backwards.
    reverse: bool,
}

// SAFETY: read-only views of slices borrowed for the whole call; tasks write disjoint pixels or channels of `dst`.
unsafe impl Send for Operands<'_> {}
// SAFETY: as above.
unsafe impl Sync for Operands<'_> {}

/// One slice of channels of one band of rows of one image.
struct Slide<'a> {
    op: Operands<'a>,
    image: usize,
    band: usize,
    slice: usize,
    scratch: *mut f32,
}

impl Kernel for Slide<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Operands { g, .. } = self.op;
        let (oh, ow) = (g.oh(), g.ow());
        let rows = parallel::chunk(oh, bands(g), self.band);
        let c = self.slice * SLICE;
        let channels = (g.cin - c).min(SLICE);
        let planes = channels.div_ceil(PLANE);
        let (in_rows, cols) = (g.stride * (rows.len() - 1) + g.kh, padded_width(g));
        let taps = g.kh * g.kw;
        let src = self.op.src.wrapping_add(self.image * g.h * g.w * g.cin);
        let weights = self.scratch.wrapping_add(planes * in_rows * cols * PLANE);
        let bias = weights.wrapping_add(planes * taps * PLANE);
        let top = (g.stride * rows.start) as i64 - i64::from(g.pad[0][0]);
        let left = -i64::from(g.pad[1][0]);
        // SAFETY: scratch is this task's own and holds the padded slice, the filter's slice and the bias; the other operands are
        // whole tensors of the geometry; the task owns these channels of these output rows.
        unsafe {
            copy_slice(
                s,
                src,
                [g.h, g.w, g.cin],
                [top, left],
                [in_rows, cols],
                c,
                planes,
                self.scratch,
            );
            for p in 0..planes {
                let (c, real) = (c + p * PLANE, channels - p * PLANE);
                for tap in 0..taps {
                    let from = if self.op.reverse { taps - 1 - tap } else { tap };
                    let to = weights.add((p * taps + tap) * PLANE);
                    copy_channels(s, self.op.weights.add(from * g.cin + c), real, to, PLANE);
                }
                let bias = bias.add(p * PLANE);
                match self.op.bias {
                    Some(b) => copy_channels(s, b.add(c), real, bias, PLANE),
                    None => std::ptr::write_bytes(bias, 0, PLANE),
                }
            }
            let window = Window {
                src: self.scratch,
                pitch: cols * PLANE,
                plane: in_rows * cols * PLANE,
                planes,
                weights,
                bias,
                oh: rows.len(),
                ow,
            };
            let store = Store {
                dst: self
                    .op
                    .dst
                    .add(((self.image * oh + rows.start) * ow) * g.cout + c),
                row: ow * g.cout,
                pixel: g.cout,
                channels,
            };
            match (g.kh, g.stride) {
                (3, 1) => window.run::<S, 3, 1>(s, &store),
                (5, 1) => window.run::<S, 5, 1>(s, &store),
                (11, _) => window.run::<S, 11, 1>(s, &store),
                (3, _) => window.run::<S, 3, 2>(s, &store),
                _ => window.run::<S, 5, 2>(s, &store),
            }
            // A pass of its own, while the band is in cache: inlined into every span it would multiply the code.
            let finish = Finish::activation(self.op.activation);
            finish.apply(s, store.dst, rows.len() * ow, channels, g.cout);
        }
    }
}

/// Copies `n` channels and zeros up to `width`.
///
/// # Safety
/// `src` is readable for `n` elements, `dst` writable for `width`, a multiple of 16.
#[inline(always)]
pub(super) unsafe fn copy_channels<S: Simd>(
    s: S,
    src: *const f32,
    n: usize,
    dst: *mut f32,
    width: usize,
) {
    let mut j = 0;
    while j < width {
        // SAFETY: reads end at `n`, writes at `width`.
        unsafe {
            s.store(
                dst.add(j),
                s.load_upto(src.wrapping_add(j), n.saturating_sub(j)),
            )
        };
        j += S::LANES;
    }
}

fn slide(op: Operands<'_>, workspace: &mut [f32]) {
    let g = op.g;
    assert!(workspace.len() >= slide_workspace(g), "workspace too small");
    if g.y_len() == 0 {
        return;
    }
    let (bands, slices, isa) = (bands(g), slices(g), simd::isa());
    let workspace = Shared::aligned(workspace);
    let flops = 2 * (g.y_len() * g.kh * g.kw) as u64;
    parallel::for_each_slot(g.n * bands * slices, flops, |slot, task| {
        let (rest, slice) = (task / slices, task % slices);
        let scratch = workspace.at(slot * scratch(g));
        simd::dispatch(
            isa,
            Slide {
                op,
                image: rest / bands,
                band: rest % bands,
                slice,
                scratch,
            },
        );
    });
}

/// One row of one image in the plain path: of `y`, or, with `gradient`, of `dx`.
struct PlainRow<'a> {
    op: Operands<'a>,
    gradient: bool,
    image: usize,
    row: usize,
}

impl Kernel for PlainRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Operands { g, .. } = self.op;
        let (x, y) = ([g.h, g.w], [g.oh(), g.ow()]);
        let (src, dst) = if self.gradient { (y, x) } else { (x, y) };
        // Source index that a tap of a target index reads.
        let hit = |axis: usize, at: usize, k: usize| {
            let (lo, tap, st) = (
                i64::from(g.pad[axis][0]),
                (g.dilation * k) as i64,
                g.stride as i64,
            );
            let from = if self.gradient {
                let t = at as i64 + lo - tap;
                if t.rem_euclid(st) != 0 {
                    return None;
                }
                t.div_euclid(st)
            } else {
                at as i64 * st + tap - lo
            };
            (from >= 0 && from < src[axis] as i64).then_some(from as usize)
        };
        for ox in 0..dst[1] {
            let mut c = 0;
            while c < g.cin {
                let n = g.cin - c;
                // SAFETY: indices are inside the tensors; this task owns the row.
                unsafe {
                    let mut acc = match self.op.bias {
                        Some(b) => s.load_upto(b.add(c), n),
                        None => s.splat(0.0),
                    };
                    for ky in 0..g.kh {
                        let Some(iy) = hit(0, self.row, ky) else {
                            continue;
                        };
                        for kx in 0..g.kw {
                            let Some(ix) = hit(1, ox, kx) else { continue };
                            let v = s.load_upto(
                                self.op
                                    .src
                                    .add(((self.image * src[0] + iy) * src[1] + ix) * g.cin + c),
                                n,
                            );
                            acc = s.fma(
                                v,
                                s.load_upto(self.op.weights.add((ky * g.kw + kx) * g.cin + c), n),
                                acc,
                            );
                        }
                    }
                    let at = ((self.image * dst[0] + self.row) * dst[1] + ox) * g.cin;
                    s.store_upto(self.op.dst.add(at + c), n, acc);
                }
                c += S::LANES;
            }
        }
        let row = (self.image * dst[0] + self.row) * dst[1] * g.cin;
        // SAFETY: the row just written.
        unsafe {
            let finish = Finish::activation(self.op.activation);
            finish.apply(s, self.op.dst.add(row), dst[1], g.cin, g.cin);
        }
    }
}

fn plain(op: Operands<'_>, gradient: bool) {
    let g = op.g;
    let rows = if gradient { g.h } else { g.oh() };
    let isa = simd::isa();
    let flops = 2 * (g.y_len() * g.kh * g.kw) as u64;
    parallel::for_each(g.n * rows, flops, |task| {
        simd::dispatch(
            isa,
            PlainRow {
                op,
                gradient,
                image: task / rows,
                row: task % rows,
            },
        );
    });
}

/// Scratch elements of [`fprop`].
pub fn fprop_workspace(g: &ConvGeometry) -> usize {
    if slides(g) { slide_workspace(g) } else { 0 }
}

/// `y = activation(depthwise(x, w) + bias)`; `g` has `groups == cin == cout`, weights are `[kh, kw, c]`.
///
/// # Panics
/// If the geometry is not depthwise or a slice is shorter than it says.
#[allow(clippy::too_many_arguments)]
pub fn fprop(
    g: &ConvGeometry,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    activation: Activation,
    y: &mut [f32],
    workspace: &mut [f32],
) {
    check(g);
    assert!(
        x.len() >= g.x_len() && y.len() >= g.y_len() && w.len() >= weight_len(g),
        "x, y or w too short for {g:?}"
    );
    assert!(
        bias.is_none_or(|b| b.len() >= g.cout),
        "bias too short for {g:?}"
    );
    let bias = bias.map(<[f32]>::as_ptr);
    let op = Operands {
        g,
        src: x.as_ptr(),
        weights: w.as_ptr(),
        bias,
        dst: y.as_mut_ptr(),
        activation,
        reverse: false,
    };
    if slides(g) {
        slide(op, workspace)
    } else {
        plain(op, false)
    }
}

/// Scratch elements of [`dgrad`].
pub fn dgrad_workspace(g: &ConvGeometry) -> usize {
    if slides(g) && g.stride == 1 {
        slide_workspace(&reversed(g))
    } else {
        0
    }
}

/// `dx = gradient of depthwise with respect to x, at dy`.
///
/// # Panics
/// If the geometry is not depthwise or a slice is shorter than it says.
pub fn dgrad(g: &ConvGeometry, dy: &[f32], w: &[f32], dx: &mut [f32], workspace: &mut [f32]) {
    check(g);
    assert!(
        dy.len() >= g.y_len() && dx.len() >= g.x_len() && w.len() >= weight_len(g),
        "dy, dx or w too short for {g:?}"
    );
    let op = Operands {
        g,
        src: dy.as_ptr(),
        weights: w.as_ptr(),
        bias: None,
        dst: dx.as_mut_ptr(),
        activation: Activation::None,
        reverse: false,
    };
    if slides(g) && g.stride == 1 {
        slide(
            Operands {
                g: &reversed(g),
                reverse: true,
                ..op
            },
            workspace,
        );
    } else {
        plain(op, true);
    }
}

#[cfg(test)]
#[path = "dwconv_tests.rs"]
mod tests;
