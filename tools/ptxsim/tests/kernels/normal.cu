// out[i] ~ N(0, 1): Philox4x32-10 and Box-Muller, four normals per counter. Limit: arithmetic.
// key = seed; counter = (group, 0, stream, 0). The noise of an element does not depend on the geometry.
//
//   philox_u32    out[i] = the raw 32-bit words
//   normal_f32    Box-Muller with the precise logf, sqrtf and sincosf (the slow argument reduction is compiled in)
// Block: 128 threads, any grid.

struct Words {
    unsigned w[4];
};

__device__ inline Words philox(unsigned long long seed, unsigned group, unsigned stream) {
    unsigned k0 = static_cast<unsigned>(seed), k1 = static_cast<unsigned>(seed >> 32);
    unsigned c0 = group, c1 = 0, c2 = stream, c3 = 0;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

extern "C" __global__ void philox_u32(unsigned *out, int n, unsigned long long seed, unsigned stream) {
    for (int group = blockIdx.x * blockDim.x + threadIdx.x; group * 4 < n; group += gridDim.x * blockDim.x) {
        const Words words = philox(seed, group, stream);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (group * 4 + i < n) out[group * 4 + i] = words.w[i];
    }
}

extern "C" __global__ void normal_f32(float *out, int n, unsigned long long seed, unsigned stream) {
    for (int group = blockIdx.x * blockDim.x + threadIdx.x; group * 4 < n; group += gridDim.x * blockDim.x) {
        const Words words = philox(seed, group, stream);
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            // (0, 1]: the 24 top bits plus one, so the logarithm is finite.
            const float u = static_cast<float>((words.w[2 * pair] >> 8) + 1u) * 0x1p-24f;
            const float v = static_cast<float>(words.w[2 * pair + 1] >> 8) * 0x1p-24f;
            const float radius = sqrtf(-2.0f * logf(u));
            float sine, cosine;
            sincosf(6.283185307179586f * v, &sine, &cosine);
            const int i = group * 4 + 2 * pair;
            if (i < n) out[i] = radius * cosine;
            if (i + 1 < n) out[i + 1] = radius * sine;
        }
    }
}
