//! The weight gradient of a convolution.
//!
//! `dw[ky, kx, ci, co] = sum over images and output pixels of x[pixel + tap, ci] dy[pixel, co]` is, for one filter row, a product whose
//! rows are `(kx, ci)`, contiguous in a padded image row, whose columns are `co`, and whose `k` runs over output pixels. The register
//! tile reads both operands in place. Images are cut into at most 8 chunks by geometry; each chunk sums into its own partial, and
//! the partials are added in order: the same bits on any number of threads.

use super::conv::{ConvGeometry, copy_padded};
use super::gemm::{Block, Columns, Finish, PANEL};
use super::microkernel::Segment;
use super::parallel::{self, Shared};
use super::simd::{self, Kernel, Simd};

/// Partials at most.
const MAX_CHUNKS: usize = 8;
/// Elements that all partials together may take.
const PARTIALS_LIMIT: usize = 1 << 22;
/// Rows of output pixels that one pass of tiles runs over.
const MAX_SEGMENTS: usize = 64;

/// How the reduction is cut.
#[derive(Clone, Copy)]
struct Cut {
    /// Bands of output rows an image is cut into.
    bands: usize,
    chunks: usize,
    /// Elements of one band's scratch rows.
    scratch: usize,
    pitch: usize,
    left: usize,
}

impl Cut {
    fn new(g: &ConvGeometry) -> Self {
        let (oh, ow) = (g.oh(), g.ow());
        let bands = MAX_CHUNKS
            .div_ceil(g.n.max(1))
            .max(oh.div_ceil(MAX_SEGMENTS))
            .clamp(1, oh.max(1));
        let chunks = (PARTIALS_LIMIT / g.weight_len().max(1))
            .clamp(1, MAX_CHUNKS)
            .min((g.n * bands).max(1));
        // Columns the taps read: from -lo to the last tap of the last output.
        let left = g.pad[1][0].max(0) as usize;
        let last = (g.stride * ow.saturating_sub(1) + g.dilation * (g.kw - 1)) as i64
            - i64::from(g.pad[1][0]);
        let right = (last - (g.w as i64 - 1)).max(0) as usize;
        let pitch = (left + g.w + right) * g.cin;
        let scratch = if g.pad.iter().flatten().all(|&p| p <= 0) {
            0
        } else {
            oh.div_ceil(bands) * pitch
        };
        Self {
            bands,
            chunks,
            scratch,
            pitch,
            left: left * g.cin,
        }
    }
    fn tasks(&self, g: &ConvGeometry) -> usize {
        self.chunks * g.kh
    }
    fn partials(&self, g: &ConvGeometry) -> usize {
        self.chunks * g.weight_len()
    }
}

/// Scratch elements of [`wgrad`].
pub fn wgrad_workspace(g: &ConvGeometry) -> usize {
    let cut = Cut::new(g);
    cut.partials(g) + parallel::slots(cut.tasks(g)) * cut.scratch
}

/// One filter row of one chunk.
struct FilterRow<'a> {
    g: &'a ConvGeometry,
    cut: Cut,
    chunk: usize,
    ky: usize,
    x: *const f32,
    dy: *const f32,
    scratch: *mut f32,
    /// The chunk's partial.
    dw: *mut f32,
}

