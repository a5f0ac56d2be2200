//! Packed weights: what the passes read, one layout behind the other, made once per parameter version.

use super::cpu;
use crate::program::gpu::EIGHT;
use crate::tensor::Shape;

/// Where the layouts begin, in elements of `f32`. The first is the native gradient's, or on a GPU `[taps, cout, cin]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// `[taps, cin, cout]` in bf16, two numbers in the room of one, rows of a multiple of [`EIGHT`]: what a forward pass reads. As long as
    /// nothing where channels are in groups.
    pub straight: usize,
    /// `[taps, cout, cin]` in the same way: what a gradient of the image reads.
    pub transposed: usize,
    pub len: usize,
}

impl Layout {
    /// Of a convolution's weights.
    pub fn new(w: Shape, groups: usize) -> Self {
        let native = cpu::packed_len(w, groups);
        match groups {
            1 => Layout::behind(native, w),
            _ => Layout {
                straight: native,
                transposed: native,
                len: native,
            },
        }
    }

    /// Of the weights of two images, `split` of whose rows belong to the first.
    pub fn joined(w: Shape, split: usize) -> Self {
        Layout::behind(cpu::joined_packed_len(w, split), w)
    }

    fn behind(native: usize, w: Shape) -> Self {
        let (taps, rows, columns) = (w[0] * w[1], w[2], w[3]);
        let straight = native.next_multiple_of(4);
        let transposed = straight + taps * rows * row_len(columns);
        Layout {
            straight,
            transposed,
            len: transposed + taps * columns * row_len(rows),
        }
    }

    /// Whether there are layouts in bf16.
    pub fn has_bf16(&self) -> bool {
        self.straight < self.len
    }
}

/// Elements of `f32` that a row of so many numbers of bf16 takes.
pub(super) fn row_len(columns: usize) -> usize {
    columns.next_multiple_of(EIGHT) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_begin_on_16_bytes_and_do_not_overlap() {
        for (w, groups) in [
            ([3, 3, 20, 36], 1),
            ([1, 1, 276, 256], 1),
            ([3, 3, 3, 128], 1),
            ([3, 3, 8, 32], 2),
        ] {
            let w = Shape::new(&w);
            let at = Layout::new(w, groups);
            assert!(w.len() <= at.straight && at.straight <= at.transposed);
            assert_eq!(at.has_bf16(), groups == 1, "{w}");
            if groups == 1 {
                assert!(
                    at.straight.is_multiple_of(4) && at.transposed.is_multiple_of(4),
                    "{at:?}"
                );
                assert!(at.transposed - at.straight >= w.len() / 2, "{at:?}");
                assert!(at.len - at.transposed >= w.len() / 2, "{at:?}");
            }
        }
    }
}
