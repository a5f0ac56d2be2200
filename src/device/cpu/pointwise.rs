//! Functions of whole tensors, element by element: vectors of the processor, chunks in parallel.

use super::gemm::{Activation, lip_swish};
use super::parallel::{self, Shared};
use super::simd::{self, Kernel, Simd};
use super::vmath;

/// Elements of a task.
const CHUNK: usize = 16 * 1024;
/// Cost estimate of one element.
const FLOPS_PER_ELEMENT: u64 = 24;

/// A function of `N` numbers, for vectors of them. Implementations are `#[inline(always)]`, so that they compile for the
/// processor's instruction set.
pub trait Lanes<const N: usize>: Copy + Send + Sync {
    /// The function of each lane.
    fn apply<S: Simd>(self, s: S, x: [S::V; N]) -> S::V;
}

/// `y = f(x[0], x[1], ...)` over slices of one length.
struct Map<'a, F, const N: usize> {
    f: F,
    x: [&'a [f32]; N],
    y: &'a mut [f32],
}

impl<F: Lanes<N>, const N: usize> Kernel for Map<'_, F, N> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.y.len();
        assert!(self.x.iter().all(|x| x.len() == len));
        for i in (0..len).step_by(S::LANES) {
            // SAFETY: `i < len`, the length of every slice, and no more than `len - i` elements are touched.
            unsafe {
                let x = self.x.map(|x| s.load_upto(x.as_ptr().add(i), len - i));
                s.store_upto(self.y.as_mut_ptr().add(i), len - i, self.f.apply(s, x));
            }
        }
    }
}

/// `y[i] = f(x[0][i], x[1][i], ...)`.
///
/// # Panics
/// If the slices differ in length.
pub fn map<const N: usize>(x: [&[f32]; N], y: &mut [f32], f: impl Lanes<N>) {
    let (len, isa) = (y.len(), simd::isa());
    assert!(x.iter().all(|x| x.len() == len), "slices of one length");
    let y = Shared::new(y);
    let flops = len as u64 * FLOPS_PER_ELEMENT;
    parallel::for_each(len.div_ceil(CHUNK), flops, |i| {
        let (start, len) = (i * CHUNK, CHUNK.min(len - i * CHUNK));
        let map = Map {
            f,
            x: x.map(|x| &x[start..start + len]),
            // SAFETY: the chunks of different tasks do not overlap.
            y: unsafe { y.slice(start, len) },
        };
        simd::dispatch(isa, map);
    });
}

impl Lanes<1> for Activation {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x]: [S::V; 1]) -> S::V {
        match self {
            Activation::None => x,
            Activation::Swish => vmath::swish(s, x),
            Activation::LipSwish => lip_swish(s, x),
            Activation::Elu => vmath::elu(s, x),
        }
    }
}
