// y[i] = the number of element first + i of a Philox stream, first = first_sample * row.
//
//   noise_f32_uniform, noise_f32_normal (counter, y, n, row, stream)
//   noise_advance (counter)             the next step of the counter; one thread
//
// Limit: integer arithmetic, ten rounds per four numbers. Geometry: a thread for each four elements of the stream that y meets, so that
// no word is computed twice; first is any element, so the first and last thread may have fewer.

#include "philox.cuh"

template <bool NORMAL>
__device__ inline void draw(const NoiseCounter *counter, float *y, unsigned n, unsigned row, unsigned stream) {
    const unsigned long long first = counter->first_sample * row;
    const unsigned long long group = (first >> 2) + blockIdx.x * blockDim.x + threadIdx.x;
    if (group * 4 >= first + n) return;
    const Words words = philox(counter->seed, stream, counter->step, group);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const unsigned long long element = group * 4 + j;
        if (element >= first && element < first + n)
            y[element - first] = NORMAL ? word_to_normal(words.w[j]) : word_to_uniform(words.w[j]);
    }
}

extern "C" __global__ void noise_f32_uniform(const NoiseCounter *counter, float *y, unsigned n, unsigned row, unsigned stream) {
    draw<false>(counter, y, n, row, stream);
}

extern "C" __global__ void noise_f32_normal(const NoiseCounter *counter, float *y, unsigned n, unsigned row, unsigned stream) {
    draw<true>(counter, y, n, row, stream);
}

extern "C" __global__ void noise_advance(NoiseCounter *counter) {
    counter->step += 1;
}
