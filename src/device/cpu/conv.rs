//! Convolution as implicit matrix product: forward and input gradient ([`wgrad`](super::wgrad) has the weight gradient).
//!
//! No tensor of patches is ever made. For each image (or slab of rows) the source is copied once into a zero-padded scratch
//! image, and the register tile then reads it in place: a tile is up to 14 neighbouring pixels of one output row by 32 output channels,
//! its `k` runs over the channels of one tap, and over a whole filter row at once where the taps of a row are contiguous (dilation 1,
//! one group). Counts for 3x3, C to C: 9 C multiply-adds per output against 1 / 9 C of a copied element read and
//! written; the copy of a 16x16x16 image is 0.7% of the product's port time. Patches would write and read 9 times as much.
//! Without padding there is no copy; a 1x1 convolution of stride 1 is one plain product.
//!
//! The input gradient gathers too (no scatter, no atomics): input pixels of equal residue modulo the stride form a phase, whose
//! taps are those that hit it, so stride 2 costs no multiplication by an inserted zero.

use super::gemm::{self, Activation, Block, Columns, Epilogue, Finish, Lhs, PANEL, Rhs};
use super::microkernel::Segment;
use super::parallel::{self, Shared};
use super::simd::{self, Kernel, Simd};
use super::vmath;

/// Taps a filter may have (11 x 11 is the largest of the model's).
pub const MAX_TAPS: usize = 128;

/// A convolution's shapes. `x` is `[n, h, w, cin]`, `y` is `[n, oh, ow, cout]`, weights `[kh, kw, cin / groups, cout]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Images.
    pub n: usize,
    /// Input rows.
    pub h: usize,
    /// Input columns.
    pub w: usize,
    /// Input channels.
    pub cin: usize,
    /// Output channels.
    pub cout: usize,
    /// Filter rows.
    pub kh: usize,
    /// Filter columns.
    pub kw: usize,
    /// Step between outputs, both axes.
    pub stride: usize,
    /// Step between taps, both axes.
    pub dilation: usize,
    /// Groups of channels; divides `cin` and `cout`.
    pub groups: usize,
    /// Zeros before and after, `[rows, columns]`; negative numbers crop instead.
    pub pad: [[i32; 2]; 2],
}

impl ConvGeometry {
    fn out(&self, axis: usize) -> usize {
        let (size, k) = if axis == 0 {
            (self.h, self.kh)
        } else {
            (self.w, self.kw)
        };
        let [lo, hi] = self.pad[axis];
        let span = size as i64 + i64::from(lo) + i64::from(hi) - (self.dilation * (k - 1)) as i64;
        if span < 1 {
            0
        } else {
            (span as usize - 1) / self.stride + 1
        }
    }
    /// Output rows.
    pub fn oh(&self) -> usize {
        self.out(0)
    }
    /// Output columns.
    pub fn ow(&self) -> usize {
        self.out(1)
    }
    /// Elements of `x`.
    pub fn x_len(&self) -> usize {
        self.n * self.h * self.w * self.cin
    }
    /// Elements of `y`.
    pub fn y_len(&self) -> usize {
        self.n * self.oh() * self.ow() * self.cout
    }
    /// Elements of the weights.
    pub fn weight_len(&self) -> usize {
        self.kh * self.kw * self.cin / self.groups * self.cout
    }
    /// Floating-point operations of one pass, padding counted as if it were data.
    pub fn flops(&self) -> u64 {
        2 * (self.y_len() as u64) * (self.kh * self.kw * self.cin / self.groups) as u64
    }
    /// Whether the whole batch is one matrix product.
    fn is_product(&self) -> bool {
        self.kh * self.kw == 1 && self.stride == 1 && self.groups == 1 && self.pad == [[0; 2]; 2]
    }
    pub(super) fn check(&self) {
        assert!(
            self.stride > 0 && self.dilation > 0 && self.groups > 0 && self.kh > 0 && self.kw > 0,
            "{self:?}"
        );
        assert!(
            self.cin.is_multiple_of(self.groups) && self.cout.is_multiple_of(self.groups),
            "{self:?}"
        );
        assert!(
            self.kh * self.kw <= MAX_TAPS,
            "more than {MAX_TAPS} taps: {self:?}"
        );
    }
}

