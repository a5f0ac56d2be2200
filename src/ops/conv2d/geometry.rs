//! How a convolution's window moves: shared by [`crate::ops::conv2d`] and [`crate::ops::dwconv`].

use crate::ensure_shape;
use crate::ops::ShapeError;

/// Stride, dilation, zero padding and groups of a 2-D convolution (cross-correlation).
///
/// Output `o` of an axis reads inputs `o * stride - pad[axis][0] + tap * dilation`; what lies outside is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Distance of neighbouring windows.
    pub stride: usize,
    /// Distance of neighbouring taps.
    pub dilation: usize,
    /// `[[top, bottom], [left, right]]`; a negative number leaves rows or columns out.
    pub pad: [[i32; 2]; 2],
    /// Groups of channels that do not mix.
    pub groups: usize,
}

impl Geometry {
    /// Stride 1 and as much padding as keeps the image size, for an odd kernel extent.
    pub const fn same(kernel: usize) -> Self {
        let pad = (kernel / 2) as i32;
        Geometry {
            stride: 1,
            dilation: 1,
            pad: [[pad; 2]; 2],
            groups: 1,
        }
    }

    /// A 1x1 convolution of stride 2 that reads `x[dy + 2i, dx + 2j]`, for even image sizes.
    pub const fn shifted(dy: usize, dx: usize) -> Self {
        Geometry {
            stride: 2,
            dilation: 1,
            pad: [[-(dy as i32), 0], [-(dx as i32), 0]],
            groups: 1,
        }
    }

    /// With another stride.
    pub const fn strided(mut self, stride: usize) -> Self {
        self.stride = stride;
        self
    }

    /// With another dilation; the padding grows with it, so that [`Geometry::same`] stays so.
    pub const fn dilated(mut self, dilation: usize) -> Self {
        let grow = dilation as i32;
        let [[top, bottom], [left, right]] = self.pad;
        self.pad = [[top * grow, bottom * grow], [left * grow, right * grow]];
        self.dilation = dilation;
        self
    }

    /// With channels in groups.
    pub const fn grouped(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// The extent of the output along `axis` (0 rows, 1 columns), or why there is none.
    pub fn output(&self, axis: usize, input: usize, kernel: usize) -> Result<usize, ShapeError> {
        ensure_shape!(
            self.stride > 0 && self.dilation > 0 && kernel > 0,
            "stride {}, dilation {} and kernel extent {kernel} must be positive",
            self.stride,
            self.dilation
        );
        let [before, after] = self.pad[axis].map(i64::from);
        let span = (self.dilation * (kernel - 1) + 1) as i64;
        let room = input as i64 + before + after - span;
        ensure_shape!(
            room >= 0,
            "a window of {span} does not fit into {input} numbers padded by {before} and {after}"
        );
        Ok(room as usize / self.stride + 1)
    }

    /// The input position that `tap` of output `o` reads, if it lies inside.
    pub fn source(&self, axis: usize, o: usize, tap: usize, input: usize) -> Option<usize> {
        let at = (o * self.stride + tap * self.dilation) as i64 - i64::from(self.pad[axis][0]);
        (0..input as i64).contains(&at).then_some(at as usize)
    }

    /// Calls `visit(pixel of x, tap of w, pixel of y)` for every product of a convolution, in the order of `y`.
    ///
    /// `x` is `[n, h, w]`, the kernel `[kh, kw]`, `y` `[n, oh, ow]`; each as a flat index.
    pub(crate) fn for_each_tap(
        &self,
        x: [usize; 3],
        kernel: [usize; 2],
        y: [usize; 3],
        mut visit: impl FnMut(usize, usize, usize),
    ) {
        for n in 0..y[0] {
            for (oy, ox) in (0..y[1]).flat_map(|oy| (0..y[2]).map(move |ox| (oy, ox))) {
                let to = (n * y[1] + oy) * y[2] + ox;
                for ky in 0..kernel[0] {
                    let Some(iy) = self.source(0, oy, ky, x[1]) else {
                        continue;
                    };
                    for kx in 0..kernel[1] {
                        if let Some(ix) = self.source(1, ox, kx, x[2]) {
                            visit((n * x[1] + iy) * x[2] + ix, ky * kernel[1] + kx, to);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_keeps_the_extent_and_stride_two_halves_it_upwards() {
        for (kernel, dilation) in [(1, 1), (3, 1), (5, 1), (11, 1), (3, 2)] {
            let g = Geometry::same(kernel).dilated(dilation);
            for extent in [1, 2, 7, 32] {
                assert_eq!(g.output(0, extent, kernel), Ok(extent));
                let halved = g.strided(2).output(1, extent, kernel);
                assert_eq!(halved, Ok(extent.div_ceil(2)));
            }
        }
    }

    #[test]
    fn shifted_reads_every_second_pixel_from_its_corner() {
        for (dy, dx) in [(0, 0), (1, 1), (0, 1), (1, 0)] {
            let g = Geometry::shifted(dy, dx);
            assert_eq!((g.output(0, 8, 1), g.output(1, 6, 1)), (Ok(4), Ok(3)));
            assert_eq!(g.source(0, 3, 0, 8), Some(6 + dy));
            assert_eq!(g.source(1, 2, 0, 6), Some(4 + dx));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let bare = Geometry {
            pad: [[0; 2]; 2],
            ..Geometry::same(3)
        };
        assert!(bare.output(0, 2, 3).is_err());
        assert_eq!(bare.output(0, 3, 3), Ok(1));
    }
}
