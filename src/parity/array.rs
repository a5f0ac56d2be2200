//! Tensors of parity files, and the one place where their layouts change: NCHW there, NHWC here.
//!
//! Parameters go through [`crate::nn::params::ParamSpec`], which knows the official layout of each kind.

use crate::tensor::Shape;

/// Numbers in the layout of the files, row-major, in double precision.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    /// Extents, outermost first; none for a scalar.
    pub shape: Vec<usize>,
    /// The numbers.
    pub data: Vec<f64>,
}

impl Array {
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f64>) -> Self {
        let shape = shape.into();
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Array { shape, data }
    }

    /// A number with no axes.
    pub fn scalar(value: f64) -> Self {
        Array::new([], vec![value])
    }

    /// A vector.
    pub fn vector(data: Vec<f64>) -> Self {
        Array::new([data.len()], data)
    }

    /// With axis `axes[i]` of this tensor as axis `i`.
    pub fn permuted(&self, axes: &[usize]) -> Self {
        let shape: Vec<usize> = axes.iter().map(|a| self.shape[*a]).collect();
        let stride = |axis: &usize| self.shape[axis + 1..].iter().product::<usize>();
        let strides: Vec<usize> = axes.iter().map(stride).collect();
        let source = |element: usize| {
            let (mut rest, mut at) = (element, 0);
            for (extent, stride) in shape.iter().zip(&strides).rev() {
                at += rest % extent * stride;
                rest /= extent;
            }
            self.data[at]
        };
        let data = (0..self.data.len()).map(source).collect();
        Array { shape, data }
    }

    /// The same numbers in another shape.
    pub fn reshaped(self, shape: impl Into<Vec<usize>>) -> Self {
        Array::new(shape, self.data)
    }

    /// Brings images and features into the engine's layout; tensors of other ranks have one layout.
    pub fn to_engine(&self) -> Self {
        match self.shape.len() {
            4 => self.permuted(&[0, 2, 3, 1]),
            _ => self.clone(),
        }
    }

    /// A result of the engine in the layout of the files.
    pub fn from_engine(shape: Shape, data: Vec<f64>) -> Self {
        Array::new(shape.dims(), data).to_files()
    }

    /// The inverse of [`Array::to_engine`].
    pub fn to_files(&self) -> Self {
        match self.shape.len() {
            4 => self.permuted(&[0, 3, 1, 2]),
            _ => self.clone(),
        }
    }

    /// Convolution weights of the files as those of the engine: OIHW to HWIO.
    pub fn to_hwio(&self) -> Self {
        self.permuted(&[2, 3, 1, 0])
    }

    /// The inverse of [`Array::to_hwio`].
    pub fn to_oihw(&self) -> Self {
        self.permuted(&[3, 2, 0, 1])
    }

    /// A matrix transposed: linear weights are `[out, in]` in the files and `[in, out]` here.
    pub fn transposed(&self) -> Self {
        self.permuted(&[1, 0])
    }

    /// Its shape, without a change of layout.
    pub fn shape(&self) -> Shape {
        Shape::new(&self.shape)
    }

    /// The numbers times a factor.
    pub fn scaled(mut self, factor: f64) -> Self {
        self.data.iter_mut().for_each(|v| *v *= factor);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_go_there_and_back() {
        let nchw = Array::new([2, 3, 4, 5], (0..120).map(f64::from).collect());
        let ours = nchw.to_engine();
        assert_eq!(ours.shape, [2, 4, 5, 3]);
        // Element [1, 2, 3, 4] of the files is [1, 3, 4, 2] here.
        assert_eq!(ours.data[(4 + 3) * 15 + 4 * 3 + 2], nchw.data[119]);
        assert_eq!(Array::from_engine(ours.shape(), ours.data), nchw);
    }

    #[test]
    fn what_is_no_image_keeps_its_layout() {
        let matrix = Array::new([2, 2], vec![1.0, 2.0, 3.0, 4.0]);
        assert_eq!(matrix.to_engine(), matrix);
        assert_eq!(
            Array::from_engine(Shape::SCALAR, vec![7.0]),
            Array::scalar(7.0)
        );
    }
}