/// The direction of a gather.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Source `x`, target `y`.
    Forward,
    /// Source `dy`, target `dx`.
    Gradient,
}

/// A convolution pass: every target pixel gathers source pixels. Target pixels `phase + out_step * i` read source pixels
/// `in_step * i + offset(tap)`.
#[derive(Clone, Copy)]
struct Gather {
    g: ConvGeometry,
    pass: Pass,
    /// Rows, columns, channels.
    src: [usize; 3],
    dst: [usize; 3],
    in_step: usize,
    out_step: usize,
    /// Zeros the scratch image has before and after, `[rows, columns]`; all zero: the source is read in place.
    border: [[usize; 2]; 2],
    /// Smallest and largest row offset.
    reach: [i64; 2],
    /// Cuts of an image into slabs of rows.
    slabs: usize,
    /// Applied to the source while it is copied; all of them map the padding's zero to zero.
    activation: Activation,
}

/// Scratch elements above which an image is cut into more slabs.
const SLAB_LIMIT: usize = 1 << 18;
/// Tasks that a pass is cut into at least, where there are rows enough.
const MIN_TASKS: usize = 8;

impl Gather {
    fn new(g: &ConvGeometry, pass: Pass, activation: Activation) -> Self {
        g.check();
        let (x, y) = ([g.h, g.w, g.cin], [g.oh(), g.ow(), g.cout]);
        let mut this = Self {
            g: *g,
            pass,
            src: if pass == Pass::Forward { x } else { y },
            dst: if pass == Pass::Forward { y } else { x },
            in_step: if pass == Pass::Forward { g.stride } else { 1 },
            out_step: if pass == Pass::Forward { 1 } else { g.stride },
            border: [[0; 2]; 2],
            reach: [0; 2],
            slabs: 1,
            activation,
        };
        for axis in 0..2 {
            let (mut first, mut last) = (0i64, this.src[axis] as i64 - 1);
            let mut reach: Option<[i64; 2]> = None;
            for phase in 0..this.out_step {
                let count = this.count(axis, phase);
                for k in 0..[g.kh, g.kw][axis] {
                    if let (Some(off), true) = (this.offset(axis, phase, k), count > 0) {
                        first = first.min(off);
                        last = last.max((this.in_step * (count - 1)) as i64 + off);
                        let [lo, hi] = reach.unwrap_or([off, off]);
                        reach = Some([lo.min(off), hi.max(off)]);
                    }
                }
            }
            this.border[axis] = [
                -first as usize,
                (last - (this.src[axis] as i64 - 1)) as usize,
            ];
            if axis == 0 {
                this.reach = reach.unwrap_or([0, 0]);
            }
        }
        let rows = this.count(0, 0).max(1);
        let image = this.slab_rows(rows) * this.pitch();
        let wanted = MIN_TASKS
            .div_ceil(g.n.max(1))
            .max(image.div_ceil(SLAB_LIMIT));
        this.slabs = wanted.clamp(1, rows);
        this
    }

    /// Target pixels of a phase along an axis.
    fn count(&self, axis: usize, phase: usize) -> usize {
        (self.dst[axis] + self.out_step - 1).saturating_sub(phase) / self.out_step
    }

    /// Source position of tap `k` for target index 0 of a phase, if the tap hits the phase.
    fn offset(&self, axis: usize, phase: usize, k: usize) -> Option<i64> {
        let (lo, tap) = (i64::from(self.g.pad[axis][0]), (self.g.dilation * k) as i64);
        match self.pass {
            Pass::Forward => Some(tap - lo),
            Pass::Gradient => {
                let (at, s) = (phase as i64 + lo - tap, self.g.stride as i64);
                (at.rem_euclid(s) == 0).then(|| at.div_euclid(s))
            }
        }
    }

