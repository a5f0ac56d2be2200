//! The inverted residual in evaluation mode, forward and input gradient, in one pass over an image that stays in cache.
//!
//! `[nearest x2] -> expand 1x1 + bias -> swish -> depthwise k x k + bias -> swish -> project 1x1 + bias`, batch norms folded into weights and
//! biases. The depthwise convolution pads the *activation* with zeros, not the input.
//!
//! Work goes by image (or by band of rows, where an image is large) and, inside, by slices of 32 hidden channels, so that a slice
//! of the expanded image (16x16 with its border: 51 KB) never leaves L2 and mostly not L1, and no expanded tensor is
//! ever written to memory. Per hidden element and direction, `C` channels on either side: forward `2 C + k^2` multiply-adds and two swishes.
//!
//! The gradient recomputes what it needs, the expansion and the depthwise output: `C + k^2` multiply-adds and two logistic functions
//! more, about 45 cycles per 16 elements at C = 32. Storing both pre-activations instead would move 128 bytes out and 128 in
//! for the same 16 elements (plus reads for ownership): at 45 cycles that asks for more than 20 GB/s per core, which is what a core gets from
//! memory at best, and the toy model's expanded tensors (2 x 31 MB for 16 images) do not fit the caches of the
//! reference machine. So nothing is stored between forward and gradient.

use super::dwconv::{SLICE, Sink, Window};
use super::gemm::{self, Block, Columns, Epilogue, Finish};
use super::microkernel::Segment;
use super::parallel::{self, ALIGN, Shared};
use super::simd::{self, Kernel, Simd};
use super::vmath;

/// Shapes of an inverted residual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MbConvGeometry {
    /// Images.
    pub n: usize,
    /// Input rows.
    pub h: usize,
    /// Input columns.
    pub w: usize,
    /// Input channels.
    pub cin: usize,
    /// Expanded channels.
    pub hidden: usize,
    /// Output channels.
    pub cout: usize,
    /// Side of the depthwise filter: 3 or 5.
    pub kernel: usize,
    /// Doubles rows and columns (nearest neighbour) before expanding.
    pub upsample: bool,
}

impl MbConvGeometry {
    fn scale(&self) -> usize {
        1 + usize::from(self.upsample)
    }
    /// Output rows.
    pub fn oh(&self) -> usize {
        self.h * self.scale()
    }
    /// Output columns.
    pub fn ow(&self) -> usize {
        self.w * self.scale()
    }
    /// Elements of `x`.
    pub fn x_len(&self) -> usize {
        self.n * self.h * self.w * self.cin
    }
    /// Elements of `y`.
    pub fn y_len(&self) -> usize {
        self.n * self.oh() * self.ow() * self.cout
    }
    /// Floating-point operations of the forward pass (the input gradient's, without what it recomputes, are as many), two per
    /// multiply-add; activations not counted.
    pub fn flops(&self) -> u64 {
        let (source, target) = (self.n * self.h * self.w, self.n * self.oh() * self.ow());
        2 * (self.hidden * (source * self.cin + target * (self.kernel * self.kernel + self.cout)))
            as u64
    }
    /// Hidden channels rounded up to whole vectors; the extra ones are zero throughout.
    fn padded(&self) -> usize {
        self.hidden.next_multiple_of(16)
    }
    fn radius(&self) -> usize {
        self.kernel / 2
    }
    fn check(&self) {
        assert!(
            matches!(self.kernel, 3 | 5),
            "depthwise filters are 3x3 or 5x5: {self:?}"
        );
    }
    /// Bands of input rows an image is cut into.
    fn bands(&self) -> usize {
        let per_row = (self.ow() * self.scale() * self.padded()).max(1);
        let rows = (BAND_LIMIT / per_row).max(8);
        // Few images: cut further, so that there is work for several threads.
        let few = MIN_TASKS.div_ceil(self.n.max(1)).min(self.h / 16);
        self.h.div_ceil(rows).max(few).max(1)
    }
    fn band_rows(&self) -> usize {
        self.h.div_ceil(self.bands())
    }
}

/// Hidden elements of a band at most (1 MB).
const BAND_LIMIT: usize = 1 << 18;
/// Tasks a small batch of large images is cut into.
const MIN_TASKS: usize = 4;

