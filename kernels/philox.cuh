// Counter-based noise: the translation of src/philox.rs, operation by operation, so that both give the same bits.
//
// key = seed; counter = (block low, block high, stream, step); the four words of block b belong to elements 4b .. 4b + 3.
#pragma once

// The counter of a step in device memory: `NoiseCounter` in src/program/gpu.rs.
struct NoiseCounter {
    unsigned long long seed;
    unsigned long long first_sample;
    unsigned step;
    unsigned reserved;
};

struct Words {
    unsigned w[4];
};

__device__ inline Words philox(unsigned long long seed, unsigned stream, unsigned step, unsigned long long block) {
    unsigned k0 = static_cast<unsigned>(seed), k1 = static_cast<unsigned>(seed >> 32);
    unsigned c0 = static_cast<unsigned>(block), c1 = static_cast<unsigned>(block >> 32), c2 = stream, c3 = step;
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

__device__ inline float word_to_uniform(unsigned word) {
    return __fmul_rn(__fadd_rn(__int2float_rn(static_cast<int>(word >> 9)), 0.5f), 1.0f / 8388608.0f);
}

template <int N>
__device__ inline float horner(const float (&coefficients)[N], float t) {
    float sum = coefficients[0];
#pragma unroll
    for (int i = 1; i < N; ++i) sum = __fmaf_rn(sum, t, coefficients[i]);
    return sum;
}

__device__ inline float word_to_normal(unsigned word) {
    constexpr float LOG2[9] = {0.12310968f,  -0.20586188f, 0.21607822f,  -0.23916988f, 0.28790325f,
                               -0.36069328f, 0.48091075f,  -0.72134745f, 1.44269504088896340736f};
    constexpr float BODY[10] = {-2.4303765e-10f, -6.2879796e-10f, 4.6415316e-8f, -2.4209314e-7f, -3.1314291e-6f,
                                6.126678e-5f,    -3.5090116e-4f,  -4.091253e-3f, 0.235486f,      2.336638f};
    constexpr float TAIL[8] = {-7.2618095e-5f, 1.0935069e-4f, -8.937261e-5f, 3.5105407e-4f,
                               -1.0935673e-3f, 2.032418e-3f,  1.1876159f,    5.068498f};
    constexpr float BODY_END = 9.0f, CENTRE = 4.5f, TWO_POW_MINUS_32 = 1.0f / 4294967296.0f;

    const float m = __int2float_rn(static_cast<int>(word & 0x7fffffffu));
    const float p = __fmaf_rn(m, TWO_POW_MINUS_32, 0.5f * TWO_POW_MINUS_32);
    const float x = __fmaf_rn(p, -2.0f, 1.0f);
    const float y = __fmul_rn(4.0f, __fmaf_rn(-p, p, p));

    const int bits = __float_as_int(y);
    const int exponent = (bits - 0x3f3504f3) >> 23;
    const float f = __fsub_rn(__int_as_float(bits - (exponent << 23)), 1.0f);
    const float log2 = __fmaf_rn(f, horner(LOG2, f), __int2float_rn(exponent));
    const float w = log2 < 0.0f ? -log2 : 0.0f;

    const float body = horner(BODY, __fsub_rn(w, CENTRE));
    const float tail = horner(TAIL, __fsub_rn(__fsqrt_rn(w), CENTRE));
    const float ratio = w < BODY_END ? body : tail;
    return __int_as_float(__float_as_int(__fmul_rn(x, ratio)) | static_cast<int>(word & 0x80000000u));
}

// The standard normal number of one element.
__device__ inline float philox_normal(unsigned long long seed, unsigned stream, unsigned step, unsigned long long element) {
    const Words words = philox(seed, stream, step, element >> 2);
    return word_to_normal(words.w[element & 3]);
}
