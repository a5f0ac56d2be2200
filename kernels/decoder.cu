// Output distributions over images in [0, 1]: Normal samples and means, Bernoulli pixels, a mixture of discretised logistics. The
// Normal's log-density is in latent.cu. Per element, with mu and sigma from the parameters (gaussian.cuh):
//
//   normal_sample      x = clamp(mu + sigma eps, -1, 1) / 2 + 1 / 2; its gradient is zero strictly outside the bounds
//   normal_mean        mu
//   bernoulli_log_prob log_p[n] = sum of x l - softplus(l) over all but `crop` pixels at each border
//
//   normal_sample_f32(params, eps, x, extents)          normal_sample_dgrad_f32(params, eps, dx, dparams, deps, extents)
//   normal_mean_f32(params, mu, extents)                normal_mean_dgrad_f32(params, dmu, dparams, extents)
//   bernoulli_log_prob_f32[_warp](logits, x, log_p, partial, samples, frame)
//   bernoulli_log_prob_dgrad_f32(logits, x, dlog_p, dlogits, dx, frame)
//
// params [n, position, 2 c]; eps, x, mu [n, position, c]; logits [n, h, w, c]; log_p [n]. Limit: bytes and arithmetic alike, 12 to 24
// bytes and about 100 instructions an element. Geometry: a thread an element, 256 a block; sums go as samples.cuh has it.
//
// The mixture, src/ops/decoder/{dmol,dmol_sample,logistic}.rs. With y = 2 x - 1, coefficients c = tanh(.) and m components, whose
// numbers stand in a pixel's 10 m channels as m logits and then for each colour m means, m log scales, m coefficients:
//
//   m_R = mean_0, m_G = mean_1 + c_0 y_R, m_B = mean_2 + c_1 y_R + c_2 y_G
//   log_p[n] = sum over pixels of logsumexp_k(pi_k + sum over colours of ln bin(y, m, s)) - logsumexp_k(pi_k)
//
//   dmol_log_prob_f32(logits, x, log_p, partial, samples, mixture)      samples and pieces count pixels
//   dmol_log_prob_dgrad_f32(logits, x, dlog_p, dlogits, pixels, mixture)
//   dmol_sample_f32(logits, u_gumbel, u, x, pixels, components, 1 / temperature)
//   dmol_mean_f32(logits, x, pixels, components)
//   decoder_f32_totals(partial, log_p, samples)         of both log-probabilities
//
// logits [n, pixel, 10 m]; x, u [n, pixel, 3]; u_gumbel [n, pixel, m]; log_p [n]. Limit: arithmetic, about 700 instructions a
// component of a pixel against its 40 bytes (80 backward). Geometry: a group of 16 lanes a pixel, a lane a component and the next ones
// 16 further, so that lanes read neighbouring numbers. Published mixtures have 10, for which no lane has two and the gradient keeps in
// registers what it needs twice. Samples and means are made once an image: a thread a pixel.

#include "gaussian.cuh"
#include "samples.cuh"

__device__ inline unsigned element() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Not fminf and fmaxf: what is not a number stays so.
__device__ inline float clamp_unit(float x) { return x > 1.0f ? 1.0f : x < -1.0f ? -1.0f : x; }

extern "C" __global__ void normal_sample_f32(const float *params, const float *eps, float *x, Extents extents) {
    const unsigned i = element();
    if (i >= extents.count) return;
    const Gaussian g = gaussian(plain_law(), params, Pair(i, extents.channels));
    x[i] = clamp_unit(g.mu + g.sigma * eps[i]) * 0.5f + 0.5f;
}

extern "C" __global__ void normal_sample_dgrad_f32(const float *params, const float *eps, const float *dx, float *dparams, float *deps,
                                                   Extents extents) {
    const unsigned i = element();
    if (i >= extents.count) return;
    const Pair at(i, extents.channels);
    const Gaussian g = gaussian(plain_law(), params, at);
    const float e = eps[i];
    const float dz = fabsf(g.mu + g.sigma * e) <= 1.0f ? 0.5f * dx[i] : 0.0f;
    dparams[at.mu] = dz * g.mu_slope;
    dparams[at.log_sigma] = dz * e * g.sigma_slope;
    deps[i] = dz * g.sigma;
}

extern "C" __global__ void normal_mean_f32(const float *params, float *mu, Extents extents) {
    const unsigned i = element();
    if (i < extents.count) mu[i] = SoftClamp::value(params[Pair(i, extents.channels).mu]);
}

