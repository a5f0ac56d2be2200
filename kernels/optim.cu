// Optimisers: one launch moves every parameter of a network. With t the number of the step, from 1, or 0 to leave everything as it is:
//
//   adamax: g += decay p; m = beta1 m + (1 - beta1) g; u = max(beta2 u, |g| + eps); p -= lr / (1 - beta1^t) m / u
//   adam_clip: from the second step on g = clamp(g, -b, b), b = sigmas sqrt(v / (1 - beta2^(t - 1))) + floor; then
//     g += decay p; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
//     p -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
//   clipped_gradients: the clip alone
//
//   adamax_f32(items, lr, t, settings)    adam_clip_f32(items, lr, t, settings)    clipped_gradients_f32(items, t, settings)
//
// Limit: bytes, 28 an element (clipped_gradients: 12). Geometry: a block an item, which is a piece of one parameter; pieces begin at
// multiples of four elements, and a thread takes four at a time.

// A piece of a parameter; a row of the table that src/ops/optim/cuda.rs makes.
struct Item {
    const float *g;
    // The parameter, or where the clipped gradient goes.
    float *p;
    // The moments; clipped_gradients reads the second alone.
    float *first, *second;
    unsigned long long count;
};

// 1 - beta^t, what a moment that started at zero lacks, without the cancellation of the first steps.
__device__ inline float correction(float ln_beta, float t) { return -expm1f(t * ln_beta); }

struct AdamaxSettings {
    float beta1, fresh1, ln_beta1;
    float beta2, eps, weight_decay;
};

struct Adamax {
    AdamaxSettings s;
    float rate;

    __device__ Adamax(AdamaxSettings settings, float learning_rate, float t) : s(settings) {
        rate = learning_rate / correction(s.ln_beta1, t);
    }
    __device__ void operator()(float g, float &p, float &m, float &u) const {
        g = fmaf(s.weight_decay, p, g);
        m = fmaf(s.beta1, m, s.fresh1 * g);
        u = fmaxf(s.beta2 * u, fabsf(g) + s.eps);
        p = fmaf(-rate, m / u, p);
    }
};

// `clip` is 1 or 0.
struct AdamSettings {
    float beta1, fresh1, ln_beta1;
    float beta2, fresh2, ln_beta2;
    float eps, weight_decay;
    float sigmas, floor;
    unsigned clip;
};

struct Clip {
    // Factor of sqrt(v).
    float scale, floor;
    bool on;

    __device__ Clip(const AdamSettings &s, float t) : floor(s.floor) {
        on = s.clip && t > 1.0f;
        scale = on ? s.sigmas / sqrtf(correction(s.ln_beta2, t - 1.0f)) : 0.0f;
    }
    // What is not a number stays so.
    __device__ float operator()(float g, float v) const {
        if (!on) return g;
        const float bound = fmaf(scale, sqrtf(v), floor);
        return g > bound ? bound : g < -bound ? -bound : g;
    }
};

struct Adam {
    AdamSettings s;
    Clip clip;
    float rate, to_unbiased;

    __device__ Adam(const AdamSettings &settings, float learning_rate, float t) : s(settings), clip(settings, t) {
        rate = learning_rate / correction(s.ln_beta1, t);
        to_unbiased = 1.0f / sqrtf(correction(s.ln_beta2, t));
    }
    __device__ void operator()(float g, float &p, float &m, float &v) const {
        g = fmaf(s.weight_decay, p, clip(g, v));
        m = fmaf(s.beta1, m, s.fresh1 * g);
        v = fmaf(s.beta2, v, s.fresh2 * (g * g));
        p = fmaf(-rate, m / fmaf(sqrtf(v), to_unbiased, s.eps), p);
    }
};

template <class Rule>
__device__ inline void update(const Item *items, const Rule &rule) {
    const Item item = items[blockIdx.x];
    const unsigned count = item.count;
    for (unsigned i = threadIdx.x * 4; i < count; i += blockDim.x * 4) {
        if (i + 4 <= count) {
            const float4 g = *reinterpret_cast<const float4 *>(item.g + i);
            float4 *to_p = reinterpret_cast<float4 *>(item.p + i), p = *to_p;
            float4 *to_first = reinterpret_cast<float4 *>(item.first + i), first = *to_first;
            float4 *to_second = reinterpret_cast<float4 *>(item.second + i), second = *to_second;
            rule(g.x, p.x, first.x, second.x);
            rule(g.y, p.y, first.y, second.y);
            rule(g.z, p.z, first.z, second.z);
            rule(g.w, p.w, first.w, second.w);
            *to_p = p, *to_first = first, *to_second = second;
            continue;
        }
        for (unsigned rest = i; rest < count; ++rest) rule(item.g[rest], item.p[rest], item.first[rest], item.second[rest]);
    }
}

extern "C" __global__ void adamax_f32(const Item *items, const float *learning_rate, const float *t, AdamaxSettings settings) {
    if (*t != 0.0f) update(items, Adamax(settings, *learning_rate, *t));
}

extern "C" __global__ void adam_clip_f32(const Item *items, const float *learning_rate, const float *t, AdamSettings settings) {
    if (*t != 0.0f) update(items, Adam(settings, *learning_rate, *t));
}

extern "C" __global__ void clipped_gradients_f32(const Item *items, const float *t, AdamSettings settings) {
    const Item item = items[blockIdx.x];
    const Clip clip(settings, *t);
    for (unsigned i = threadIdx.x; i < item.count; i += blockDim.x) item.p[i] = clip(item.g[i], item.second[i]);
}
