//! From the layouts of the parity files (NCHW, OIHW) to the engine's (NHWC, HWIO) and back.

use vaebm::tensor::Shape;

/// A tensor of a parity file, or a result brought into the same layout.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Row-major numbers.
    pub data: Vec<T>,
}

impl<T: Copy> Array<T> {
    /// A result of the engine.
    pub fn new(shape: Shape, data: Vec<T>) -> Self {
        let shape = shape.dims().to_vec();
        Array { shape, data }
    }

    /// The engine's shape of it.
    pub fn shape(&self) -> Shape {
        Shape::new(&self.shape)
    }

    /// With axis `axes[i]` of this tensor as axis `i`.
    pub fn permuted(&self, axes: &[usize]) -> Self {
        assert_eq!(axes.len(), self.shape.len());
        let shape: Vec<usize> = axes.iter().map(|a| self.shape[*a]).collect();
        let stride = |axis: usize| self.shape[axis + 1..].iter().product::<usize>();
        let strides: Vec<usize> = axes.iter().map(|a| stride(*a)).collect();
        let data = (0..self.data.len()).map(|element| {
            let (mut rest, mut at) = (element, 0);
            for (extent, stride) in shape.iter().zip(&strides).rev() {
                at += rest % extent * stride;
                rest /= extent;
            }
            self.data[at]
        });
        Array {
            data: data.collect(),
            shape,
        }
    }

    /// The same numbers in another shape.
    pub fn reshaped(mut self, shape: &[usize]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), self.data.len());
        self.shape = shape.to_vec();
        self
    }

    /// An image of the files as one of the engine: NCHW to NHWC.
    pub fn to_nhwc(&self) -> Self {
        self.permuted(&[0, 2, 3, 1])
    }

    /// And back.
    pub fn to_nchw(&self) -> Self {
        self.permuted(&[0, 3, 1, 2])
    }

    /// Convolution weights of the files as those of the engine: OIHW to HWIO.
    pub fn to_hwio(&self) -> Self {
        self.permuted(&[2, 3, 1, 0])
    }

    /// And back.
    pub fn to_oihw(&self) -> Self {
        self.permuted(&[3, 2, 0, 1])
    }

    /// A matrix transposed: linear weights are `[out, in]` in the files and `[in, out]` here.
    pub fn transposed(&self) -> Self {
        self.permuted(&[1, 0])
    }
}
