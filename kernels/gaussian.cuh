// The Normal distribution of one element from the two numbers a network gives for it, as src/ops/latent/gaussian.rs defines it:
// mu = scl(m), sigma = (exp(scl(s)) + 0.01) temperature with scl(x) = 5 tanh(x / 5), and max(scl(s), -2) in the exponent where there is
// a floor.
//
// Parameters are [n, .., 2 c], the c means of a position before its c log sigmas; what they describe is [n, .., c].
#pragma once

#include "functions.cuh"

// ln(2 pi) / 2.
#define HALF_LN_2PI 0.91893853320467278f

// `Law` in src/ops/latent/cuda.rs.
struct Law {
    float temperature;
    // 1 where log sigma has a floor, else 0.
    unsigned floor;
};

__device__ inline Law plain_law() { return {1.0f, 0u}; }

struct Gaussian {
    float mu, sigma;
    // Derivatives of mu by m and of sigma by s; a kernel that asks for none computes none.
    float mu_slope, sigma_slope;

    __device__ Gaussian(Law law, float m, float s) {
        const float exponent = SoftClamp::value(s);
        const bool below = law.floor && exponent < -2.0f;
        const float spread = expf(below ? -2.0f : exponent);
        mu = SoftClamp::value(m);
        sigma = (spread + 0.01f) * law.temperature;
        mu_slope = SoftClamp::slope(m);
        sigma_slope = below ? 0.0f : spread * SoftClamp::slope(s) * law.temperature;
    }

    // The log-density so many standard deviations from the mean.
    __device__ float log_density(float deviations) const {
        return -0.5f * deviations * deviations - HALF_LN_2PI - logf(sigma);
    }
};

// Extents of z[n, position, c]: its elements, those of a sample, and channels.
struct Extents {
    unsigned count, length, channels;
};

// Where the parameters of element i of z stand.
struct Pair {
    unsigned mu, log_sigma;

    __device__ Pair(unsigned i, unsigned channels) {
        mu = i + i / channels * channels;
        log_sigma = mu + channels;
    }
};

__device__ inline Gaussian gaussian(Law law, const float *__restrict__ params, Pair at) {
    return Gaussian(law, params[at.mu], params[at.log_sigma]);
}