/// Folded weights of an inverted residual.
#[derive(Clone, Copy, Debug)]
pub struct MbConvWeights<'a> {
    /// `[cin, hidden]`.
    pub expand: &'a [f32],
    /// `[hidden]`.
    pub expand_bias: &'a [f32],
    /// `[k, k, hidden]`.
    pub depthwise: &'a [f32],
    /// `[hidden]`.
    pub depthwise_bias: &'a [f32],
    /// `[hidden, cout]`.
    pub project: &'a [f32],
    /// `[cout]`.
    pub project_bias: &'a [f32],
}

/// Offsets into the packed weights.
struct Layout {
    expand: usize,
    expand_bias: usize,
    depthwise: usize,
    depthwise_reversed: usize,
    depthwise_bias: usize,
    zeros: usize,
    project: usize,
    project_bias: usize,
    expand_transposed: usize,
    project_transposed: usize,
    len: usize,
}

impl Layout {
    fn new(g: &MbConvGeometry) -> Self {
        let (hidden, taps) = (g.padded(), g.kernel * g.kernel);
        let mut len = 0;
        let mut next = |size: usize| {
            let at = len;
            len += size.next_multiple_of(16);
            at
        };
        Self {
            expand: next(gemm::packed_len(g.cin, hidden)),
            expand_bias: next(hidden),
            depthwise: next(taps * hidden),
            depthwise_reversed: next(taps * hidden),
            depthwise_bias: next(hidden),
            zeros: next(SLICE),
            project: next(gemm::packed_len(hidden, g.cout)),
            project_bias: next(g.cout),
            expand_transposed: next(gemm::packed_len(hidden, g.cin)),
            project_transposed: next(gemm::packed_len(g.cout, hidden)),
            len,
        }
    }
}

/// Length of the packed weights.
pub fn packed_len(g: &MbConvGeometry) -> usize {
    Layout::new(g).len
}

/// Packs the weights for both directions; once per parameter version.
///
/// # Panics
/// If a slice is shorter than the geometry says.
pub fn pack(g: &MbConvGeometry, w: &MbConvWeights<'_>, dst: &mut [f32]) {
    g.check();
    let layout = Layout::new(g);
    let (hidden, taps) = (g.padded(), g.kernel * g.kernel);
    let dst = &mut dst[..layout.len];
    dst.fill(0.0);
    gemm::pack(
        g.cin,
        g.hidden,
        w.expand,
        g.hidden,
        1,
        &mut dst[layout.expand..],
    );
    dst[layout.expand_bias..][..g.hidden].copy_from_slice(&w.expand_bias[..g.hidden]);
    dst[layout.depthwise_bias..][..g.hidden].copy_from_slice(&w.depthwise_bias[..g.hidden]);
    dst[layout.project_bias..][..g.cout].copy_from_slice(&w.project_bias[..g.cout]);
    for c in 0..g.hidden {
        // Slices of up to 32 channels, each `[taps, width]`.
        let start = c / SLICE * SLICE;
        let width = SLICE.min(hidden - start);
        for tap in 0..taps {
            let value = w.depthwise[tap * g.hidden + c];
            dst[layout.depthwise + start * taps + tap * width + c - start] = value;
            dst[layout.depthwise_reversed + start * taps + (taps - 1 - tap) * width + c - start] =
                value;
        }
    }
    gemm::pack(
        g.hidden,
        g.cout,
        w.project,
        g.cout,
        1,
        &mut dst[layout.project..],
    );
    if g.hidden < hidden {
        // Panels of `hidden` padded rows each.
        repack_rows(g.hidden, hidden, g.cout, &mut dst[layout.project..]);
    }
    gemm::pack(
        g.hidden,
        g.cin,
        w.expand,
        1,
        g.hidden,
        &mut dst[layout.expand_transposed..],
    );
    if g.hidden < hidden {
        repack_rows(
            g.hidden,
            hidden,
            g.cin,
            &mut dst[layout.expand_transposed..],
        );
    }
    gemm::pack(
        g.cout,
        g.hidden,
        w.project,
        1,
        g.cout,
        &mut dst[layout.project_transposed..],
    );
}

