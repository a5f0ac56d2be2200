//! Activations of whole tensors.

use super::gemm::{Activation, lip_swish};
use super::parallel::{self, Shared};
use super::simd::{self, Kernel, Simd};
use super::vmath;

/// Elements of a task.
const CHUNK: usize = 16 * 1024;
/// Cost estimate of one element.
const FLOPS_PER_ELEMENT: u64 = 24;

/// `y = activation(x)` over slices of one length.
pub(super) struct Activate<'a> {
    pub activation: Activation,
    pub x: &'a [f32],
    pub y: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.y.len();
        assert_eq!(self.x.len(), len);
        let (x, y) = (self.x.as_ptr(), self.y.as_mut_ptr());
        macro_rules! sweep {
            ($f:expr) => {
                for i in (0..len).step_by(S::LANES) {
                    // SAFETY: `i < len`, the length of both slices, and no more than `len - i` elements are touched.
                    unsafe {
                        let v = s.load_upto(x.add(i), len - i);
                        s.store_upto(y.add(i), len - i, $f(s, v));
                    }
                }
            };
        }
        match self.activation {
            Activation::None => self.y.copy_from_slice(self.x),
            Activation::Swish => sweep!(vmath::swish),
            Activation::LipSwish => sweep!(lip_swish),
            Activation::Elu => sweep!(vmath::elu),
        }
    }
}

/// `y = activation(x)`.
///
/// # Panics
/// If the slices differ in length.
pub fn activate(activation: Activation, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    let (len, isa) = (x.len(), simd::isa());
    let y = Shared::new(y);
    parallel::for_each(len.div_ceil(CHUNK), len as u64 * FLOPS_PER_ELEMENT, |i| {
        let (start, len) = (i * CHUNK, CHUNK.min(len - i * CHUNK));
        // SAFETY: the chunks of different tasks do not overlap.
        let y = unsafe { y.slice(start, len) };
        let x = &x[start..start + len];
        simd::dispatch(isa, Activate { activation, x, y });
    });
}