impl Kernel for FilterRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { g, cut, ky, .. } = self;
        let (oh, ow) = (g.oh(), g.ow());
        let (ci, co) = (g.cin / g.groups, g.cout / g.groups);
        let merge = g.groups == 1 && g.dilation == 1;
        let mut first = true;
        for unit in parallel::chunk(g.n * cut.bands, cut.chunks, self.chunk) {
            let image = unit / cut.bands;
            let band = parallel::chunk(oh, cut.bands, unit % cut.bands);
            let x = self.x.wrapping_add(image * g.h * g.w * g.cin);
            // Input row of the band's first output row at this filter row.
            let top = (g.stride * band.start + g.dilation * ky) as i64 - i64::from(g.pad[0][0]);
            let (base, row_step) = if cut.scratch > 0 {
                // SAFETY: the image is whole and the scratch rows are this slot's own.
                unsafe {
                    copy_padded(
                        x,
                        [g.h, g.w * g.cin],
                        top,
                        g.stride,
                        band.len(),
                        self.scratch,
                        cut.left,
                        cut.pitch,
                    )
                };
                (self.scratch.cast_const(), cut.pitch)
            } else {
                (
                    x.wrapping_offset(top as isize * (g.w * g.cin) as isize),
                    g.stride * g.w * g.cin,
                )
            };
            let column = cut.left as i64 - i64::from(g.pad[1][0]) * g.cin as i64;
            let base = base.wrapping_offset(column as isize);
            let dy = self
                .dy
                .wrapping_add((image * oh + band.start) * ow * g.cout);
            let mut segments = [Segment { a: 0, b: 0 }; MAX_SEGMENTS];
            for (i, seg) in segments.iter_mut().enumerate().take(band.len()) {
                *seg = Segment {
                    a: i * row_step,
                    b: i * ow * g.cout,
                };
            }
            for group in 0..g.groups {
                let mut n0 = 0;
                while n0 < co {
                    let n1 = co.min(n0 + 2 * PANEL);
                    for kx in 0..if merge { 1 } else { g.kw } {
                        let block = Block {
                            a: base.wrapping_add(kx * g.dilation * g.cin + group * ci),
                            a_rs: 1,
                            a_ks: g.stride * g.cin,
                            segments: &segments[..band.len()],
                            seg_len: ow,
                            b: Columns::raw(dy.wrapping_add(group * co), g.cout),
                            n0,
                            n1,
                            rows: if merge { g.kw * ci } else { ci },
                            c: self.dw,
                            offset: (ky * g.kw + kx) * ci * g.cout + group * co,
                            c_rs: g.cout,
                            finish: if first { Finish::STORE } else { Finish::ADD },
                        };
                        // SAFETY: operands lie inside the padded rows (or the image, where nothing is padded) and `dy`; this task alone
                        // writes this filter row of this partial.
                        unsafe { block.run(s) };
                    }
                    n0 = n1;
                }
            }
            first = false;
        }
        if first {
            // SAFETY: this filter row of this partial, as above.
            unsafe {
                std::ptr::write_bytes(self.dw.add(ky * g.kw * ci * g.cout), 0, g.kw * ci * g.cout)
            };
        }
    }
}

/// `dw (+)= gradient of conv with respect to its weights`, `[kh, kw, cin / groups, cout]`.
///
/// # Panics
/// If a slice is shorter than the geometry says, or `workspace` than [`wgrad_workspace`].
pub fn wgrad(
    g: &ConvGeometry,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    g.check();
    assert!(
        x.len() >= g.x_len() && dy.len() >= g.y_len() && dw.len() >= g.weight_len(),
        "x, dy or dw too short for {g:?}"
    );
    assert!(workspace.len() >= wgrad_workspace(g), "workspace too small");
    let cut = Cut::new(g);
    let len = g.weight_len();
    let (partials, scratch) = workspace.split_at_mut(cut.partials(g));
    struct Sources(*const f32, *const f32);
    // SAFETY: read-only views of slices borrowed for the whole call.
    unsafe impl Sync for Sources {}
    // SAFETY: as above.
    unsafe impl Send for Sources {}
    let (sources, isa) = (Sources(x.as_ptr(), dy.as_ptr()), simd::isa());
    {
        let (partials, scratch) = (Shared::new(partials), Shared::new(scratch));
        parallel::for_each_slot(cut.tasks(g), g.flops(), |slot, task| {
            let sources = &sources;
            let (chunk, ky) = (task / g.kh, task % g.kh);
            let row = FilterRow {
                g,
                cut,
                chunk,
                ky,
                x: sources.0,
                dy: sources.1,
                scratch: scratch.at(slot * cut.scratch),
                dw: partials.at(chunk * len),
            };
            simd::dispatch(isa, row);
        });
    }
    sum_partials(&partials[..cut.chunks * len], &mut dw[..len], accumulate);
}

/// `out (+)= partials[0] + partials[1] + ...`, in this order.
pub(super) fn sum_partials(partials: &[f32], out: &mut [f32], accumulate: bool) {
    let len = out.len();
    if len == 0 {
        return;
    }
    for (i, partial) in partials.chunks_exact(len).enumerate() {
        if i == 0 && !accumulate {
            out.copy_from_slice(partial);
        } else {
            out.iter_mut().zip(partial).for_each(|(o, p)| *o += p);
        }
    }
}
