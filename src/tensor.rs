//! Shapes of tensors: at most four axes, row-major, activations NHWC, convolution weights HWIO.

use std::fmt;

/// The largest number of axes a tensor has.
pub const MAX_RANK: usize = 4;

/// The extent of each axis, outermost first. A scalar has no axes and one element.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// The shape of a single number.
    pub const SCALAR: Shape = Shape {
        dims: [1; MAX_RANK],
        rank: 0,
    };

    /// A shape from its extents.
    ///
    /// # Panics
    /// If there are more than [`MAX_RANK`] extents.
    pub fn new(extents: &[usize]) -> Self {
        assert!(
            extents.len() <= MAX_RANK,
            "a tensor has at most {MAX_RANK} axes, not {}",
            extents.len()
        );
        let mut dims = [1; MAX_RANK];
        dims[..extents.len()].copy_from_slice(extents);
        Shape {
            dims,
            rank: extents.len(),
        }
    }

    /// The extents, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// Whether there is no element at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The extent of the innermost axis (channels in NHWC); 1 for a scalar.
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The number of rows when the innermost axis is taken as columns.
    pub fn rows(&self) -> usize {
        self.dims()[..self.rank.saturating_sub(1)].iter().product()
    }

    /// The four extents `[n, h, w, c]`, if there are four axes.
    pub fn nhwc(&self) -> Option<[usize; 4]> {
        (self.rank == 4).then_some(self.dims)
    }

    /// The same shape with another extent on the innermost axis.
    pub fn with_last(&self, extent: usize) -> Self {
        let mut dims = self.dims().to_vec();
        match dims.last_mut() {
            Some(last) => *last = extent,
            None => dims.push(extent),
        }
        Shape::new(&dims)
    }
}

impl std::ops::Index<usize> for Shape {
    type Output = usize;
    fn index(&self, axis: usize) -> &usize {
        &self.dims()[axis]
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(extents: [usize; N]) -> Self {
        Shape::new(&extents)
    }
}

impl From<&[usize]> for Shape {
    fn from(extents: &[usize]) -> Self {
        Shape::new(extents)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[")?;
        for (axis, extent) in self.dims().iter().enumerate() {
            write!(f, "{}{extent}", if axis == 0 { "" } else { ", " })?;
        }
        write!(f, "]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_has_one_element_and_one_row() {
        assert_eq!(Shape::SCALAR.len(), 1);
        assert_eq!(Shape::SCALAR.rows(), 1);
        assert_eq!(Shape::SCALAR.to_string(), "[]");
    }

    #[test]
    fn rows_times_last_is_len() {
        for s in [
            Shape::new(&[5]),
            [2, 3].into(),
            [2, 3, 4, 5].into(),
            [3, 0, 2].into(),
        ] {
            assert_eq!(s.rows() * s.last(), s.len());
        }
        assert!(Shape::new(&[3, 0]).is_empty());
    }
}
