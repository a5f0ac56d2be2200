//! Depthwise convolution: forward, input gradient, weight gradient.
//!
//! `y[n, oy, ox, c] = sum over taps of x[n, oy s + ky d - lo, ox s + kx d - lo, c] w[ky, kx, c]`. Channels fill the vectors. For the
//! model's filters (3x3, 5x5, 11x11, dilation 1, stride 1 or 2) a slice of 32 channels of the image is copied into a zero-padded scratch
//! image, small enough for L1 or L2, and a row of outputs is held in registers while the window slides: a loaded input feeds up to `k`
//! multiply-adds, so a 5x5 row of 16 outputs takes 20 loads for 80 multiply-adds per filter row. The input gradient of stride 1 is
//! the same kernel with the filter reversed. Any other geometry takes a plain path, vectorised over channels, that reads in place.

use super::conv::ConvGeometry;
use super::gemm::{Activation, LIP};
use super::parallel::{self, Shared};
use super::simd::{self, Kernel, Simd, unroll};
use super::vmath;
use super::wgrad::sum_partials;

/// Channels of a slice.
pub(super) const SLICE: usize = 32;

/// Receives outputs of the sliding window.
pub(super) trait Sink<S: Simd> {
    /// Takes outputs of one vector of channels, starting at channel `c` of the slice, for pixel `(y, x)`.
    ///
    /// # Safety
    /// Implementations say what must hold.
    unsafe fn put(&self, s: S, y: usize, x: usize, c: usize, v: S::V);
}

/// A slice of channels of a zero-padded image and a filter over it.
#[derive(Clone, Copy)]
pub(super) struct Window {
    /// First padded row and column.
    pub src: *const f32,
    /// Elements from one padded row to the next.
    pub pitch: usize,
    /// Filter `[k, k, width]`.
    pub weights: *const f32,
    /// One start value per channel.
    pub bias: *const f32,
    /// Channels of the slice, a multiple of 16: also the distance between pixels.
    pub width: usize,
    pub oh: usize,
    pub ow: usize,
}

