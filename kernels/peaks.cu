// What the GPU reaches on loops that do nothing else; src/device/cuda/peaks.rs measures with them. No op launches them.
//
//   peaks_copy_f32 (x, y, n)      y[i] = x[i] for n numbers in fours, any number of blocks; limit: device memory
//   peaks_f32      (y, rounds)    CHAINS multiply-adds per round and thread
//   peaks_tf32     (y, rounds)    CHAINS products m16n8k8 per round and warp
//   peaks_bf16     (y, rounds)    CHAINS products m16n8k16 per round and warp
//
// The chains of a thread are independent, enough of them to hide the latency of the unit; y takes the sums, so that nothing is left out.

#include "mma.cuh"
#include "vector.cuh"

// CHAINS and THREADS in src/device/cuda/peaks.rs.
constexpr int CHAINS = 8;
constexpr int THREADS = 256;
// Reads under way per thread.
constexpr int AHEAD = 4;

extern "C" __global__ void __launch_bounds__(THREADS) peaks_copy_f32(const float *__restrict__ x, float *__restrict__ y, unsigned n) {
    const unsigned threads = gridDim.x * THREADS, first = blockIdx.x * THREADS + threadIdx.x;
    for (unsigned i = first; i < n / 4; i += AHEAD * threads) {
        Pack<4> read[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; ++j)
            if (i + j * threads < n / 4) read[j] = load<4>(x, i + j * threads);
#pragma unroll
        for (int j = 0; j < AHEAD; ++j)
            if (i + j * threads < n / 4) store<4>(y, i + j * threads, read[j]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) peaks_f32(float *y, unsigned rounds) {
    // Factors below one, which the compiler does not know: sums stay finite however long it runs.
    const float a = 0.5f + threadIdx.x * 1e-4f, b = 1e-3f * threadIdx.x;
    float sums[CHAINS];
#pragma unroll
    for (int j = 0; j < CHAINS; ++j) sums[j] = j;
#pragma unroll 4
    for (unsigned i = 0; i < rounds; ++i)
#pragma unroll
        for (int j = 0; j < CHAINS; ++j) sums[j] = __fmaf_rn(sums[j], a, b);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < CHAINS; ++j) sum += sums[j];
    y[blockIdx.x * THREADS + threadIdx.x] = sum;
}

// Numbers of magnitude one to two with random signs and bits, so that a limit of power shows as it does on real ones.
template <bool BF16>
__device__ inline unsigned factor(unsigned salt) {
    unsigned bits = (blockIdx.x * THREADS + threadIdx.x + 1) * 2654435761u ^ salt * 0x9e3779b9u;
    bits ^= bits >> 15;
    bits *= 0x2c1b3c6du;
    bits ^= bits >> 12;
    return BF16 ? 0x3f803f80u | (bits & 0x807f807fu) : 0x3f800000u | (bits & 0x807fe000u);
}

template <bool BF16>
__device__ inline void products(float *y, unsigned rounds) {
    float sums[CHAINS][4];
#pragma unroll
    for (int j = 0; j < CHAINS; ++j)
#pragma unroll
        for (int r = 0; r < 4; ++r) sums[j][r] = threadIdx.x + j;
    const unsigned a[4] = {factor<BF16>(1), factor<BF16>(2), factor<BF16>(3), factor<BF16>(4)};
    const unsigned b[2] = {factor<BF16>(5), factor<BF16>(6)};
    for (unsigned i = 0; i < rounds; ++i)
#pragma unroll
        for (int j = 0; j < CHAINS; ++j) {
            if (BF16)
                mma_bf16(sums[j], a, b[0], b[1]);
            else
                mma_tf32(sums[j], a, b[0], b[1]);
        }
    float sum = 0;
#pragma unroll
    for (int j = 0; j < CHAINS; ++j)
#pragma unroll
        for (int r = 0; r < 4; ++r) sum += sums[j][r];
    y[blockIdx.x * THREADS + threadIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) peaks_tf32(float *y, unsigned rounds) { products<false>(y, rounds); }
extern "C" __global__ void __launch_bounds__(THREADS) peaks_bf16(float *y, unsigned rounds) { products<true>(y, rounds); }
