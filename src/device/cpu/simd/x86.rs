//! The x86-64 vectors.

use super::super::microkernel::{self, Tile, TileFn};
use super::Simd;
use std::arch::x86_64::*;

/// Sixteen lanes of AVX-512F.
#[derive(Clone, Copy)]
pub struct Avx512(pub(super) ());

/// Eight lanes of AVX2 with FMA.
#[derive(Clone, Copy)]
pub struct Avx2(pub(super) ());

#[inline(always)]
fn mask16(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn mask8(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    // SAFETY: the caller promises AVX2.
    unsafe {
        _mm256_cmpgt_epi32(
            _mm256_set1_epi32(n as i32),
            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
        )
    }
}

/// # Safety
/// The processor has AVX.
#[inline(always)]
unsafe fn sum8(a: __m256) -> f32 {
    // SAFETY: the caller promises AVX.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const FUSED: bool = true;
    const TILE_ROWS: usize = 14;
    const TALL_ROWS: usize = 14;
    const WINDOW: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: a value of this type proves the instruction set; the caller promises the memory.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: a value of this type proves the instruction set; the caller promises the memory.
        unsafe { _mm512_maskz_loadu_ps(mask16(n), p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: a value of this type proves the instruction set; the caller promises the memory.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: __m512) {
        // SAFETY: a value of this type proves the instruction set; the caller promises the memory.
        unsafe { _mm512_mask_storeu_ps(p, mask16(n), v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn recip(self, d: __m512) -> __m512 {
        // Not the approximation of 14 bits with a Newton step: processors of different makers differ in it, and so would results.
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_div_ps(_mm512_set1_ps(1.0), d) }
    }
    #[inline(always)]
    fn select_gt(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    fn scale_by_magic(self, p: __m512, t: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe {
            _mm512_castsi512_ps(_mm512_add_epi32(
                _mm512_castps_si512(p),
                _mm512_slli_epi32::<23>(_mm512_castps_si512(t)),
            ))
        }
    }
    #[inline(always)]
    fn exponent(self, a: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_getexp_ps(a) }
    }
    #[inline(always)]
    fn mantissa(self, a: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_getmant_ps::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(a) }
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe {
            let low = _mm512_castps512_ps256(a);
            let high = _mm512_castps512_ps256(_mm512_shuffle_f32x4::<0b1110>(a, a));
            sum8(_mm256_add_ps(low, high))
        }
    }
    #[inline(always)]
    fn tile(self, rows: usize, vectors: usize, tail: bool) -> TileFn {
        microkernel::avx512(rows, vectors, tail)
    }
}

/// Runs a matrix tile with these vectors; the body behind [`microkernel::avx512`].
///
/// # Safety
/// The processor has the instruction set; for the rest see [`Tile`].
#[target_feature(enable = "avx512f,avx2,fma")]
pub(in super::super) unsafe fn avx512_tile<const MR: usize, const NV: usize, const TAIL: bool>(
    t: &Tile<'_>,
) {
    // SAFETY: the caller's promise is the callee's.
    unsafe { microkernel::tile_body::<Avx512, MR, NV, TAIL>(Avx512(()), t) }
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const FUSED: bool = true;
    const TILE_ROWS: usize = 6;
    const TALL_ROWS: usize = 12;
    const WINDOW: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: a value of this type proves the instruction set; the caller promises the memory.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: a value of this type proves the instruction set; the caller promises the memory.
        unsafe { _mm256_maskload_ps(p, mask8(n)) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: a value of this type proves the instruction set; the caller promises the memory.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: __m256) {
        // SAFETY: a value of this type proves the instruction set; the caller promises the memory.
        unsafe { _mm256_maskstore_ps(p, mask8(n), v) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fnma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    fn recip(self, d: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm256_div_ps(_mm256_set1_ps(1.0), d) }
    }
    #[inline(always)]
    fn select_gt(self, a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn scale_by_magic(self, p: __m256, t: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe {
            _mm256_castsi256_ps(_mm256_add_epi32(
                _mm256_castps_si256(p),
                _mm256_slli_epi32::<23>(_mm256_castps_si256(t)),
            ))
        }
    }
    #[inline(always)]
    fn exponent(self, a: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe {
            _mm256_cvtepi32_ps(_mm256_sub_epi32(
                _mm256_srli_epi32::<23>(_mm256_castps_si256(a)),
                _mm256_set1_epi32(127),
            ))
        }
    }
    #[inline(always)]
    fn mantissa(self, a: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe {
            _mm256_castsi256_ps(_mm256_or_si256(
                _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x007f_ffff)),
                _mm256_set1_epi32(0x3f80_0000),
            ))
        }
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff))) }
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: a value of this type proves the instruction set.
        unsafe { sum8(a) }
    }
    #[inline(always)]
    fn tile(self, rows: usize, vectors: usize, tail: bool) -> TileFn {
        microkernel::avx2(rows, vectors, tail)
    }
}

/// Runs a matrix tile with these vectors; the body behind [`microkernel::avx2`].
///
/// # Safety
/// The processor has the instruction set; for the rest see [`Tile`].
#[target_feature(enable = "avx2,fma")]
pub(in super::super) unsafe fn avx2_tile<const MR: usize, const NV: usize, const TAIL: bool>(
    t: &Tile<'_>,
) {
    // SAFETY: the caller's promise is the callee's.
    unsafe { microkernel::tile_body::<Avx2, MR, NV, TAIL>(Avx2(()), t) }
}
