//! How a small tensor lies in the one it is broadcast to: as runs, within which it either goes along or stands still.

use super::strides;
use crate::tensor::{MAX_RANK, Shape};

/// The row-major elements of the big tensor as rows of `len`, each beside a place of the small one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runs {
    /// Elements of a row.
    pub len: usize,
    /// Whether the small tensor goes along within a row; else one of its elements serves the whole row.
    pub along: bool,
    /// Extents of the axes outside a row, and the small tensor's strides on them.
    outer: [(usize, usize); MAX_RANK],
    axes: usize,
}

/// A part of a row: elements `start .. start + len` of the big tensor, beside the small one from `small` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub start: usize,
    pub len: usize,
    pub small: usize,
}

impl Runs {
    /// The longest runs there are.
    pub fn new(big: Shape, small: Shape) -> Self {
        let strides = strides(small, big);
        let (mut len, mut along, mut axis) = (1, None, big.rank());
        while axis > 0 {
            let (extent, stride) = (big[axis - 1], strides[axis - 1]);
            if extent != 1 {
                let goes = stride != 0;
                if *along.get_or_insert(goes) != goes || (goes && stride != len) {
                    break;
                }
                len *= extent;
            }
            axis -= 1;
        }
        let mut outer = [(1, 0); MAX_RANK];
        for (i, place) in outer[..axis].iter_mut().enumerate() {
            *place = (big[i], strides[i]);
        }
        Runs {
            len,
            along: along.unwrap_or(true),
            outer,
            axes: axis,
        }
    }

    /// Calls `visit` for the rows' parts of which the elements `range` of the big tensor consist, in order.
    #[inline(always)]
    pub fn parts(&self, range: std::ops::Range<usize>, mut visit: impl FnMut(Part)) {
        if range.is_empty() {
            return;
        }
        let outer = &self.outer[..self.axes];
        let (mut index, mut row) = ([0; MAX_RANK], range.start / self.len);
        for (axis, (extent, _)) in outer.iter().enumerate().rev() {
            index[axis] = row % extent;
            row /= extent;
        }
        let place = |(i, (_, stride)): (&usize, &(usize, usize))| i * stride;
        let mut small: usize = index.iter().zip(outer).map(place).sum();
        let (mut start, mut column) = (range.start, range.start % self.len);
        loop {
            let len = (self.len - column).min(range.end - start);
            visit(Part {
                start,
                len,
                small: small + if self.along { column } else { 0 },
            });
            start += len;
            column = 0;
            if start == range.end {
                return;
            }
            for (axis, (extent, stride)) in outer.iter().enumerate().rev() {
                index[axis] += 1;
                small += stride;
                if index[axis] < *extent {
                    break;
                }
                small -= index[axis] * stride;
                index[axis] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::for_each_pair;
    use super::*;

    #[test]
    fn parts_pair_elements_as_the_definition_does() {
        let big = Shape::new(&[2, 3, 1, 4]);
        for small in [
            Shape::new(&[2, 3, 1, 4]),
            Shape::new(&[4]),
            Shape::new(&[1, 4]),
            Shape::new(&[2, 1, 1, 4]),
            Shape::new(&[2, 1, 1, 1]),
            Shape::new(&[3, 1, 1]),
            Shape::new(&[2, 3, 1, 1]),
            Shape::new(&[1]),
            Shape::SCALAR,
        ] {
            let mut want = Vec::new();
            for_each_pair(big, small, |i, j| want.push((i, j)));
            let runs = Runs::new(big, small);
            for cut in 0..=big.len() {
                let mut got = Vec::new();
                for range in [0..cut, cut..big.len()] {
                    runs.parts(range, |part| {
                        for k in 0..part.len {
                            let step = if runs.along { k } else { 0 };
                            got.push((part.start + k, part.small + step));
                        }
                    });
                }
                assert_eq!(got, want, "{small}");
            }
        }
    }

    #[test]
    fn runs_are_as_long_as_they_can_be() {
        let of = |small: &[usize]| {
            let runs = Runs::new([2, 3, 5, 7].into(), small.into());
            (runs.len, runs.along)
        };
        assert_eq!(of(&[2, 3, 5, 7]), (210, true));
        assert_eq!(of(&[3, 5, 7]), (105, true));
        assert_eq!(of(&[7]), (7, true));
        assert_eq!(of(&[2, 1, 1, 7]), (7, true));
        assert_eq!(of(&[2, 1, 1, 1]), (105, false));
        assert_eq!(of(&[]), (210, false));
    }
}
