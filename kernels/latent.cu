// Samples, log-densities and divergences of Normal latents. Per element, with mu and sigma from the parameters (gaussian.cuh):
//
//   z = eps sigma + mu                                  log_p = -eps^2 / 2 - ln(2 pi) / 2 - ln sigma
//   log p(x) = the same with (x - mu) / sigma for eps; an image in [0, 1] is taken at 2 x - 1
//   kl = (d^2 + r^2) / 2 - 1 / 2 - ln r                 d = (mu_q - mu_p) / sigma_p, r = sigma_q / sigma_p
//   log q(z0) - log p(z) = (d^2 - eps^2) / 2 + ln(sigma_p / sigma_q)        d = (z - mu_p) / sigma_p
//
//   latent_sample_f32(params, eps, z, extents, law)
//   latent_sample_f32_density[_warp](params, eps, z, log_p, partial, samples, channels, law)
//   latent_sample_dgrad_f32(params, eps, dz, dlog_p or null, dparams, deps, extents, law)
//   normal_log_prob_f32[_warp](params, x, log_p, partial, samples, channels, law, image)
//   normal_log_prob_dgrad_f32(params, x, dlog_p, dparams, dx, extents, law, image)
//   normal_kl_f32_samples[_warp](q, p, kl, partial, samples, channels)
//   normal_kl_f32_channels[_x4](q, p, partial, columns)
//   normal_kl_dgrad_f32(q, p, dkl, dq, dp, extents, keep)
//   normal_log_ratio_f32_samples[_warp], _channels[_x4], normal_log_ratio_dgrad_f32: as normal_kl, (q, eps, p, z) for (q, p)
//   latent_f32_totals(partial, y, samples)              y[n] = sum over pieces of partial[n, piece]
//   latent_f32_channel_totals(partial, y, channels, slices, scale)          y[c] = scale sum over slices of partial[slice, c]
//
// params, q, p [n, position, 2 c]; eps, z, x [n, position, c]; log_p [n]; kl, ratio [n], or [c] as the mean over n.
//
// Limit: bytes and arithmetic alike, 12 to 32 bytes and 100 to 300 instructions an element, of which an H200 does 6 a byte. So a thread
// takes one element, 256 a block; sums go as samples.cuh and columns.cuh have it.

#include "columns.cuh"
#include "gaussian.cuh"
#include "samples.cuh"

// What a divergence keeps: samples, or channels.
struct Keep {
    unsigned channels;
    // Factor of what is summed.
    float scale;
};

// The number of the element i that a gradient [n] or [c] belongs to.
__device__ inline float kept(const float *d, unsigned i, const Extents &x, Keep keep) {
    return keep.scale * d[keep.channels ? i % x.channels : i / x.length];
}

// The element of this thread; x.count and more beyond the last.
__device__ inline unsigned element() { return blockIdx.x * blockDim.x + threadIdx.x; }

extern "C" __global__ void latent_sample_f32(const float *params, const float *eps, float *z, Extents x, Law law) {
    const unsigned i = element();
    if (i >= x.count) return;
    const Gaussian g = gaussian(law, params, Pair(i, x.channels));
    z[i] = eps[i] * g.sigma + g.mu;
}

struct Draw {
    const float *params, *eps;
    float *z;
    unsigned channels;
    Law law;

    __device__ float operator()(unsigned, unsigned i) const {
        const Gaussian g = gaussian(law, params, Pair(i, channels));
        const float e = eps[i];
        z[i] = e * g.sigma + g.mu;
        return g.log_density(e);
    }
};

extern "C" __global__ void latent_sample_f32_density(const float *params, const float *eps, float *z, float *log_p, double *partial,
                                                     Samples samples, unsigned channels, Law law) {
    sum_samples(samples, log_p, partial, Draw{params, eps, z, channels, law});
}

extern "C" __global__ void latent_sample_f32_density_warp(const float *params, const float *eps, float *z, float *log_p, double *,
                                                          Samples samples, unsigned channels, Law law) {
    sum_samples_by_warps(samples, log_p, Draw{params, eps, z, channels, law});
}