/// Spreads panels of `k` rows to panels of `padded` rows, the new rows zero.
fn repack_rows(k: usize, padded: usize, n: usize, dst: &mut [f32]) {
    for p in (0..n.div_ceil(gemm::PANEL)).rev() {
        let (from, to) = (p * k * gemm::PANEL, p * padded * gemm::PANEL);
        dst.copy_within(from..from + k * gemm::PANEL, to);
        dst[to + k * gemm::PANEL..to + padded * gemm::PANEL].fill(0.0);
    }
}

/// Rows of the expanded image (at output resolution) held in scratch, with a border of `radius` columns; rows and columns outside the image are
/// zero.
#[derive(Clone, Copy)]
struct Padded {
    ptr: *mut f32,
    /// Image row of the first scratch row; may be negative.
    top: i64,
    rows: usize,
    /// Pixels of a row, border included.
    cols: usize,
}

impl Padded {
    fn len(rows: usize, cols: usize) -> usize {
        rows * cols * SLICE
    }
    /// Pixel `(y, 0)` of the image, if its row is held.
    #[inline(always)]
    fn row(&self, y: i64, radius: usize, width: usize) -> Option<*mut f32> {
        let r = y - self.top;
        (r >= 0 && r < self.rows as i64).then(|| {
            self.ptr
                .wrapping_add((r as usize * self.cols + radius) * width)
        })
    }
}

/// Scratch of one task, as offsets.
struct Scratch {
    /// Rows of expanded image and of depthwise gradient held.
    expanded_rows: usize,
    gradient_rows: usize,
    expanded: usize,
    /// Depthwise gradient, padded.
    gradient: usize,
    /// Derivative of the first swish, `[band, w, 32]` at input resolution.
    slope: usize,
    /// `[band, ow, hidden]` forward, `[band, w, hidden]` gradient.
    hidden: usize,
    len: usize,
}

impl Scratch {
    fn new(g: &MbConvGeometry, gradient: bool) -> Self {
        let (r, band) = (g.radius(), g.band_rows() * g.scale());
        let cols = g.ow() + 2 * r;
        let expanded_rows = band + if gradient { 4 * r } else { 2 * r };
        let gradient_rows = band + 2 * r;
        let mut len = 0;
        let mut next = |size: usize| {
            let at = len;
            len += size.next_multiple_of(ALIGN);
            at
        };
        Self {
            expanded_rows,
            gradient_rows,
            expanded: next(Padded::len(expanded_rows, cols)),
            gradient: next(if gradient {
                Padded::len(gradient_rows, cols)
            } else {
                0
            }),
            slope: next(if gradient {
                g.band_rows() * g.w * SLICE
            } else {
                0
            }),
            hidden: next(
                if gradient {
                    g.band_rows() * g.w
                } else {
                    band * g.ow()
                } * g.padded(),
            ),
            len,
        }
    }
}

fn workspace(g: &MbConvGeometry, gradient: bool) -> usize {
    parallel::slots(g.n * g.bands()) * Scratch::new(g, gradient).len + ALIGN
}

/// Scratch elements of [`forward`].
pub fn forward_workspace(g: &MbConvGeometry) -> usize {
    workspace(g, false)
}

/// Scratch elements of [`backward`].
pub fn backward_workspace(g: &MbConvGeometry) -> usize {
    workspace(g, true)
}

/// Operands as tasks share them.
#[derive(Clone, Copy)]
struct Operands<'a> {
    g: &'a MbConvGeometry,
    x: *const f32,
    packed: *const f32,
    /// `dy` of the gradient.
    dy: *const f32,
    /// `y` or `dx`.
    dst: *mut f32,
    finish: Finish,
}

// SAFETY: read-only views of slices borrowed for the whole call, and one output of which tasks write disjoint rows.
unsafe impl Send for Operands<'_> {}
// SAFETY: as above.
unsafe impl Sync for Operands<'_> {}

/// One band of one image.
struct Band<'a> {
    op: Operands<'a>,
    image: usize,
    band: usize,
    scratch: *mut f32,
}

/// A slice of hidden channels.
#[derive(Clone, Copy)]
struct Slice {
    start: usize,
    width: usize,
}

