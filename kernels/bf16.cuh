// bf16 as its 16 bits, the upper half of an f32: NVRTC has no cuda_bf16.h inside.
#pragma once

typedef unsigned short bf16;

// Two numbers to the nearest bf16, ties to even; the first goes to the low half.
__device__ inline unsigned round_bf16(float low, float high) {
    unsigned y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// The numbers in the low and in the high half; exact.
__device__ inline float low_bf16(unsigned two) { return __uint_as_float(two << 16); }
__device__ inline float high_bf16(unsigned two) { return __uint_as_float(two & 0xffff0000u); }
