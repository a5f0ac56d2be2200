//! The inverted residual in evaluation mode, forward and input gradient, in one pass over an image that stays in cache.
//!
//! `[nearest x2] -> expand 1x1 + bias -> swish -> depthwise 5x5 + bias -> swish -> project 1x1 + bias`, batch norms folded into weights and
//! biases. The depthwise convolution pads the *activation* with zeros, not the input.
//!
//! Work goes by image (or by band of rows, where an image is large) and, inside, by slices of 32 hidden channels, so that a slice
//! of the expanded image (16x16 with its border: 51 KB) never leaves L2 and mostly not L1, and no expanded tensor is
//! ever written to memory. Per hidden element and direction, `C` channels on either side: forward `2 C + 25` multiply-adds and two swishes.
//!
//! The gradient recomputes what it needs, the expansion and the depthwise output: `C + 25` multiply-adds and two logistic functions
//! more, about 45 cycles per 16 elements at C = 32. Storing both pre-activations instead would move 128 bytes out and 128 in
//! for the same 16 elements (plus reads for ownership): at 45 cycles that asks for more than 20 GB/s per core, which is what a core gets from
//! memory at best, and the toy model's expanded tensors (2 x 31 MB for 16 images) do not fit the caches of the
//! reference machine. So nothing is stored between forward and gradient.

use super::dwconv::SLICE;
use super::dwconv::window::{PLANE, Sink, Window};
use super::gemm::{Block, Columns, Epilogue, Finish};
use super::microkernel::Segment;
use super::parallel::{self, ALIGN, Shared};
use super::simd::{self, Kernel, Simd};
use super::vmath;
use backward::Backward;
use weights::Layout;

mod backward;
mod weights;

pub use weights::{MbConvWeights, pack, packed_len};

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
        2 * (self.hidden * (source * self.cin + target * (TAPS + self.cout))) as u64
    }
    /// Hidden channels rounded up to whole vectors; the extra ones are zero throughout.
    fn padded(&self) -> usize {
        self.hidden.next_multiple_of(16)
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

/// Side of the depthwise filter, its taps, and how far it reaches.
const KERNEL: usize = 5;
const TAPS: usize = KERNEL * KERNEL;
const RADIUS: usize = KERNEL / 2;

/// Hidden elements of a band at most (1 MB).
const BAND_LIMIT: usize = 1 << 18;
/// Tasks a small batch of large images is cut into.
const MIN_TASKS: usize = 4;

/// Rows of a hidden image at output resolution, in planes of 16 channels, with a border of `RADIUS` columns on either side; what lies
/// outside the image is zero.
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
    /// Elements of a plane.
    #[inline(always)]
    fn plane(&self) -> usize {
        self.rows * self.cols * PLANE
    }
    /// Pixel `(y, 0)` of the image, first plane; the row is held.
    #[inline(always)]
    fn row(&self, y: usize) -> *mut f32 {
        let r = y as i64 - self.top;
        debug_assert!(r >= 0 && r < self.rows as i64);
        self.ptr
            .wrapping_add((r as usize * self.cols + RADIUS) * PLANE)
    }
    /// Zeroes everything.
    ///
    /// # Safety
    /// The rows are this thread's own.
    unsafe fn clear(&self) {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::write_bytes(self.ptr, 0, Self::len(self.rows, self.cols)) }
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
    /// Gradient with respect to the second activation, `[rows, ow, 32]`.
    projected: usize,
    /// `[band, ow, hidden]` forward, `[band, w, hidden]` gradient.
    hidden: usize,
    len: usize,
}