/// Pixels of a tile of the expansion at most.
const TILE_PIXELS: usize = 14;

impl Band<'_> {
    /// Expands input rows and writes `swish` of them into the padded image, each pixel `scale` times along both axes; where `slope` is given, also
    /// the derivative for input rows `slope_rows`.
    ///
    /// # Safety
    /// `padded` holds `slice.width` channels per pixel and is this task's own, as is `slope`.
    #[inline(always)]
    unsafe fn expand<S: Simd>(
        &self,
        s: S,
        slice: Slice,
        padded: Padded,
        slope: Option<*mut f32>,
        slope_rows: std::ops::Range<usize>,
    ) {
        let g = self.op.g;
        let layout = Layout::new(g);
        let scale = g.scale();
        let (first, last) = (
            padded.top.max(0) as usize / scale,
            ((padded.top + padded.rows as i64) as usize)
                .min(g.oh())
                .div_ceil(scale),
        );
        let pixels = (last - first) * g.w;
        let x = self
            .op
            .x
            .wrapping_add((self.image * g.h + first) * g.w * g.cin);
        let weights = Columns::panels(
            self.op
                .packed
                .wrapping_add(layout.expand + slice.start * g.cin),
            g.cin,
        );
        let mut tile = [0.0f32; TILE_PIXELS * SLICE];
        let per_tile = TILE_PIXELS / S::TILE_ROWS * S::TILE_ROWS;
        let tiles = pixels.div_ceil(per_tile);
        for t in 0..tiles {
            let range = parallel::chunk(pixels, tiles, t);
            let block = Block {
                a: x.wrapping_add(range.start * g.cin),
                a_rs: g.cin,
                a_ks: 1,
                segments: &[Segment { a: 0, b: 0 }],
                seg_len: g.cin,
                b: weights,
                n0: 0,
                n1: slice.width,
                rows: range.len(),
                c: tile.as_mut_ptr(),
                offset: 0,
                c_rs: slice.width,
                finish: Finish::bias(
                    self.op
                        .packed
                        .wrapping_add(layout.expand_bias + slice.start),
                ),
            };
            // SAFETY: the pixels exist in `x`, the slice in the packed weights, and the tile holds `TILE_PIXELS` pixels.
            unsafe { block.run(s) };
            let (mut y, mut col) = (first + range.start / g.w, range.start % g.w);
            for i in 0..range.len() {
                let u = tile.as_ptr().wrapping_add(i * slice.width);
                let wants_slope = slope.filter(|_| slope_rows.contains(&y));
                let mut c = 0;
                while c < slice.width {
                    // SAFETY: channel `c` of the tile, of the padded pixels whose rows are held, and of the slope's rows.
                    unsafe {
                        let u = s.load(u.add(c));
                        let e = match wants_slope {
                            Some(slope) => {
                                let (e, d) = vmath::swish_and_grad(s, u);
                                let at = ((y - slope_rows.start) * g.w + col) * slice.width + c;
                                s.store(slope.add(at), d);
                                e
                            }
                            None => vmath::swish(s, u),
                        };
                        for dy in 0..scale {
                            if let Some(row) =
                                padded.row((y * scale + dy) as i64, g.radius(), slice.width)
                            {
                                for dx in 0..scale {
                                    s.store(row.add((col * scale + dx) * slice.width + c), e);
                                }
                            }
                        }
                    }
                    c += S::LANES;
                }
                col += 1;
                if col == g.w {
                    (y, col) = (y + 1, 0);
                }
            }
        }
    }

    /// Runs the depthwise filter (or its reverse) over rows of a padded image.
    ///
    /// # Safety
    /// As [`Window::run`]; `first_row` counts the padded image's rows.
    #[inline(always)]
    unsafe fn depthwise<S: Simd>(
        &self,
        s: S,
        slice: Slice,
        padded: Padded,
        first_row: usize,
        rows: usize,
        reverse: bool,
        sink: &impl Sink<S>,
    ) {
        let g = self.op.g;
        let layout = Layout::new(g);
        let taps = g.kernel * g.kernel;
        let (weights, bias) = if reverse {
            (layout.depthwise_reversed, layout.zeros)
        } else {
            (layout.depthwise, layout.depthwise_bias + slice.start)
        };
        let pitch = padded.cols * slice.width;
        let window = Window {
            src: padded.ptr.wrapping_add(first_row * pitch),
            pitch,
            weights: self.op.packed.wrapping_add(weights + slice.start * taps),
            bias: self.op.packed.wrapping_add(bias),
            width: slice.width,
            oh: rows,
            ow: g.ow(),
        };
        // SAFETY: the caller's promise.
        unsafe {
            if g.kernel == 3 {
                window.run::<S, 3, 1>(s, sink)
            } else {
                window.run::<S, 5, 1>(s, sink)
            }
        }
    }
}

