//! The extents of a convolution as kernels take them.

use bytemuck::{Pod, Zeroable};

use crate::ops::conv2d::Geometry;
use crate::program::gpu::Precision;
use crate::program::variants::Site;
use crate::tensor::Shape;

/// The extents of a convolution as kernels take them: `Conv` in `kernels/conv2d_ends.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Conv {
    pub(super) n: i32,
    pub(super) h: i32,
    pub(super) w: i32,
    pub(super) cin: i32,
    pub(super) oh: i32,
    pub(super) ow: i32,
    pub(super) cout: i32,
    pub(super) kh: i32,
    pub(super) kw: i32,
    pub(super) stride: i32,
    pub(super) dilation: i32,
    pub(super) pad_top: i32,
    pub(super) pad_left: i32,
    pub(super) groups: i32,
}

/// An extent. Tensors have fewer than 2^31 elements, and so has each of their extents.
pub(super) fn int(extent: usize) -> i32 {
    i32::try_from(extent).expect("extents fit 31 bits")
}

impl Conv {
    pub(in crate::ops) fn new(g: Geometry, x: Shape, w: Shape, y: Shape) -> Self {
        Conv {
            n: int(x[0]),
            h: int(x[1]),
            w: int(x[2]),
            cin: int(x[3]),
            oh: int(y[1]),
            ow: int(y[2]),
            cout: int(y[3]),
            kh: int(w[0]),
            kw: int(w[1]),
            stride: int(g.stride),
            dilation: int(g.dilation),
            pad_top: g.pad[0][0],
            pad_left: g.pad[1][0],
            groups: int(g.groups),
        }
    }

    /// `y = x w` of matrices `[rows, inputs]` and `[inputs, outputs]`: a 1x1 convolution of images of one pixel.
    pub(crate) fn matrix(rows: usize, inputs: usize, outputs: usize) -> Self {
        Conv {
            n: int(rows),
            cin: int(inputs),
            cout: int(outputs),
            h: 1,
            w: 1,
            oh: 1,
            ow: 1,
            kh: 1,
            kw: 1,
            stride: 1,
            dilation: 1,
            pad_top: 0,
            pad_left: 0,
            groups: 1,
        }
    }

    pub(super) fn channels(&self) -> [usize; 2] {
        [self.cin as usize, self.cout as usize]
    }

    pub(super) fn taps(&self) -> usize {
        self.kh as usize * self.kw as usize
    }

    pub(super) fn x_pixels(&self) -> usize {
        self.n as usize * self.h as usize * self.w as usize
    }

    pub(super) fn y_pixels(&self) -> usize {
        self.n as usize * self.oh as usize * self.ow as usize
    }

    /// Pixels of `x` in the first and largest phase of a gradient; see conv2d.cuh.
    pub(super) fn phase_rows(&self) -> usize {
        let [h, w] = [self.h, self.w].map(|e| (e as usize).div_ceil(self.stride as usize));
        self.n as usize * h * w
    }

    /// Pixels of `y` that products are made for, those that pooling drops left out.
    pub(super) fn rows(&self, pooled: bool) -> usize {
        let extent = |e: i32| {
            if pooled {
                e as usize / 2 * 2
            } else {
                e as usize
            }
        };
        self.n as usize * extent(self.oh) * extent(self.ow)
    }

    /// Whether the rows of all tensors begin on 16 bytes.
    pub(super) fn aligned(&self) -> bool {
        self.cin % 4 == 0 && self.cout % 4 == 0
    }

    /// What a window is longer than one pixel, along each axis.
    pub(super) fn span(&self) -> [i32; 2] {
        [self.kh, self.kw].map(|taps| (taps - 1) * self.dilation)
    }

    /// The same products with all pixels in one line, if each reads its own alone.
    pub(super) fn in_line(self) -> Self {
        let same = (self.h, self.w) == (self.oh, self.ow);
        let padded = self.pad_top != 0 || self.pad_left != 0;
        if self.taps() != 1 || self.stride != 1 || !same || padded {
            return self;
        }
        let pixels = int(self.x_pixels());
        Conv {
            n: 1,
            h: 1,
            w: pixels,
            oh: 1,
            ow: pixels,
            ..self
        }
    }

    /// Rows and columns of `dw` as a matrix.
    pub(super) fn weights(&self) -> [usize; 2] {
        [
            self.taps() * (self.cin / self.groups) as usize,
            self.cout as usize,
        ]
    }

    /// Where a pass has a choice of kernels; `with` is what it does besides.
    pub(super) fn site(&self, op: &'static str, with: &[usize], precision: Precision) -> Site {
        let extents: &[i32; 14] = bytemuck::cast_ref(self);
        // Padding can be negative; as a key its bits do as well.
        let shape = [&extents.map(|e| e as u32 as usize), with].concat();
        Site::new(op, shape, precision)
    }

    /// Whether the products must be made one by one: groups, nothing to multiply, or more phases than a grid has layers.
    pub(super) fn direct(&self) -> bool {
        self.groups > 1 || self.cin == 0 || self.cout == 0 || self.stride > 255
    }
}
