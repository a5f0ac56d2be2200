// What the forward kernels of the inverted bottleneck keep of a swish for their gradient: its slope in 8 bits.
#pragma once

#include "mbconv.cuh"

// Slopes of swish, -0.0998 to 1.0998, as 8 bits: (q - SLOPE_ZERO) / SLOPE_STEPS, 0 and 1 exact. What a slope multiplies is rounded to bf16
// afterwards, by up to 1/512 of itself; this rounds by up to 1/424.
#define SLOPE_STEPS 212
#define SLOPE_ZERO 22
// 2^23, whose last bit counts ones: what is added to it is an integer in its low bits.
#define WHOLE 8388608.0f

// swish and its slope at 2h, from what an expansion with halved weights gives: with t = tanh(h) the value v = h t + h, and the slope
// (1 + t + h (1 - t^2)) / 2 = (1 + t (1 - v) + v) / 2.
struct HalfSwish {
    float value, tanh;

    __device__ explicit HalfSwish(float h) : tanh(tanh_fast(h)) { value = fmaf(h, tanh, h); }
    // The slope as 8 bits, the lowest of a word.
    __device__ unsigned slope() const {
        const float twice = fmaf(tanh, 1.0f - value, value);
        return __float_as_uint(fmaf(twice, SLOPE_STEPS / 2, WHOLE + SLOPE_ZERO + SLOPE_STEPS / 2));
    }
};
// The lowest bytes of two words, of four.
__device__ inline unsigned join(unsigned a, unsigned b) { return __byte_perm(a, b, 0x0040); }
__device__ inline unsigned join(unsigned a, unsigned b, unsigned c, unsigned d) { return __byte_perm(join(a, b), join(c, d), 0x5410); }
// SLOPE_STEPS times the slope that byte `i` of a word is.
__device__ inline float slope_at(unsigned word, int i) {
    return __uint_as_float(__byte_perm(word, __float_as_uint(WHOLE), 0x7440 | i)) - (WHOLE + SLOPE_ZERO);
}