/// Hidden slices of the geometry.
fn slices(g: &MbConvGeometry) -> impl Iterator<Item = Slice> {
    let hidden = g.padded();
    (0..hidden).step_by(SLICE).map(move |start| Slice {
        start,
        width: SLICE.min(hidden - start),
    })
}

/// Stores swish of the depthwise output.
struct Activate {
    /// Pixel 0, first channel of the slice, `[pixels, hidden]`.
    dst: *mut f32,
    ow: usize,
    hidden: usize,
}

impl<S: Simd> Sink<S> for Activate {
    /// # Safety
    /// The task owns `dst`, which holds the band.
    #[inline(always)]
    unsafe fn put(&self, s: S, y: usize, x: usize, c: usize, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe {
            s.store(
                self.dst.add((y * self.ow + x) * self.hidden + c),
                vmath::swish(s, v),
            )
        };
    }
}

struct Forward<'a>(Band<'a>);

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let task = self.0;
        let g = task.op.g;
        let layout = Layout::new(g);
        let (scale, r, hidden) = (g.scale(), g.radius(), g.padded());
        let rows = parallel::chunk(g.h, g.bands(), task.band);
        let (first, count) = (rows.start * scale, rows.len() * scale);
        let scratch = Scratch::new(g, false);
        let padded = Padded {
            ptr: task.scratch.wrapping_add(scratch.expanded),
            top: first as i64 - r as i64,
            rows: count + 2 * r,
            cols: g.ow() + 2 * r,
        };
        let activated = task.scratch.wrapping_add(scratch.hidden);
        let mut width = 0;
        for slice in slices(g) {
            // SAFETY: all scratch is this task's own and sized by `Scratch`; slices are whole vectors; the task alone writes its
            // rows of the output.
            unsafe {
                if slice.width != width {
                    // The border stays zero for all slices of one width.
                    width = slice.width;
                    std::ptr::write_bytes(padded.ptr, 0, padded.rows * padded.cols * width);
                }
                task.expand(s, slice, padded, None, 0..0);
                let sink = Activate {
                    dst: activated.add(slice.start),
                    ow: g.ow(),
                    hidden,
                };
                task.depthwise(s, slice, padded, 0, count, false, &sink);
            }
        }
        let block = Block {
            a: activated,
            a_rs: hidden,
            a_ks: 1,
            segments: &[Segment { a: 0, b: 0 }],
            seg_len: hidden,
            b: Columns::panels(task.op.packed.wrapping_add(layout.project), hidden),
            n0: 0,
            n1: g.cout,
            rows: count * g.ow(),
            c: task.op.dst,
            offset: (task.image * g.oh() + first) * g.ow() * g.cout,
            c_rs: g.cout,
            finish: task.op.finish,
        };
        // SAFETY: as above.
        unsafe { block.run(s) };
    }
}

/// Multiplies the projected gradient, which stands in a padded image, by the derivative of the second swish.
struct Derive {
    padded: Padded,
    first: usize,
    radius: usize,
    width: usize,
}

impl<S: Simd> Sink<S> for Derive {
    /// # Safety
    /// The task owns the padded image, which holds the row.
    #[inline(always)]
    unsafe fn put(&self, s: S, y: usize, x: usize, c: usize, v: S::V) {
        let (_, slope) = vmath::swish_and_grad(s, v);
        if let Some(row) = self
            .padded
            .row((self.first + y) as i64, self.radius, self.width)
        {
            // SAFETY: the caller's promise.
            unsafe {
                let at = row.add(x * self.width + c);
                s.store(at, s.mul(slope, s.load(at)));
            }
        }
    }
}