extern "C" __global__ void normal_mean_dgrad_f32(const float *params, const float *dmu, float *dparams, Extents extents) {
    const unsigned i = element();
    if (i >= extents.count) return;
    const Pair at(i, extents.channels);
    dparams[at.mu] = dmu[i] * SoftClamp::slope(params[at.mu]);
    dparams[at.log_sigma] = 0.0f;
}

// The images of a Bernoulli decoder, and the width of the border that does not count.
struct Frame {
    unsigned count, height, width, channels, crop;

    // Whether element i = [n, h, w, c] counts.
    __device__ bool counts(unsigned i) const {
        const unsigned column = i / channels, w = column % width, h = column / width % height;
        return h >= crop && h + crop < height && w >= crop && w + crop < width;
    }
};

struct Pixels {
    const float *logits, *x;
    Frame frame;

    __device__ float operator()(unsigned, unsigned i) const {
        if (!frame.counts(i)) return 0.0f;
        const float l = logits[i];
        return x[i] * l - Softplus::value(l);
    }
};

extern "C" __global__ void bernoulli_log_prob_f32(const float *logits, const float *x, float *log_p, double *partial, Samples samples,
                                                  Frame frame) {
    sum_samples(samples, log_p, partial, Pixels{logits, x, frame});
}

extern "C" __global__ void bernoulli_log_prob_f32_warp(const float *logits, const float *x, float *log_p, double *, Samples samples,
                                                       Frame frame) {
    sum_samples_by_warps(samples, log_p, Pixels{logits, x, frame});
}

extern "C" __global__ void bernoulli_log_prob_dgrad_f32(const float *logits, const float *x, const float *dlog_p, float *dlogits,
                                                        float *dx, Frame frame) {
    const unsigned i = element();
    if (i >= frame.count) return;
    const unsigned n = i / (frame.height * frame.width * frame.channels);
    const float scale = frame.counts(i) ? dlog_p[n] : 0.0f, l = logits[i];
    dlogits[i] = scale * (x[i] - sigmoid(l));
    dx[i] = scale * l;
}

extern "C" __global__ void decoder_f32_totals(const double *partial, float *y, Samples samples) { totals(partial, y, samples); }

// Lanes that work on one pixel of a mixture.
#define GROUP 16

// Minus infinity: no number yet.
#define NONE __int_as_float(0xff800000)

// Log scales are at least this; no gradient passes strictly below.
#define LOG_SCALE_FLOOR -7.0f

struct Mixture {
    // Pixels of one image, and components.
    unsigned positions, components;
    // Steps between the lowest and the highest value.
    float levels;
};

// A log-probability with its derivatives; a kernel that asks for none computes none.
struct Bin {
    float log_p, by_mean, by_log_scale;
};

__device__ inline float softplus(float x) { return Softplus::value(x); }

// The bin around y under a logistic; src/ops/decoder/logistic.rs says why in this form.
__device__ inline Bin bin(float y, float mean, float log_scale, float levels) {
    const bool floored = log_scale < LOG_SCALE_FLOOR;
    const float s = floored ? LOG_SCALE_FLOOR : log_scale;
    const float i = expf(-s);
    const float mid = i * (y - mean), half = i / levels;
    const float plus = mid + half, min = mid - half;
    Bin b;
    if (y < -0.999f) {
        const float slope = sigmoid(-plus);
        b = {plus - softplus(plus), -i * slope, -plus * slope};
    } else if (y > 0.99f) {
        const float slope = -sigmoid(min);
        b = {-softplus(min), -i * slope, -min * slope};
    } else {
        const float above = sigmoid(-plus), below = sigmoid(min);
        const float open = -expm1f(-(half + half));
        const float inside = sigmoid(plus), beyond = sigmoid(-min);
        const float probability = inside * beyond * open;
        if (probability > 1e-5f) {
            const float slope = above - below;
            const float width = (above / beyond + below / inside) / open;
            b = {logf(probability), -i * slope, -mid * slope - half * width};
        } else {
            const float slope = sigmoid(-mid) - sigmoid(mid);
            b = {mid - s - 2.0f * softplus(mid) - logf(levels * 0.5f), -i * slope, -1.0f - mid * slope};
        }
    }
    if (floored) b.by_log_scale = 0.0f;
    return b;
}