    /// Whether the pass is one matrix product over the whole batch.
    fn is_product(&self) -> bool {
        self.g.is_product() && self.activation == Activation::None
    }
    fn copies(&self) -> bool {
        self.border != [[0; 2]; 2] || self.activation != Activation::None
    }
    /// Elements from one scratch row to the next.
    fn pitch(&self) -> usize {
        (self.border[1][0] + self.src[1] + self.border[1][1]) * self.src[2]
    }
    /// Scratch rows that `rows` target rows of each phase read.
    fn slab_rows(&self, rows: usize) -> usize {
        self.in_step * (rows - 1) + (self.reach[1] - self.reach[0]) as usize + 1
    }
    fn tasks(&self) -> usize {
        self.g.n * self.slabs
    }
    fn scratch(&self) -> usize {
        let rows = self.count(0, 0).max(1).div_ceil(self.slabs);
        if self.copies() {
            self.slab_rows(rows) * self.pitch()
        } else {
            0
        }
    }
    fn workspace(&self) -> usize {
        if self.is_product() {
            0
        } else {
            parallel::slots(self.tasks()) * self.scratch()
        }
    }
}

/// One image's slab of a pass.
struct Slab<'a> {
    gather: &'a Gather,
    image: usize,
    slab: usize,
    src: *const f32,
    scratch: *mut f32,
    /// Weights of each group.
    weights: Columns,
    /// Elements from one group's weights to the next.
    group_step: usize,
    dst: *mut f32,
    finish: Finish,
}

/// Copies rows `first .. first + rows` (which may lie outside) of a `[height, width * channels]` image into rows of `pitch`, `left`
/// zeros before each.
///
/// # Safety
/// `src` is a whole image, `dst` has `rows * pitch` elements that this thread owns.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn copy_padded(
    src: *const f32,
    size: [usize; 2],
    first: i64,
    step: usize,
    rows: usize,
    dst: *mut f32,
    left: usize,
    pitch: usize,
) {
    let [height, width] = size;
    for r in 0..rows {
        let from = first + (r * step) as i64;
        // SAFETY: row `r` of the target is inside its `rows * pitch` elements, and `left + width <= pitch`; the source row
        // exists where it is read.
        unsafe {
            let row = dst.add(r * pitch);
            if from < 0 || from >= height as i64 {
                std::ptr::write_bytes(row, 0, pitch);
            } else {
                std::ptr::write_bytes(row, 0, left);
                std::ptr::copy_nonoverlapping(src.add(from as usize * width), row.add(left), width);
                std::ptr::write_bytes(row.add(left + width), 0, pitch - left - width);
            }
        }
    }
}

/// `data = activation(data)`, `len` elements.
///
/// # Safety
/// `data` is valid for `len` elements that this thread owns.
#[inline(always)]
unsafe fn activate<S: Simd>(s: S, activation: Activation, data: *mut f32, len: usize) {
    macro_rules! sweep {
        ($f:expr) => {
            for i in (0..len).step_by(S::LANES) {
                // SAFETY: `i < len`, and no more than `len - i` elements are touched.
                unsafe {
                    let v = s.load_upto(data.add(i), len - i);
                    s.store_upto(data.add(i), len - i, $f(s, v));
                }
            }
        };
    }
    match activation {
        Activation::None => {}
        Activation::Swish => sweep!(vmath::swish),
        Activation::LipSwish => sweep!(gemm::lip_swish),
        Activation::Elu => sweep!(vmath::elu),
    }
}