/// `W` outputs of `NV` vectors.
///
/// # Safety
/// `src` is valid for `K` rows of `ST * (W - 1) + K` pixels, `t.weights` and `t.bias` from channel `c` on for `NV` vectors.
#[inline(always)]
unsafe fn outputs<S: Simd, const K: usize, const ST: usize, const W: usize, const NV: usize>(
    s: S,
    t: &Window,
    src: *const f32,
    c: usize,
) -> [[S::V; W]; NV] {
    let mut acc = [[s.splat(0.0); W]; NV];
    // SAFETY: the caller's promise.
    unsafe {
        for (v, row) in acc.iter_mut().enumerate() {
            *row = [s.load(t.bias.add(c + v * S::LANES)); W];
        }
        for ky in 0..K {
            let row = src.add(ky * t.pitch);
            let taps = t.weights.add(ky * K * t.width + c);
            let mut w = [[s.splat(0.0); NV]; K];
            for kx in 0..K {
                for v in 0..NV {
                    w[kx][v] = s.load(taps.add(kx * t.width + v * S::LANES));
                }
            }
            unroll!(J < ST * (W - 1) + K, {
                for v in 0..NV {
                    let x = s.load(row.add(J * t.width + v * S::LANES));
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
    /// The padded image has `ST * (oh - 1) + K` rows of `ST * (ow - 1) + K` pixels; filter and bias cover the slice; and what `sink` asks.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd, const K: usize, const ST: usize>(
        &self,
        s: S,
        sink: &impl Sink<S>,
    ) {
        // A row of `W` outputs of one vector each, or of half as many of two vectors: the same registers.
        macro_rules! span {
            ($y:expr, $x:expr, $w:literal, $nv:literal) => {{
                let mut c = 0;
                while c < self.width {
                    let src = self
                        .src
                        .wrapping_add(ST * $y * self.pitch + ST * $x * self.width + c);
                    // SAFETY: outputs `x .. x + W` of row `y` exist, and `c + NV * LANES <= width`.
                    unsafe {
                        let acc = outputs::<S, K, ST, $w, $nv>(s, self, src, c);
                        for (v, row) in acc.iter().enumerate() {
                            for (i, value) in row.iter().enumerate() {
                                sink.put(s, $y, $x + i, c + v * S::LANES, *value);
                            }
                        }
                    }
                    c += $nv * S::LANES;
                }
            }};
        }
        let pairs = self.width.is_multiple_of(2 * S::LANES);
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
    g.kh == g.kw && matches!(g.kh, 3 | 5 | 11) && g.dilation == 1 && g.stride <= 2
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
    parallel::slots(g.n * bands(g) * slices(g)) * scratch(g)
}

/// Copies channels `c .. c + channels` of `rows` by `cols` pixels, the first at `(top, left)` which may lie outside, into pixels of `width`
/// channels; zeros outside and beyond `channels`.
///
/// # Safety
/// `src` is one image of the geometry, `dst` has `rows * cols * width` elements that this thread owns.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
unsafe fn copy_slice<S: Simd>(
    s: S,
    src: *const f32,
    size: [usize; 3],
    top: i64,
    left: i64,
    rows: usize,
    cols: usize,
    c: usize,
    width: usize,
    dst: *mut f32,
) {
    let [h, w, channels] = size;
    let real = width.min(channels - c);
    for r in 0..rows {
        let y = top + r as i64;
        // SAFETY: target pixels are within `rows * cols`; source pixels are read only inside the image.
        unsafe {
            let row = dst.add(r * cols * width);
            if y < 0 || y >= h as i64 {
                std::ptr::write_bytes(row, 0, cols * width);
                continue;
            }
            let before = (-left).clamp(0, cols as i64) as usize;
            let end = (w as i64 - left).clamp(before as i64, cols as i64) as usize;
            std::ptr::write_bytes(row, 0, before * width);
            std::ptr::write_bytes(row.add(end * width), 0, (cols - end) * width);
            for x in before..end {
                let from = src.add((y as usize * w + (x as i64 + left) as usize) * channels + c);
                let mut j = 0;
                while j < width {
                    let n = real.saturating_sub(j);
                    s.store(row.add(x * width + j), s.load_upto(from.add(j), n));
                    j += S::LANES;
                }
            }
        }
    }
}

/// Stores outputs with an activation.
struct Store {
    dst: *mut f32,
    /// Elements between rows and between pixels.
    row: usize,
    pixel: usize,
    /// Channels that exist.
    channels: usize,
    activation: Activation,
}

impl<S: Simd> Sink<S> for Store {
    /// # Safety
    /// `dst` is valid at the pixel for the slice's existing channels, and this thread alone writes there.
    #[inline(always)]
    unsafe fn put(&self, s: S, y: usize, x: usize, c: usize, v: S::V) {
        let v = match self.activation {
            Activation::None => v,
            Activation::Swish => vmath::swish(s, v),
            Activation::LipSwish => s.mul(s.splat(LIP), vmath::swish(s, v)),
            Activation::Elu => vmath::elu(s, v),
        };
        if c < self.channels {
            // SAFETY: the caller's promise.
            unsafe {
                s.store_upto(
                    self.dst.add(y * self.row + x * self.pixel + c),
                    self.channels - c,
                    v,
                )
            };
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
        let width = channels.next_multiple_of(16);
        let (in_rows, cols) = (g.stride * (rows.len() - 1) + g.kh, padded_width(g));
        let taps = g.kh * g.kw;
        let src = self.op.src.wrapping_add(self.image * g.h * g.w * g.cin);
        let weights = self.scratch.wrapping_add(in_rows * cols * width);
        let bias = weights.wrapping_add(taps * width);
        let top = (g.stride * rows.start) as i64 - i64::from(g.pad[0][0]);
        // SAFETY: scratch is this task's own and holds the padded slice, the filter's slice and the bias; the other operands are
        // whole tensors of the geometry; the task owns these channels of these output rows.
        unsafe {
            copy_slice(
                s,
                src,
                [g.h, g.w, g.cin],
                top,
                -i64::from(g.pad[1][0]),
                in_rows,
                cols,
                c,
                width,
                self.scratch,
            );
            for tap in 0..taps {
                let from = if self.op.reverse { taps - 1 - tap } else { tap };
                copy_channels(
                    s,
                    self.op.weights.add(from * g.cin + c),
                    channels,
                    weights.add(tap * width),
                    width,
                );
            }
            match self.op.bias {
                Some(b) => copy_channels(s, b.add(c), channels, bias, width),
                None => std::ptr::write_bytes(bias, 0, width),
            }
            let window = Window {
                src: self.scratch,
                pitch: cols * width,
                weights,
                bias,
                width,
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
                activation: self.op.activation,
            };
            match (g.kh, g.stride) {
                (3, 1) => window.run::<S, 3, 1>(s, &store),
                (5, 1) => window.run::<S, 5, 1>(s, &store),
                (11, 1) => window.run::<S, 11, 1>(s, &store),
                (3, _) => window.run::<S, 3, 2>(s, &store),
                (5, _) => window.run::<S, 5, 2>(s, &store),
                _ => window.run::<S, 11, 2>(s, &store),
            }
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
    let workspace = Shared::new(workspace);
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
                    let store = Store {
                        dst: self.op.dst.add(at),
                        row: 0,
                        pixel: 0,
                        channels: g.cin,
                        activation: self.op.activation,
                    };
                    store.put(s, 0, 0, c, acc);
                }
                c += S::LANES;
            }
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

/// Cuts of the images in the weight gradient, at most.
const MAX_CHUNKS: usize = 8;

fn chunks(g: &ConvGeometry) -> usize {
    g.n.clamp(1, MAX_CHUNKS)
}

/// Scratch elements of [`wgrad`].
pub fn wgrad_workspace(g: &ConvGeometry) -> usize {
    chunks(g) * weight_len(g)
}

/// Filter row `ky` of one chunk of images.
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
                for image in parallel::chunk(g.n, chunks(g), self.chunk) {
                    for oy in 0..oh {
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
    let (chunks, isa) = (chunks(g), simd::isa());
    let op = Operands {
        g,
        src: x.as_ptr(),
        weights: dy.as_ptr(),
        bias: None,
        dst: workspace.as_mut_ptr(),
        activation: Activation::None,
        reverse: false,
    };
    let flops = 2 * (g.y_len() * g.kh * g.kw) as u64;
    parallel::for_each(chunks * g.kh, flops, |task| {
        let op = &op;
        let (chunk, ky) = (task / g.kh, task % g.kh);
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
    sum_partials(&workspace[..chunks * len], &mut dw[..len], accumulate);
}

#[cfg(test)]
#[path = "dwconv_tests.rs"]
mod tests;