// Where numbers of a component stand in its pixel.
__device__ inline unsigned mean_at(unsigned colour, unsigned m) { return (1 + 3 * colour) * m; }
__device__ inline unsigned log_scale_at(unsigned colour, unsigned m) { return (2 + 3 * colour) * m; }
__device__ inline unsigned coefficient_at(unsigned colour, unsigned m) { return (3 + 3 * colour) * m; }

struct Pixel {
    float y[3];

    __device__ explicit Pixel(const float *x) {
#pragma unroll
        for (int colour = 0; colour < 3; ++colour) y[colour] = x[colour] + x[colour] - 1.0f;
    }
};

// One component of a pixel.
struct Component {
    Bin bins[3];
    float c[3];
    float logit, score;

    // `own` are the pixel's numbers from this component's logit on.
    __device__ Component(const float *own, const Pixel &p, const Mixture &mix) {
        const unsigned m = mix.components;
#pragma unroll
        for (int colour = 0; colour < 3; ++colour) c[colour] = tanhf(own[coefficient_at(colour, m)]);
        const float shift[3] = {0.0f, c[0] * p.y[0], c[1] * p.y[0] + c[2] * p.y[1]};
        logit = score = own[0];
#pragma unroll
        for (int colour = 0; colour < 3; ++colour) {
            const float mean = own[mean_at(colour, m)] + shift[colour];
            bins[colour] = bin(p.y[colour], mean, own[log_scale_at(colour, m)], mix.levels);
            score += bins[colour].log_p;
        }
    }
};

// sum of exp(x) as exp(largest) rest, so that nothing overflows.
struct LogSum {
    float largest, rest;

    __device__ LogSum() : largest(NONE), rest(0.0f) {}
    __device__ void add(float x) { join(x, 1.0f); }
    __device__ void join(float other, float its_rest) {
        const float top = fmaxf(largest, other);
        // Two empty sums would give inf - inf.
        if (top == NONE) return;
        rest = rest * expf(largest - top) + its_rest * expf(other - top);
        largest = top;
    }
    // Over the lanes of a group, the same in each; all lanes of the warp call.
    __device__ float over_group() {
#pragma unroll
        for (int distance = GROUP / 2; distance > 0; distance /= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, largest, distance);
            const float its_rest = __shfl_xor_sync(0xffffffffu, rest, distance);
            join(other, its_rest);
        }
        return largest + logf(rest);
    }
};

extern "C" __global__ void dmol_log_prob_f32(const float *logits, const float *x, float *log_p, double *partial, Samples samples,
                                             Mixture mix) {
    __shared__ double room[32];
    const unsigned n = blockIdx.x / samples.pieces, m = mix.components, lane = threadIdx.x % GROUP;
    const unsigned first = blockIdx.x % samples.pieces * samples.piece, last = min(first + samples.piece, samples.length);
    double sum = 0.0;
    // Whole warps turn together, for the shuffles; groups beyond the piece have empty sums.
    for (unsigned start = first; start < last; start += blockDim.x / GROUP) {
        const unsigned p = start + threadIdx.x / GROUP;
        LogSum scores, masses;
        if (p < last) {
            const unsigned pixel = n * samples.length + p;
            const Pixel y(x + pixel * 3);
            for (unsigned k = lane; k < m; k += GROUP) {
                const Component component(logits + pixel * (10 * m) + k, y, mix);
                scores.add(component.score);
                masses.add(component.logit);
            }
        }
        const float evidence = scores.over_group(), mass = masses.over_group();
        if (p < last && lane == 0) sum += evidence - mass;
    }
    sum = block_sum(sum, room);
    if (threadIdx.x != 0) return;
    if (samples.pieces == 1)
        log_p[n] = static_cast<float>(sum);
    else
        partial[blockIdx.x] = sum;
}

// The gradient of one component; `to` as `own` of Component.
__device__ inline void write_gradient(float *to, const Component &k, const Pixel &p, unsigned m, float scale, float evidence,
                                      float mass) {
    const float responsibility = expf(k.score - evidence), weight = scale * responsibility;
    to[0] = scale * (responsibility - expf(k.logit - mass));
    float by_mean[3];
#pragma unroll
    for (int colour = 0; colour < 3; ++colour) {
        by_mean[colour] = weight * k.bins[colour].by_mean;
        to[mean_at(colour, m)] = by_mean[colour];
        to[log_scale_at(colour, m)] = weight * k.bins[colour].by_log_scale;
    }
    const float slopes[3] = {by_mean[1] * p.y[0], by_mean[2] * p.y[0], by_mean[2] * p.y[1]};
#pragma unroll
    for (int colour = 0; colour < 3; ++colour)
        to[coefficient_at(colour, m)] = slopes[colour] * (1.0f - k.c[colour] * k.c[colour]);
}

