// One Langevin step of every tensor of a chain: eps[i] += c sqrt(s) noise[i] - s / 2 g[i], s the step size, c the noise's factor.
//
//   langevin_update_f32(counter, items, step_size, scale)       noise of the Philox stream of each tensor
//   langevin_update_f32_given(items, step_size, scale)          noise given as tensors
//
// `scale` may be null: c is 1.
//
// Element i of a tensor draws element first_sample * row + i of its stream, row the length of one sample: the numbers of
// noise.cu. The update is the two fused multiply-adds of the CPU's kernel, so a chain has the same bits on both.
//
// Limit: bytes, 12 an element (16 with given noise), with 30 integer and 25 float instructions an element beside them.
// Geometry: a block an item, which is a piece of one tensor; a thread takes the four elements of one word group of the stream at a time.
// Where the stream's groups begin where the tensor's groups of four do (first_sample * row is a multiple of four), accesses are float4.

#include "philox.cuh"

// A piece of a tensor; a row of the table that src/ops/langevin/cuda.rs makes. The piece begins at a multiple of four elements.
struct Item {
    float *eps;
    const float *g;
    // Given noise.
    const float *noise;
    // Where the piece begins in its tensor, and how many elements it has.
    unsigned long long start, count;
    // Elements of a sample, and the tensor's stream.
    unsigned long long row, stream;
};

struct Step {
    float root, half;

    __device__ Step(float step_size, const float *scale) {
        root = __fsqrt_rn(step_size);
        if (scale) root = __fmul_rn(root, *scale);
        half = __fmul_rn(0.5f, step_size);
    }
    __device__ float operator()(float eps, float g, float noise) const {
        return __fmaf_rn(root, noise, __fmaf_rn(-half, g, eps));
    }
    __device__ float4 operator()(float4 eps, float4 g, float4 noise) const {
        return make_float4((*this)(eps.x, g.x, noise.x), (*this)(eps.y, g.y, noise.y), (*this)(eps.z, g.z, noise.z),
                           (*this)(eps.w, g.w, noise.w));
    }
};

extern "C" __global__ void langevin_update_f32(const NoiseCounter *counter, const Item *items, const float *step_size,
                                               const float *scale) {
    const Item item = items[blockIdx.x];
    const Step step(*step_size, scale);
    const unsigned count = item.count;
    const unsigned long long first = counter->first_sample * item.row + item.start;
    // The piece begins `skip` elements into a group of the stream.
    const unsigned skip = first & 3;
    for (unsigned group = threadIdx.x; group * 4 < skip + count; group += blockDim.x) {
        const Words words = philox(counter->seed, item.stream, counter->step, (first >> 2) + group);
        const float4 noise = make_float4(word_to_normal(words.w[0]), word_to_normal(words.w[1]), word_to_normal(words.w[2]),
                                         word_to_normal(words.w[3]));
        if (skip == 0 && group * 4 + 4 <= count) {
            float4 *eps = reinterpret_cast<float4 *>(item.eps) + group;
            *eps = step(*eps, reinterpret_cast<const float4 *>(item.g)[group], noise);
            continue;
        }
        const float lanes[4] = {noise.x, noise.y, noise.z, noise.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            // Before the piece this wraps around to a large number, which is not inside either.
            const unsigned i = group * 4 + j - skip;
            if (i < count) item.eps[i] = step(item.eps[i], item.g[i], lanes[j]);
        }
    }
}

extern "C" __global__ void langevin_update_f32_given(const Item *items, const float *step_size, const float *scale) {
    const Item item = items[blockIdx.x];
    const Step step(*step_size, scale);
    const unsigned count = item.count;
    for (unsigned group = threadIdx.x; group * 4 < count; group += blockDim.x) {
        if (group * 4 + 4 <= count) {
            float4 *eps = reinterpret_cast<float4 *>(item.eps) + group;
            *eps = step(*eps, reinterpret_cast<const float4 *>(item.g)[group], reinterpret_cast<const float4 *>(item.noise)[group]);
            continue;
        }
        for (unsigned i = group * 4; i < count; ++i) item.eps[i] = step(item.eps[i], item.g[i], item.noise[i]);
    }
}
