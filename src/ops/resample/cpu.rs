//! Native kernels: adapters to [`crate::device::cpu::resample`].

use super::{Kind, Resample, Transpose};
use crate::device::cpu::resample;
use crate::program::Io;
use crate::tensor::Shape;

fn extents(shape: Shape) -> [usize; 4] {
    shape.nhwc().expect("an image by the shape rule")
}

pub(super) fn forward(op: &Resample, io: &mut Io<'_, f32>) {
    let (x, image) = (io.input(0), extents(io.input_shape(0)));
    let enlarged = extents(io.output_shape(0));
    match op.0 {
        Kind::AvgPool => resample::gather2(x, image, 0.25, io.out()),
        Kind::Nearest => resample::spread2(x, 1.0, io.out(), enlarged),
        Kind::Bilinear => resample::bilinear2(x, image, io.out()),
    }
}

pub(super) fn transpose(op: &Transpose, io: &mut Io<'_, f32>) {
    let (dy, enlarged) = (io.input(0), extents(io.input_shape(0)));
    let image = extents(op.image);
    match op.kind {
        Kind::AvgPool => resample::spread2(dy, 0.25, io.out(), image),
        Kind::Nearest => resample::gather2(dy, enlarged, 1.0, io.out()),
        Kind::Bilinear => resample::bilinear2_dgrad(dy, io.out(), image),
    }
}
