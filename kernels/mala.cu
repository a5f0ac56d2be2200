// The Metropolis-Hastings decision on Langevin proposals, and dual averaging of the step size.
//
//   mala_accept_f32_ratio(pieces, step_size, partial, chains, standard_normal)
//     partial[chain, piece] = sum over the piece of (p - x) s / 2 + eta/8 (g - h)(g + h), s = g + h, or (g - x) + (h - p) where the
//     standard normal density is a part of the target
//   mala_accept_f32_decide(counter, partial, numbers, tally, log_alpha, accepted, chains, pieces, summands, count, stream)
//     ln alpha = partial sums + old - new summands; accepted where it is at least ln u; numbers of those go from new to old
//   mala_accept_f32_move(pieces, accepted, chains)      x = p and g = h of the accepted
//   mala_adapt_f32(log_alpha, adapting, step_size, averages, n, target)
//
// x and g are position and gradient of a chain, p and h those of its proposal; src/ops/mala says what the numbers mean.
//
// Limit: bytes, 16 an element for the ratio, 16 more for what is accepted. Products and sums are f64, each sum in an order that depends on
// the geometry alone: ln alpha is a small difference of large numbers, and a dozen f64 operations per 16 bytes stay hidden behind them
// except where f64 runs at 1/64 of the rate.
// Geometry: a warp for a piece of a chain; a thread a chain for the decision; one block for the step size.

#include "philox.cuh"
#include "reduce.cuh"

// A piece of each chain's row of one tensor; a row of the table that src/ops/mala/cuda.rs makes. Addresses are those of chain 0.
struct Piece {
    const float *p, *h;
    float *x, *g;
    // Elements from one chain to the next, and of the piece.
    unsigned long long row, count;
};

// One number a chain: proposed and current.
struct Numbers {
    const float *next;
    float *now;
};

// The probability of acceptance; 0 for what is not a number.
__device__ inline double probability(double log_alpha) {
    if (log_alpha >= 0.0) return 1.0;
    return log_alpha < 0.0 ? exp(log_alpha) : 0.0;
}

extern "C" __global__ void mala_accept_f32_ratio(const Piece *pieces, const float *step_size, double *partial, unsigned chains,
                                                 unsigned standard_normal) {
    const unsigned chain = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (chain >= chains) return;
    const Piece piece = pieces[blockIdx.y];
    const double eighth = 0.125 * *step_size;
    double sum = 0.0;
    for (unsigned i = threadIdx.x % 32; i < piece.count; i += 32) {
        const unsigned long long at = chain * piece.row + i;
        const double x = piece.x[at], g = piece.g[at], p = piece.p[at], h = piece.h[at];
        const double slope = standard_normal ? (g - x) + (h - p) : g + h;
        sum += 0.5 * (p - x) * slope + eighth * (g - h) * (g + h);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) partial[chain * gridDim.y + blockIdx.y] = sum;
}

extern "C" __global__ void mala_accept_f32_decide(const NoiseCounter *counter, const double *partial, const Numbers *numbers,
                                                  float *tally, float *log_alpha, float *accepted, unsigned chains,
                                                  unsigned pieces, unsigned summands, unsigned count, unsigned stream) {
    const unsigned chain = blockIdx.x * blockDim.x + threadIdx.x;
    if (chain >= chains) return;
    double sum = 0.0;
    for (unsigned i = 0; i < pieces; ++i) sum += partial[chain * pieces + i];
    for (unsigned i = 0; i < summands; ++i)
        sum += static_cast<double>(numbers[i].now[chain]) - static_cast<double>(numbers[i].next[chain]);
    const unsigned long long element = counter->first_sample + chain;
    const Words words = philox(counter->seed, stream, counter->step, element >> 2);
    const bool moves = sum >= log(static_cast<double>(word_to_uniform(words.w[element & 3])));
    log_alpha[chain] = static_cast<float>(sum);
    accepted[chain] = moves ? 1.0f : 0.0f;
    tally[2 * chain] += static_cast<float>(probability(sum));
    if (!moves) return;
    tally[2 * chain + 1] += 1.0f;
    for (unsigned i = 0; i < count; ++i) numbers[i].now[chain] = numbers[i].next[chain];
}

extern "C" __global__ void mala_accept_f32_move(const Piece *pieces, const float *accepted, unsigned chains) {
    const unsigned chain = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (chain >= chains || accepted[chain] == 0.0f) return;
    const Piece piece = pieces[blockIdx.y];
    for (unsigned i = threadIdx.x % 32; i < piece.count; i += 32) {
        const unsigned long long at = chain * piece.row + i;
        piece.x[at] = piece.p[at];
        piece.g[at] = piece.h[at];
    }
}

extern "C" __global__ void mala_adapt_f32(const float *log_alpha, const float *adapting, float *step_size, float *averages,
                                          unsigned n, double target) {
    constexpr double GAMMA = 0.05, T0 = 10.0, KAPPA = 0.75;
    __shared__ double room[32];
    if (*adapting == 0.0f) return;
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) sum += probability(log_alpha[i]);
    sum = block_sum(sum, room);
    if (threadIdx.x != 0) return;
    const double t = averages[2] + 1.0, share = 1.0 / (t + T0);
    const double h = (1.0 - share) * averages[0] + share * (target - sum / n);
    const double log_step = averages[3] - sqrt(t) / GAMMA * h;
    const double weight = exp(-KAPPA * log(t));
    *step_size = static_cast<float>(exp(2.0 * log_step));
    averages[0] = static_cast<float>(h);
    averages[1] = static_cast<float>(weight * log_step + (1.0 - weight) * averages[1]);
    averages[2] = static_cast<float>(t);
}