impl Kernel for Slab<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { gather, .. } = self;
        let g = &gather.g;
        let [src_h, src_w, src_c] = gather.src;
        let [dst_h, dst_w, dst_c] = gather.dst;
        let src = self.src.wrapping_add(self.image * src_h * src_w * src_c);
        let longest = parallel::chunk(gather.count(0, 0), gather.slabs, self.slab);
        if longest.is_empty() {
            return;
        }
        // Source row that scratch row 0 holds.
        let top = (gather.in_step * longest.start) as i64 + gather.reach[0];
        let (base, pitch, left) = if gather.copies() {
            let (left, pitch) = (gather.border[1][0] * src_c, gather.pitch());
            let rows = gather.slab_rows(longest.len());
            // SAFETY: the image is whole; `scratch()` elements are this slot's own, and the slab has no more rows than counted there.
            unsafe {
                let size = [src_h, src_w * src_c];
                copy_padded(src, size, top, 1, rows, self.scratch, left, pitch);
                activate(s, gather.activation, self.scratch, rows * pitch);
            }
            (self.scratch.cast_const(), pitch, left)
        } else {
            (
                src.wrapping_offset(top as isize * (src_w * src_c) as isize),
                src_w * src_c,
                0,
            )
        };
        let (cg_src, cg_dst) = (src_c / g.groups, dst_c / g.groups);
        let merge =
            g.groups == 1 && g.dilation == 1 && (g.stride == 1 || gather.pass == Pass::Forward);
        for phase in 0..gather.out_step * gather.out_step {
            let phase = [phase / gather.out_step, phase % gather.out_step];
            let mut segments = [Segment { a: 0, b: 0 }; MAX_TAPS];
            let mut count = 0;
            // Taps in the order of memory: ascending source positions.
            for ty in 0..g.kh {
                for tx in 0..if merge { 1 } else { g.kw } {
                    let (ky, kx) = match gather.pass {
                        Pass::Forward => (ty, tx),
                        Pass::Gradient => (g.kh - 1 - ty, g.kw - 1 - tx),
                    };
                    if let (Some(y), Some(x)) = (
                        gather.offset(0, phase[0], ky),
                        gather.offset(1, phase[1], kx),
                    ) {
                        let a =
                            (y - gather.reach[0]) * pitch as i64 + x * src_c as i64 + left as i64;
                        segments[count] = Segment {
                            a: a as usize,
                            b: (ty * g.kw + tx) * cg_src * self.weights.ks,
                        };
                        count += 1;
                    }
                }
            }
            let rows = parallel::chunk(gather.count(0, 0), gather.slabs, self.slab);
            let rows = rows.start..rows.end.min(gather.count(0, phase[0]));
            for group in 0..g.groups {
                let weights = self.weights.shifted(group * self.group_step);
                let mut n0 = 0;
                while n0 < cg_dst {
                    let n1 = cg_dst.min(n0 + 2 * PANEL);
                    for i in rows.clone() {
                        let pixel = (self.image * dst_h + phase[0] + gather.out_step * i) * dst_w
                            + phase[1];
                        let block = Block {
                            a: base.wrapping_add(
                                (i - longest.start) * gather.in_step * pitch + group * cg_src,
                            ),
                            a_rs: gather.in_step * src_c,
                            a_ks: 1,
                            segments: &segments[..count],
                            seg_len: if merge { g.kw * src_c } else { cg_src },
                            b: weights,
                            n0,
                            n1,
                            rows: gather.count(1, phase[1]),
                            c: self.dst,
                            offset: pixel * dst_c + group * cg_dst,
                            c_rs: gather.out_step * dst_c,
                            finish: self.finish.shift_bias(group * cg_dst),
                        };
                        // SAFETY: segments stay inside the scratch image or, without borders, inside the source (`Gather::new` sized
                        // them); target rows belong to this task alone.
                        unsafe { block.run(s) };
                    }
                    n0 = n1;
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Source(*const f32);
// SAFETY: a read-only view of a slice borrowed for the whole call.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}
impl Source {
    fn get(&self) -> *const f32 {
        self.0
    }
}

fn gather(
    gather: &Gather,
    src: &[f32],
    weights: Columns,
    group_step: usize,
    dst: &mut [f32],
    finish: Finish,
    workspace: &mut [f32],
) {
    if dst.is_empty() {
        return;
    }
    assert!(workspace.len() >= gather.workspace(), "workspace too small");
    let (src, dst, workspace) = (
        Source(src.as_ptr()),
        Shared::new(dst),
        Shared::new(workspace),
    );
    let isa = simd::isa();
    parallel::for_each_slot(gather.tasks(), gather.g.flops(), |slot, task| {
        let slab = Slab {
            gather,
            image: task / gather.slabs,
            slab: task % gather.slabs,
            src: src.get(),
            scratch: workspace.at(slot * gather.scratch()),
            weights,
            group_step,
            dst: dst.at(0),
            finish,
        };
        simd::dispatch(isa, slab);
    });
}

/// Length of the weights packed by [`pack_fprop`].
pub fn fprop_packed_len(g: &ConvGeometry) -> usize {
    g.groups * gemm::packed_len(g.kh * g.kw * g.cin / g.groups, g.cout / g.groups)
}

/// Packs weights for [`fprop`]; worth it where they serve more than one call.
pub fn pack_fprop(g: &ConvGeometry, w: &[f32], dst: &mut [f32]) {
    let (k, n) = (g.kh * g.kw * g.cin / g.groups, g.cout / g.groups);
    let step = gemm::packed_len(k, n);
    for group in 0..g.groups {
        gemm::pack(
            k,
            n,
            &w[group * n..],
            g.cout,
            1,
            &mut dst[group * step..(group + 1) * step],
        );
    }
}

/// Length of the weights packed by [`pack_dgrad`].
pub fn dgrad_packed_len(g: &ConvGeometry) -> usize {
    g.groups * gemm::packed_len(g.kh * g.kw * g.cout / g.groups, g.cin / g.groups)
}

/// Packs weights for [`dgrad`]: taps reversed, input and output channels exchanged.
pub fn pack_dgrad(g: &ConvGeometry, w: &[f32], dst: &mut [f32]) {
    let (cin, cout, taps) = (g.cin / g.groups, g.cout / g.groups, g.kh * g.kw);
    let k = taps * cout;
    let step = gemm::packed_len(k, cin);
    for (group, dst) in dst[..g.groups * step]
        .chunks_exact_mut(step.max(1))
        .enumerate()
    {
        for (p, panel) in dst.chunks_exact_mut(k * PANEL).enumerate() {
            for (kk, row) in panel.chunks_exact_mut(PANEL).enumerate() {
                let (tap, co) = (taps - 1 - kk / cout, group * cout + kk % cout);
                for (j, x) in row.iter_mut().enumerate() {
                    let ci = p * PANEL + j;
                    *x = if ci < cin {
                        w[(tap * cin + ci) * g.cout + co]
                    } else {
                        0.0
                    };
                }
            }
        }
    }
}

/// Weights of [`fprop`].
#[derive(Clone, Copy)]
pub enum ConvWeights<'a> {
    /// As stored: `[kh, kw, cin / groups, cout]`.
    Hwio(&'a [f32]),
    /// Made by [`pack_fprop`].
    Packed(&'a [f32]),
}

/// Scratch elements of [`fprop`].
pub fn fprop_workspace(g: &ConvGeometry) -> usize {
    fprop_act_workspace(g, Activation::None)
}

/// `y = epilogue(conv(x, w))`.
///
/// # Panics
/// If a slice is shorter than the geometry says, or `workspace` than [`fprop_workspace`].
pub fn fprop(
    g: &ConvGeometry,
    x: &[f32],
    w: ConvWeights<'_>,
    y: &mut [f32],
    epilogue: Epilogue<'_>,
    workspace: &mut [f32],
) {
    fprop_act(g, x, Activation::None, w, y, epilogue, workspace);
}

/// Scratch elements of [`fprop_act`].
pub fn fprop_act_workspace(g: &ConvGeometry, pre: Activation) -> usize {
    Gather::new(g, Pass::Forward, pre).workspace()
}

/// `y = epilogue(conv(pre(x), w))`; `pre(x)` exists in the scratch image only.
///
/// # Panics
/// If a slice is shorter than the geometry says, or `workspace` than [`fprop_act_workspace`].
pub fn fprop_act(
    g: &ConvGeometry,
    x: &[f32],
    pre: Activation,
    w: ConvWeights<'_>,
    y: &mut [f32],
    epilogue: Epilogue<'_>,
    workspace: &mut [f32],
) {
    g.check();
    assert!(
        x.len() >= g.x_len() && y.len() >= g.y_len(),
        "x or y too short for {g:?}"
    );
    let (k, n) = (g.kh * g.kw * g.cin / g.groups, g.cout / g.groups);
    let (rhs, group_step) = match w {
        ConvWeights::Hwio(w) => {
            assert!(w.len() >= g.weight_len(), "weights too short for {g:?}");
            (
                Rhs::Rows {
                    data: w,
                    stride: g.cout,
                },
                n,
            )
        }
        ConvWeights::Packed(w) => {
            assert!(
                w.len() >= fprop_packed_len(g),
                "packed weights too short for {g:?}"
            );
            (Rhs::Packed(w), gemm::packed_len(k, n))
        }
    };
    let y = &mut y[..g.y_len()];
    let pass = Gather::new(g, Pass::Forward, pre);
    if pass.is_product() {
        return gemm::gemm(
            g.n * g.h * g.w,
            g.cout,
            g.cin,
            Lhs::rows(x, g.cin),
            rhs,
            y,
            g.cout,
            epilogue,
        );
    }
    let finish = Finish::new(epilogue, g.cout, y.len());
    gather(
        &pass,
        x,
        Columns::new(rhs, k, n),
        group_step,
        y,
        finish,
        workspace,
    );
}

/// Scratch elements of [`dgrad`].
pub fn dgrad_workspace(g: &ConvGeometry) -> usize {
    Gather::new(g, Pass::Gradient, Activation::None).workspace()
}

/// `dx = epilogue(gradient of conv with respect to x, at dy)`; weights from [`pack_dgrad`].
///
/// # Panics
/// If a slice is shorter than the geometry says, or `workspace` than [`dgrad_workspace`].
pub fn dgrad(
    g: &ConvGeometry,
    dy: &[f32],
    packed: &[f32],
    dx: &mut [f32],
    epilogue: Epilogue<'_>,
    workspace: &mut [f32],
) {
    g.check();
    assert!(
        dy.len() >= g.y_len() && dx.len() >= g.x_len(),
        "dy or dx too short for {g:?}"
    );
    assert!(
        packed.len() >= dgrad_packed_len(g),
        "packed weights too short for {g:?}"
    );
    let (k, n) = (g.kh * g.kw * g.cout / g.groups, g.cin / g.groups);
    let dx = &mut dx[..g.x_len()];
    if g.is_product() {
        let rhs = Rhs::Packed(packed);
        return gemm::gemm(
            g.n * g.h * g.w,
            g.cin,
            g.cout,
            Lhs::rows(dy, g.cout),
            rhs,
            dx,
            g.cin,
            epilogue,
        );
    }
    let finish = Finish::new(epilogue, g.cin, dx.len());
    let columns = Columns::new(Rhs::Packed(packed), k, n);
    gather(
        &Gather::new(g, Pass::Gradient, Activation::None),
        dy,
        columns,
        gemm::packed_len(k, n),
        dx,
        finish,
        workspace,
    );
}

#[cfg(test)]
#[path = "conv_tests.rs"]
mod tests;