/// Collects the gradient of the expansion: sums what upsampling copied, and multiplies by the derivative of the first swish.
struct Collect {
    /// First channel of the slice, `[pixels, hidden]` at input resolution.
    dst: *mut f32,
    slope: *const f32,
    scale: usize,
    w: usize,
    hidden: usize,
    width: usize,
}

impl<S: Simd> Sink<S> for Collect {
    /// # Safety
    /// The task owns `dst`; both pointers hold the band.
    #[inline(always)]
    unsafe fn put(&self, s: S, y: usize, x: usize, c: usize, v: S::V) {
        let pixel = y / self.scale * self.w + x / self.scale;
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.dst.add(pixel * self.hidden + c);
            // The copies of a pixel come in the order (0, 0), (0, 1), (1, 0), (1, 1).
            let sum = if self.scale == 1 || (y.is_multiple_of(2) && x.is_multiple_of(2)) {
                v
            } else {
                s.add(s.load(at), v)
            };
            let last = self.scale == 1 || (y % 2 == 1 && x % 2 == 1);
            s.store(
                at,
                if last {
                    s.mul(sum, s.load(self.slope.add(pixel * self.width + c)))
                } else {
                    sum
                },
            );
        }
    }
}

struct Backward<'a>(Band<'a>);

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let task = self.0;
        let g = task.op.g;
        let layout = Layout::new(g);
        let (scale, r, hidden) = (g.scale(), g.radius(), g.padded());
        let rows = parallel::chunk(g.h, g.bands(), task.band);
        let (first, count) = (rows.start * scale, rows.len() * scale);
        let scratch = Scratch::new(g, true);
        let cols = g.ow() + 2 * r;
        // Rows of the depthwise output that the band's gradient needs, inside the image.
        let (out0, out1) = (first.saturating_sub(r), (first + count + r).min(g.oh()));
        let padded = |at: usize, top: i64, rows: usize| Padded {
            ptr: task.scratch.wrapping_add(at),
            top,
            rows,
            cols,
        };
        let expanded = padded(
            scratch.expanded,
            out0 as i64 - r as i64,
            out1 - out0 + 2 * r,
        );
        let gradient = padded(scratch.gradient, first as i64 - r as i64, count + 2 * r);
        debug_assert!(
            expanded.rows <= scratch.expanded_rows && gradient.rows <= scratch.gradient_rows
        );
        let slope = task.scratch.wrapping_add(scratch.slope);
        let collected = task.scratch.wrapping_add(scratch.hidden);
        let mut width = 0;
        for slice in slices(g) {
            // SAFETY: all scratch is this task's own and sized by `Scratch`; slices are whole vectors; rows `out0 .. out1` are held by
            // both padded images.
            unsafe {
                if slice.width != width {
                    width = slice.width;
                    std::ptr::write_bytes(expanded.ptr, 0, expanded.rows * cols * width);
                    std::ptr::write_bytes(gradient.ptr, 0, gradient.rows * cols * width);
                }
                task.expand(s, slice, expanded, Some(slope), rows.clone());
                // Gradient with respect to the second activation, row by row into the padded image.
                for y in out0..out1 {
                    let Some(row) = gradient.row(y as i64, r, width) else {
                        continue;
                    };
                    let block = Block {
                        a: task.op.dy.add((task.image * g.oh() + y) * g.ow() * g.cout),
                        a_rs: g.cout,
                        a_ks: 1,
                        segments: &[Segment { a: 0, b: 0 }],
                        seg_len: g.cout,
                        b: Columns::panels(
                            task.op
                                .packed
                                .add(layout.project_transposed + slice.start * g.cout),
                            g.cout,
                        ),
                        n0: 0,
                        n1: width,
                        rows: g.ow(),
                        c: row,
                        offset: 0,
                        c_rs: width,
                        finish: Finish::STORE,
                    };
                    block.run(s);
                }
                let derive = Derive {
                    padded: gradient,
                    first: out0,
                    radius: r,
                    width,
                };
                task.depthwise(s, slice, expanded, 0, out1 - out0, false, &derive);
                let collect = Collect {
                    dst: collected.add(slice.start),
                    slope,
                    scale,
                    w: g.w,
                    hidden,
                    width,
                };
                task.depthwise(s, slice, gradient, 0, count, true, &collect);
            }
        }
        let block = Block {
            a: collected,
            a_rs: hidden,
            a_ks: 1,
            segments: &[Segment { a: 0, b: 0 }],
            seg_len: hidden,
            b: Columns::panels(
                task.op.packed.wrapping_add(layout.expand_transposed),
                hidden,
            ),
            n0: 0,
            n1: g.cin,
            rows: rows.len() * g.w,
            c: task.op.dst,
            offset: (task.image * g.h + rows.start) * g.w * g.cin,
            c_rs: g.cin,
            finish: task.op.finish,
        };
        // SAFETY: as above; the task alone writes its rows of `dx`.
        unsafe { block.run(s) };
    }
}