impl Scratch {
    fn new(g: &MbConvGeometry, gradient: bool) -> Self {
        let (r, band) = (RADIUS, g.band_rows() * g.scale());
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
            projected: next(if gradient {
                gradient_rows * g.ow() * SLICE
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

/// Scratch elements of [`backward()`].
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
    /// Expands input rows and writes `swish` of them into the padded image, each pixel `scale` times along both axes; with `SLOPE`, also
    /// the derivative for input rows `slope_rows` into `slope`.
    ///
    /// # Safety
    /// `padded` has the slice's planes and is this task's own, as is `slope`.
    #[inline(always)]
    unsafe fn expand<S: Simd, const SLOPE: bool>(
        &self,
        s: S,
        slice: Slice,
        padded: Padded,
        slope: *mut f32,
        slope_rows: std::ops::Range<usize>,
    ) {
        let g = self.op.g;
        let layout = Layout::new(g);
        let scale = g.scale();
        // Bands and reach are even, so upsampled rows are held in pairs.
        let first = padded.top.max(0) as usize / scale;
        let last = ((padded.top + padded.rows as i64) as usize).min(g.oh()) / scale;
        let pixels = (last - first) * g.w;
        let x = self
            .op
            .x
            .wrapping_add((self.image * g.h + first) * g.w * g.cin);
        let weights = self
            .op
            .packed
            .wrapping_add(layout.expand + slice.start * g.cin);
        let bias = self
            .op
            .packed
            .wrapping_add(layout.expand_bias + slice.start);
        let mut tile = Line([0.0f32; TILE_PIXELS * SLICE]);
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
                b: Columns::panels(weights, g.cin),
                n0: 0,
                n1: slice.width,
                rows: range.len(),
                c: tile.0.as_mut_ptr(),
                offset: 0,
                c_rs: slice.width,
                finish: Finish::bias(bias),
            };
            // SAFETY: the pixels exist in `x`, the slice in the packed weights, and the tile holds `TILE_PIXELS` pixels.
            unsafe { block.run(s) };
            let mut i = 0;
            while i < range.len() {
                // A run of pixels in one row.
                let (y, col) = (first + (range.start + i) / g.w, (range.start + i) % g.w);
                let run = (g.w - col).min(range.len() - i);
                let wants_slope = SLOPE && slope_rows.contains(&y);
                let slopes = slope.wrapping_add(
                    (y.wrapping_sub(slope_rows.start)
                        .wrapping_mul(g.w)
                        .wrapping_add(col))
                    .wrapping_mul(slice.width),
                );
                let mut c = 0;
                while c < slice.width {
                    let at = c / PLANE * padded.plane() + c % PLANE + col * scale * PLANE;
                    let row = padded.row(y * scale).wrapping_add(at);
                    let second = row.wrapping_add((scale - 1) * padded.cols * PLANE);
                    let u = tile.0.as_ptr().wrapping_add(i * slice.width + c);
                    // SAFETY: channel `c` of the tile's pixels, of the padded pixels, and of the slope's rows.
                    unsafe {
                        for p in 0..run {
                            let u = s.load(u.add(p * slice.width));
                            let (e, d) = if SLOPE {
                                vmath::swish_and_grad(s, u)
                            } else {
                                (vmath::swish(s, u), u)
                            };
                            if wants_slope {
                                s.store(slopes.add(p * slice.width + c), d);
                            }
                            if scale == 1 {
                                s.store(row.add(p * PLANE), e);
                            } else {
                                for target in [row, second] {
                                    s.store(target.add(2 * p * PLANE), e);
                                    s.store(target.add((2 * p + 1) * PLANE), e);
                                }
                            }
                        }
                    }
                    c += S::LANES;
                }
                i += run;
            }
        }
    }

    /// Runs the depthwise filter (or its reverse) over the padded image, for `rows` output rows.
    ///
    /// # Safety
    /// As [`Window::run`].
    #[inline(always)]
    unsafe fn depthwise<S: Simd>(
        &self,
        s: S,
        slice: Slice,
        padded: Padded,
        rows: usize,
        reverse: bool,
        sink: &impl Sink<S>,
    ) {
        let g = self.op.g;
        let layout = Layout::new(g);
        let (weights, bias) = if reverse {
            (layout.depthwise_reversed, layout.zeros)
        } else {
            (layout.depthwise, layout.depthwise_bias + slice.start)
        };
        let window = Window {
            src: padded.ptr,
            pitch: padded.cols * PLANE,
            plane: padded.plane(),
            planes: slice.width / PLANE,
            weights: self.op.packed.wrapping_add(weights + slice.start * TAPS),
            bias: self.op.packed.wrapping_add(bias),
            oh: rows,
            ow: g.ow(),
        };
        // SAFETY: the caller's promise.
        unsafe { window.run::<S, KERNEL, 1>(s, sink) }
    }
}

/// A buffer that starts at a cache line.
#[repr(align(64))]
struct Line<T>(T);

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

/// The forward pass of one band.
struct Forward<'a>(Band<'a>);

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let task = self.0;
        let g = task.op.g;
        let layout = Layout::new(g);
        let (scale, r, hidden) = (g.scale(), RADIUS, g.padded());
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
        // SAFETY: all scratch is this task's own and sized by `Scratch`; slices are whole vectors.
        unsafe {
            // The borders stay zero for all slices.
            padded.clear();
            for slice in slices(g) {
                task.expand::<S, false>(s, slice, padded, std::ptr::null_mut(), 0..0);
                let sink = Activate {
                    dst: activated.add(slice.start),
                    ow: g.ow(),
                    hidden,
                };
                task.depthwise(s, slice, padded, count, false, &sink);
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
        // SAFETY: as above; the task alone writes its rows of the output.
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