extern "C" __global__ void latent_sample_dgrad_f32(const float *params, const float *eps, const float *dz, const float *dlog_p,
                                                   float *dparams, float *deps, Extents x, Law law) {
    const unsigned i = element();
    if (i >= x.count) return;
    const Pair at(i, x.channels);
    const Gaussian g = gaussian(law, params, at);
    const float e = eps[i], d = dz[i], dlog = dlog_p ? dlog_p[i / x.length] : 0.0f;
    dparams[at.mu] = d * g.mu_slope;
    dparams[at.log_sigma] = (d * e - dlog / g.sigma) * g.sigma_slope;
    deps[i] = d * g.sigma - dlog * e;
}

// The point whose density is asked for.
__device__ inline float point(unsigned image, float x) { return image ? x + x - 1.0f : x; }

struct Score {
    const float *params, *x;
    unsigned channels;
    Law law;
    unsigned image;

    __device__ float operator()(unsigned, unsigned i) const {
        const Gaussian g = gaussian(law, params, Pair(i, channels));
        return g.log_density((point(image, x[i]) - g.mu) / g.sigma);
    }
};

extern "C" __global__ void normal_log_prob_f32(const float *params, const float *x, float *log_p, double *partial, Samples samples,
                                               unsigned channels, Law law, unsigned image) {
    sum_samples(samples, log_p, partial, Score{params, x, channels, law, image});
}

extern "C" __global__ void normal_log_prob_f32_warp(const float *params, const float *x, float *log_p, double *, Samples samples,
                                                    unsigned channels, Law law, unsigned image) {
    sum_samples_by_warps(samples, log_p, Score{params, x, channels, law, image});
}

extern "C" __global__ void normal_log_prob_dgrad_f32(const float *params, const float *x, const float *dlog_p, float *dparams, float *dx,
                                                     Extents extents, Law law, unsigned image) {
    const unsigned i = element();
    if (i >= extents.count) return;
    const Pair at(i, extents.channels);
    const Gaussian g = gaussian(law, params, at);
    const float d = (point(image, x[i]) - g.mu) / g.sigma;
    const float scale = dlog_p[i / extents.length] / g.sigma;
    dparams[at.mu] = scale * d * g.mu_slope;
    dparams[at.log_sigma] = scale * (d * d - 1.0f) * g.sigma_slope;
    dx[i] = (image ? -2.0f : -1.0f) * scale * d;
}

struct Divergence {
    const float *q, *p;
    unsigned channels;

    __device__ float operator()(unsigned, unsigned i) const {
        const Pair at(i, channels);
        const Gaussian gq = gaussian(plain_law(), q, at), gp = gaussian(plain_law(), p, at);
        const float d = (gq.mu - gp.mu) / gp.sigma, ratio = gq.sigma / gp.sigma;
        return 0.5f * (d * d + ratio * ratio) - 0.5f - logf(ratio);
    }
};

struct LogRatio {
    const float *q, *eps, *p, *z;
    unsigned channels;

    __device__ float operator()(unsigned, unsigned i) const {
        const Pair at(i, channels);
        const Gaussian gq = gaussian(plain_law(), q, at), gp = gaussian(plain_law(), p, at);
        const float e = eps[i], d = (z[i] - gp.mu) / gp.sigma;
        return 0.5f * (d * d - e * e) + logf(gp.sigma / gq.sigma);
    }
};

// partial[slice, c] = sum over the positions of a slice of term.
template <int V, class Term>
__device__ inline void channel_sums(float *partial, const Columns &c, const Term &term) {
    __shared__ Sums<V> room[COLUMN_THREADS / 2];
    const Walk walk(c);
    Sums<V> own = sum_rows<V, 1>(walk, [&](unsigned at, Sums<V> &sums) {
#pragma unroll
        for (int j = 0; j < V; ++j) sums.v[j] += term(0, at * V + j);
    });
    join_rows(own, c.width, room);
    if (walk.leads(c)) store<V>(partial, walk.partial(c), pack_of<V>(own, 0));
}

extern "C" __global__ void normal_kl_f32_samples(const float *q, const float *p, float *kl, double *partial, Samples samples,
                                                 unsigned channels) {
    sum_samples(samples, kl, partial, Divergence{q, p, channels});
}

