// Functions of one number, as src/ops/unary/mod.rs defines them, and the activations that other kernels apply on the fly.
#pragma once

__device__ inline float sigmoid(float x) {
    // exp of what is not positive: no overflow on either side.
    const float e = expf(-fabsf(x));
    const float small = e / (1.0f + e);
    return x < 0.0f ? small : 1.0f / (1.0f + e);
}

__device__ inline float swish_slope(float x) {
    return sigmoid(x) * (1.0f + x * sigmoid(-x));
}

struct Swish {
    static __device__ float value(float x) { return x * sigmoid(x); }
    static __device__ float slope(float x) { return swish_slope(x); }
};
struct LipSwish {
    static __device__ float value(float x) { return x * sigmoid(x) / 1.1f; }
    static __device__ float slope(float x) { return swish_slope(x) / 1.1f; }
};
struct Elu {
    static __device__ float value(float x) { return x > 0.0f ? x : expm1f(x); }
    static __device__ float slope(float x) { return x > 0.0f ? 1.0f : expf(x); }
};
struct Relu {
    static __device__ float value(float x) { return fmaxf(x, 0.0f); }
    static __device__ float slope(float x) { return x > 0.0f ? 1.0f : 0.0f; }
};
struct Sigmoid {
    static __device__ float value(float x) { return sigmoid(x); }
    static __device__ float slope(float x) { return sigmoid(x) * sigmoid(-x); }
};
struct Softplus {
    static __device__ float value(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
    static __device__ float slope(float x) { return sigmoid(x); }
};
struct SoftClamp {
    static __device__ float value(float x) { return 5.0f * tanhf(x / 5.0f); }
    static __device__ float slope(float x) {
        // 1 - tanh^2 as 4e / (1 + e)^2 with e = exp(-2|x| / 5): no cancellation far out.
        const float e = expf(-fabsf(x) * 0.4f);
        return 4.0f * e / ((1.0f + e) * (1.0f + e));
    }
};
struct Exp {
    static __device__ float value(float x) { return expf(x); }
    static __device__ float slope(float x) { return expf(x); }
};
struct Ln {
    static __device__ float value(float x) { return logf(x); }
    static __device__ float slope(float x) { return 1.0f / x; }
};
struct Square {
    static __device__ float value(float x) { return x * x; }
    static __device__ float slope(float x) { return x + x; }
};

// The activations of fused kernels, by the number that `Activation::code` gives: 0 none, 1 swish, 2 LipSwish, 3 ELU.
// The number is uniform over the launch, so the branch costs no divergence.
__device__ inline float activate(unsigned activation, float x) {
    switch (activation) {
        case 1: return Swish::value(x);
        case 2: return LipSwish::value(x);
        case 3: return Elu::value(x);
        default: return x;
    }
}

__device__ inline float activation_slope(unsigned activation, float x) {
    switch (activation) {
        case 1: return Swish::slope(x);
        case 2: return LipSwish::slope(x);
        case 3: return Elu::slope(x);
        default: return 1.0f;
    }
}
