//! The input gradient of the inverted residual.

use super::super::dwconv::window::{PLANE, Sink};
use super::super::gemm::{Block, Columns, Finish};
use super::super::microkernel::Segment;
use super::super::parallel;
use super::super::simd::{Kernel, Simd};
use super::super::vmath;
use super::weights::Layout;
use super::{Band, Padded, RADIUS, Scratch, slices};

/// Multiplies the projected gradient by the derivative of the second swish and writes it into a padded image.
struct Derive {
    /// `[pixels, width]`.
    projected: *const f32,
    padded: Padded,
    first: usize,
    ow: usize,
    width: usize,
}

impl<S: Simd> Sink<S> for Derive {
    /// # Safety
    /// The task owns the padded image, which holds the row.
    #[inline(always)]
    unsafe fn put(&self, s: S, y: usize, x: usize, c: usize, v: S::V) {
        let (_, slope) = vmath::swish_and_grad(s, v);
        let at = c / PLANE * self.padded.plane() + c % PLANE + x * PLANE;
        // SAFETY: the caller's promise.
        unsafe {
            let d = s.load(self.projected.add((y * self.ow + x) * self.width + c));
            s.store(self.padded.row(self.first + y).add(at), s.mul(slope, d));
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

/// The gradient of one band.
pub(super) struct Backward<'a>(pub(super) Band<'a>);

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let task = self.0;
        let g = task.op.g;
        let layout = Layout::new(g);
        let (scale, r, hidden) = (g.scale(), RADIUS, g.padded());
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
        let projected = task.scratch.wrapping_add(scratch.projected);
        let collected = task.scratch.wrapping_add(scratch.hidden);
        // SAFETY: all scratch is this task's own and sized by `Scratch`; slices are whole vectors; rows `out0 .. out1` are held by
        // both padded images.
        unsafe {
            expanded.clear();
            gradient.clear();
            for slice in slices(g) {
                let width = slice.width;
                task.expand::<S, true>(s, slice, expanded, slope, rows.clone());
                // Gradient with respect to the second activation.
                let transposed = task
                    .op
                    .packed
                    .add(layout.project_transposed + slice.start * g.cout);
                let block = Block {
                    a: task
                        .op
                        .dy
                        .add((task.image * g.oh() + out0) * g.ow() * g.cout),
                    a_rs: g.cout,
                    a_ks: 1,
                    segments: &[Segment { a: 0, b: 0 }],
                    seg_len: g.cout,
                    b: Columns::panels(transposed, g.cout),
                    n0: 0,
                    n1: width,
                    rows: (out1 - out0) * g.ow(),
                    c: projected,
                    offset: 0,
                    c_rs: width,
                    finish: Finish::STORE,
                };
                block.run(s);
                let derive = Derive {
                    projected,
                    padded: gradient,
                    first: out0,
                    ow: g.ow(),
                    width,
                };
                task.depthwise(s, slice, expanded, out1 - out0, false, &derive);
                let dst = collected.add(slice.start);
                let collect = Collect {
                    dst,
                    slope,
                    scale,
                    w: g.w,
                    hidden,
                    width,
                };
                task.depthwise(s, slice, gradient, count, true, &collect);
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