/// `y = epilogue(inverted residual of x)`; weights from [`pack`]. The epilogue's bias must be `None`: the projection's own stands there.
///
/// # Panics
/// If a slice is shorter than the geometry says, or `workspace` than [`forward_workspace`].
pub fn forward(
    g: &MbConvGeometry,
    x: &[f32],
    packed: &[f32],
    y: &mut [f32],
    epilogue: Epilogue<'_>,
    workspace: &mut [f32],
) {
    g.check();
    let layout = Layout::new(g);
    assert!(
        x.len() >= g.x_len() && y.len() >= g.y_len() && packed.len() >= layout.len,
        "x, y or weights too short for {g:?}"
    );
    assert!(
        workspace.len() >= forward_workspace(g),
        "workspace too small"
    );
    assert!(epilogue.bias.is_none(), "the projection has its own bias");
    let bias = (!epilogue.accumulate).then(|| &packed[layout.project_bias..][..g.cout]);
    let finish = Finish::new(Epilogue { bias, ..epilogue }, g.cout, g.y_len());
    let op = Operands {
        g,
        x: x.as_ptr(),
        packed: packed.as_ptr(),
        dy: std::ptr::null(),
        dst: y.as_mut_ptr(),
        finish,
    };
    run(op, false, workspace, |band, isa| {
        simd::dispatch(isa, Forward(band))
    });
}

/// `dx = epilogue(gradient of the inverted residual with respect to x, at dy)`; recomputes the hidden layers from `x`.
///
/// # Panics
/// If a slice is shorter than the geometry says, or `workspace` than [`backward_workspace`].
pub fn backward(
    g: &MbConvGeometry,
    x: &[f32],
    packed: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    epilogue: Epilogue<'_>,
    workspace: &mut [f32],
) {
    g.check();
    assert!(
        x.len() >= g.x_len() && dx.len() >= g.x_len() && dy.len() >= g.y_len(),
        "x, dx or dy too short for {g:?}"
    );
    assert!(packed.len() >= packed_len(g), "weights too short for {g:?}");
    assert!(
        workspace.len() >= backward_workspace(g),
        "workspace too small"
    );
    let finish = Finish::new(epilogue, g.cin, g.x_len());
    let op = Operands {
        g,
        x: x.as_ptr(),
        packed: packed.as_ptr(),
        dy: dy.as_ptr(),
        dst: dx.as_mut_ptr(),
        finish,
    };
    run(op, true, workspace, |band, isa| {
        simd::dispatch(isa, Backward(band))
    });
}

fn run(
    op: Operands<'_>,
    gradient: bool,
    workspace: &mut [f32],
    task: impl Fn(Band<'_>, simd::Isa) + Sync + Send,
) {
    let g = op.g;
    if g.n * g.h * g.w == 0 {
        return;
    }
    let (bands, len, isa) = (g.bands(), Scratch::new(g, gradient).len, simd::isa());
    let workspace = Shared::aligned(workspace);
    parallel::for_each_slot(g.n * bands, g.flops(), |slot, i| {
        let op = op;
        task(
            Band {
                op,
                image: i / bands,
                band: i % bands,
                scratch: workspace.at(slot * len),
            },
            isa,
        );
    });
}

#[cfg(test)]
#[path = "mbconv_tests.rs"]
mod tests;