extern "C" __global__ void dmol_log_prob_dgrad_f32(const float *logits, const float *x, const float *dlog_p, float *dlogits,
                                                   unsigned pixels, Mixture mix) {
    const unsigned m = mix.components, lane = threadIdx.x % GROUP;
    const unsigned own = (blockIdx.x * blockDim.x + threadIdx.x) / GROUP;
    // Groups beyond the last pixel go along with it for the shuffles and write nothing.
    const unsigned pixel = min(own, pixels - 1);
    const Pixel y(x + pixel * 3);
    const float *from = logits + pixel * (10 * m);
    // The component of this lane; a lane without one takes the last and leaves it out of everything.
    const bool whole = lane < m;
    const Component kept(from + (whole ? lane : m - 1), y, mix);
    LogSum scores, masses;
    if (whole) scores.add(kept.score), masses.add(kept.logit);
    for (unsigned k = lane + GROUP; k < m; k += GROUP) {
        const Component component(from + k, y, mix);
        scores.add(component.score);
        masses.add(component.logit);
    }
    const float evidence = scores.over_group(), mass = masses.over_group();
    if (own >= pixels) return;
    const float scale = dlog_p[pixel / mix.positions];
    float *to = dlogits + pixel * (10 * m);
    if (whole) write_gradient(to + lane, kept, y, m, scale, evidence, mass);
    for (unsigned k = lane + GROUP; k < m; k += GROUP)
        write_gradient(to + k, Component(from + k, y, mix), y, m, scale, evidence, mass);
}

// The image values of a pixel from colours that do not know each other yet and coefficients.
__device__ inline void chain(float *x, const float (&colour)[3], const float (&c)[3]) {
    const float red = clamp_unit(colour[0]);
    const float green = clamp_unit(colour[1] + c[0] * red);
    const float blue = clamp_unit(colour[2] + c[1] * red + c[2] * green);
    x[0] = red * 0.5f + 0.5f, x[1] = green * 0.5f + 0.5f, x[2] = blue * 0.5f + 0.5f;
}

extern "C" __global__ void dmol_sample_f32(const float *logits, const float *u_gumbel, const float *u, float *x, unsigned pixels,
                                           unsigned m, float cold) {
    const unsigned pixel = element();
    if (pixel >= pixels) return;
    const float *from = logits + pixel * (10 * m), *gumbel = u_gumbel + pixel * m;
    unsigned best = 0;
    float highest = NONE;
    for (unsigned k = 0; k < m; ++k) {
        const float score = from[k] * cold - logf(-logf(gumbel[k]));
        if (score > highest) highest = score, best = k;
    }
    float colour[3], c[3];
#pragma unroll
    for (int j = 0; j < 3; ++j) {
        const float scale = expf(fmaxf(from[log_scale_at(j, m) + best], LOG_SCALE_FLOOR)), v = u[pixel * 3 + j];
        colour[j] = from[mean_at(j, m) + best] + scale * cold * (logf(v) - logf(1.0f - v));
        c[j] = tanhf(from[coefficient_at(j, m) + best]);
    }
    chain(x + pixel * 3, colour, c);
}

extern "C" __global__ void dmol_mean_f32(const float *logits, float *x, unsigned pixels, unsigned m) {
    const unsigned pixel = element();
    if (pixel >= pixels) return;
    const float *from = logits + pixel * (10 * m);
    float largest = NONE;
    for (unsigned k = 0; k < m; ++k) largest = fmaxf(largest, from[k]);
    float mass = 0.0f, colour[3] = {}, c[3] = {};
    for (unsigned k = 0; k < m; ++k) {
        const float weight = expf(from[k] - largest);
        mass += weight;
#pragma unroll
        for (int j = 0; j < 3; ++j) {
            colour[j] += weight * from[mean_at(j, m) + k];
            c[j] += weight * tanhf(from[coefficient_at(j, m) + k]);
        }
    }
#pragma unroll
    for (int j = 0; j < 3; ++j) colour[j] /= mass, c[j] /= mass;
    chain(x + pixel * 3, colour, c);
}