extern "C" __global__ void normal_kl_f32_samples_warp(const float *q, const float *p, float *kl, double *, Samples samples,
                                                      unsigned channels) {
    sum_samples_by_warps(samples, kl, Divergence{q, p, channels});
}

extern "C" __global__ void normal_kl_f32_channels(const float *q, const float *p, float *partial, Columns c) {
    channel_sums<1>(partial, c, Divergence{q, p, c.columns});
}

extern "C" __global__ void normal_kl_f32_channels_x4(const float *q, const float *p, float *partial, Columns c) {
    channel_sums<4>(partial, c, Divergence{q, p, c.columns * 4});
}

extern "C" __global__ void normal_kl_dgrad_f32(const float *q, const float *p, const float *dkl, float *dq, float *dp, Extents x,
                                               Keep keep) {
    const unsigned i = element();
    if (i >= x.count) return;
    const Pair at(i, x.channels);
    const Gaussian gq = gaussian(plain_law(), q, at), gp = gaussian(plain_law(), p, at);
    const float g = kept(dkl, i, x, keep), inverse = 1.0f / gp.sigma;
    const float d = (gq.mu - gp.mu) * inverse, ratio = gq.sigma * inverse;
    const float dmu = g * d * inverse;
    dq[at.mu] = dmu * gq.mu_slope;
    dq[at.log_sigma] = g * (ratio * inverse - 1.0f / gq.sigma) * gq.sigma_slope;
    dp[at.mu] = -dmu * gp.mu_slope;
    dp[at.log_sigma] = g * (1.0f - d * d - ratio * ratio) * inverse * gp.sigma_slope;
}

extern "C" __global__ void normal_log_ratio_f32_samples(const float *q, const float *eps, const float *p, const float *z, float *ratio,
                                                        double *partial, Samples samples, unsigned channels) {
    sum_samples(samples, ratio, partial, LogRatio{q, eps, p, z, channels});
}

extern "C" __global__ void normal_log_ratio_f32_samples_warp(const float *q, const float *eps, const float *p, const float *z,
                                                             float *ratio, double *, Samples samples, unsigned channels) {
    sum_samples_by_warps(samples, ratio, LogRatio{q, eps, p, z, channels});
}

extern "C" __global__ void normal_log_ratio_f32_channels(const float *q, const float *eps, const float *p, const float *z,
                                                         float *partial, Columns c) {
    channel_sums<1>(partial, c, LogRatio{q, eps, p, z, c.columns});
}

extern "C" __global__ void normal_log_ratio_f32_channels_x4(const float *q, const float *eps, const float *p, const float *z,
                                                            float *partial, Columns c) {
    channel_sums<4>(partial, c, LogRatio{q, eps, p, z, c.columns * 4});
}

extern "C" __global__ void normal_log_ratio_dgrad_f32(const float *q, const float *eps, const float *p, const float *z,
                                                      const float *dratio, float *dq, float *deps, float *dp, float *dz, Extents x,
                                                      Keep keep) {
    const unsigned i = element();
    if (i >= x.count) return;
    const Pair at(i, x.channels);
    const Gaussian gq = gaussian(plain_law(), q, at), gp = gaussian(plain_law(), p, at);
    const float g = kept(dratio, i, x, keep);
    const float d = (z[i] - gp.mu) / gp.sigma, by_z = g * d / gp.sigma;
    dq[at.mu] = 0.0f;
    dq[at.log_sigma] = -g / gq.sigma * gq.sigma_slope;
    deps[i] = -g * eps[i];
    dz[i] = by_z;
    dp[at.mu] = -by_z * gp.mu_slope;
    dp[at.log_sigma] = g * (1.0f - d * d) / gp.sigma * gp.sigma_slope;
}

extern "C" __global__ void latent_f32_totals(const double *partial, float *y, Samples samples) { totals(partial, y, samples); }

// A warp a channel.
extern "C" __global__ void latent_f32_channel_totals(const float *partial, float *y, unsigned channels, unsigned slices, float scale) {
    const unsigned c = element() / 32;
    if (c >= channels) return;
    float sum = 0.0f;
    for (unsigned slice = threadIdx.x % 32; slice < slices; slice += 32) sum += partial[slice * channels + c];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) y[c] = scale * sum;
}
