// Batch normalisation of x[row, c] over its rows, with the activation that follows: y = act(z), z = gamma xhat + beta and
// xhat = (x - mean) / sqrt(var + eps); in evaluation z = scale x + shift.
//
//   batch_norm_moments_f32[_x4](x, mean, var, columns)                   of each slice of rows; var is biased
//   batch_norm_moments_f32_finish[_x4](means, vars, mean, var, columns, rows, slice)         of all slices
//   batch_norm_track_f32(mean, var, running_mean, running_var, c, keep, take, unbiased)
//   batch_norm_fprop_f32[_x4](x, mean, var, gamma, beta, y, act, columns)
//   batch_norm_wgrad_f32[_x4](dy, x, mean, var, gamma, beta, dbeta, dgamma, act, columns)    sums of each slice
//   batch_norm_wgrad_f32_finish[_x4](partial, first, second, columns)    both sums over the slices
//   batch_norm_dgrad_f32[_x4](dy, x, mean, var, gamma, beta, dbeta, dgamma, dx, act, count, columns)
//   batch_norm_fold_f32(gamma, beta, mean, var, scale, shift, c)
//   batch_norm_fold_dgrad_f32(dscale, dshift, mean, var, dgamma, c)
//   scale_shift_f32[_x4](x, scale, shift, y, act, columns)
//   scale_shift_dgrad_f32[_x4](dy, x, scale, shift, dx, act, columns)
//   scale_shift_dgrad_f32_linear[_x4](dy, scale, dx, columns)            without an activation
//   scale_shift_wgrad_f32[_x4](dy, x, scale, shift, dshift, dscale, act, columns)            sums of each slice
//
// with dz = dy act'(z): dbeta = sum dz, dgamma = sum dz xhat, dx = gamma / sqrt(var + eps) (dz - (dbeta + xhat dgamma) / rows);
// dscale = sum dz x, dshift = sum dz.
//
// Limit: bytes. 4 an element for moments, 8 for y, the linear dx and the sums, 12 for dx. Geometry: columns.cuh; sums of few columns
// are cut into slices of rows, whose partial results a second launch joins. A thread's numbers of its channel are made once for all its
// rows.

#include "columns.cuh"
#include "functions.cuh"

// batch_norm::EPSILON
#define EPSILON 1e-5f

__device__ inline float inverse_deviation(float var) {
    return 1.0f / sqrtf(var + EPSILON);
}

// Mean and sum of squared distances from it, of V columns.
template <int V>
struct Moments {
    float count;
    float mean[V], squares[V];

    __device__ void join(const Moments &other) {
        if (other.count == 0.0f) return;
        const float both = count + other.count, share = other.count / both;
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const float distance = other.mean[j] - mean[j];
            mean[j] += distance * share;
            squares[j] += other.squares[j] + distance * distance * (count * share);
        }
        count = both;
    }
};

template <int V>
__device__ inline void write_moments(const Moments<V> &own, float *mean, float *var, unsigned at) {
    Pack<V> means, vars;
#pragma unroll
    for (int j = 0; j < V; ++j) {
        means.v[j] = own.mean[j];
        vars.v[j] = own.squares[j] / own.count;
    }
    store<V>(mean, at, means);
    store<V>(var, at, vars);
}

// Rows that a thread holds at once: their mean, then their distances from it, are exact to rounding however large the mean is.
#define HELD 8

template <int V>
__device__ inline void moments(const float *__restrict__ x, float *mean, float *var, const Columns &c) {
    __shared__ Moments<V> room[COLUMN_THREADS / 2];
    const Walk walk(c);
    Moments<V> own = {};
    unsigned row = walk.first;
    for (; row + (HELD - 1) * walk.step < walk.last; row += HELD * walk.step) {
        Pack<V> held[HELD];
#pragma unroll
        for (int i = 0; i < HELD; ++i) held[i] = load<V>(x, walk.at(row + i * walk.step));
        Moments<V> batch = {HELD};
#pragma unroll
        for (int j = 0; j < V; ++j) {
#pragma unroll
            for (int i = 0; i < HELD; ++i) batch.mean[j] += held[i].v[j];
            batch.mean[j] *= 1.0f / HELD;
#pragma unroll
            for (int i = 0; i < HELD; ++i) {
                const float distance = held[i].v[j] - batch.mean[j];
                batch.squares[j] += distance * distance;
            }
        }
        own.join(batch);
    }
    for (; row < walk.last; row += walk.step) {
        const Pack<V> pack = load<V>(x, walk.at(row));
        Moments<V> one = {1.0f};
#pragma unroll
        for (int j = 0; j < V; ++j) one.mean[j] = pack.v[j];
        own.join(one);
    }
    join_rows(own, c.width, room);
    if (walk.leads(c)) write_moments(own, mean, var, walk.partial(c));
}

template <int V>
__device__ inline void finish_moments(const float *__restrict__ means, const float *__restrict__ vars, float *mean, float *var,
                                      const Columns &c, unsigned rows, unsigned slice) {
    __shared__ Moments<V> room[COLUMN_THREADS / 2];
    const Walk walk(c);
    Moments<V> own = {};
    for (unsigned part = walk.first; part < walk.last; part += walk.step) {
        const Pack<V> part_mean = load<V>(means, walk.at(part)), part_var = load<V>(vars, walk.at(part));
        Moments<V> other;
        other.count = min(slice, rows - part * slice);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            other.mean[j] = part_mean.v[j];
            other.squares[j] = part_var.v[j] * other.count;
        }
        own.join(other);
    }
    join_rows(own, c.width, room);
    if (walk.leads(c)) write_moments(own, mean, var, walk.partial(c));
}

// What a thread keeps of its V channels in training: xhat = (x - mean) inverse, z = gamma xhat + beta.
template <int V>
struct Trained {
    Pack<V> mean, inverse, gamma, beta;

    __device__ Trained(const float *mean, const float *var, const float *gamma, const float *beta, unsigned column)
        : mean(load<V>(mean, column)),
          inverse(load<V>(var, column)),
          gamma(load<V>(gamma, column)),
          beta(load<V>(beta, column)) {
#pragma unroll
        for (int j = 0; j < V; ++j) inverse.v[j] = inverse_deviation(inverse.v[j]);
    }
    // What the gradient of the factor is weighed with.
    __device__ float factor(int j, float x) const { return (x - mean.v[j]) * inverse.v[j]; }
    __device__ float z(int j, float x) const { return gamma.v[j] * factor(j, x) + beta.v[j]; }
};

// The same in evaluation: z = scale x + shift.
template <int V>
struct Folded {
    Pack<V> scale, shift;

    __device__ Folded(const float *scale, const float *shift, unsigned column)
        : scale(load<V>(scale, column)), shift(load<V>(shift, column)) {}
    __device__ float factor(int, float x) const { return x; }
    __device__ float z(int j, float x) const { return scale.v[j] * x + shift.v[j]; }
};

// y = act(z) along a thread's rows.
template <int V, class Channel>
__device__ inline void fprop(const float *__restrict__ x, float *__restrict__ y, unsigned act, const Walk &walk, const Channel &channel) {
#pragma unroll 4
    for (unsigned row = walk.first; row < walk.last; row += walk.step) {
        Pack<V> pack = load<V>(x, walk.at(row));
#pragma unroll
        for (int j = 0; j < V; ++j) pack.v[j] = activate(act, channel.z(j, pack.v[j]));
        store<V>(y, walk.at(row), pack);
    }
}

// first = sum dz, second = sum dz factor, of each slice.
template <int V, class Channel>
__device__ inline void wgrad(const float *__restrict__ dy, const float *__restrict__ x, float *first, float *second, unsigned act,
                             const Columns &c, const Walk &walk, const Channel &channel) {
    __shared__ Sums<2 * V> room[COLUMN_THREADS / 2];
    Sums<2 * V> own = sum_rows<2 * V, 4>(walk, [&](unsigned at, Sums<2 * V> &sums) {
        const Pack<V> outer = load<V>(dy, at), inner = load<V>(x, at);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const float dz = act == 0 ? outer.v[j] : outer.v[j] * activation_slope(act, channel.z(j, inner.v[j]));
            sums.v[j] += dz;
            sums.v[V + j] += dz * channel.factor(j, inner.v[j]);
        }
    });
    join_rows(own, c.width, room);
    if (!walk.leads(c)) return;
    store<V>(first, walk.partial(c), pack_of<V>(own, 0));
    store<V>(second, walk.partial(c), pack_of<V>(own, V));
}

template <int V>
__device__ inline void train_fprop(const float *x, const float *mean, const float *var, const float *gamma, const float *beta, float *y,
                                   unsigned act, const Columns &c) {
    const Walk walk(c);
    if (walk.inside()) fprop<V>(x, y, act, walk, Trained<V>(mean, var, gamma, beta, walk.column));
}

template <int V>
__device__ inline void train_wgrad(const float *dy, const float *x, const float *mean, const float *var, const float *gamma,
                                   const float *beta, float *dbeta, float *dgamma, unsigned act, const Columns &c) {
    const Walk walk(c);
    wgrad<V>(dy, x, dbeta, dgamma, act, c, walk, Trained<V>(mean, var, gamma, beta, walk.readable()));
}

template <int V>
__device__ inline void train_dgrad(const float *__restrict__ dy, const float *__restrict__ x, const float *mean, const float *var,
                                   const float *gamma, const float *beta, const float *dbeta, const float *dgamma,
                                   float *__restrict__ dx, unsigned act, float count, const Columns &c) {
    const Walk walk(c);
    if (!walk.inside()) return;
    const Trained<V> channel(mean, var, gamma, beta, walk.column);
    // dx = outside (dz - by_mean - xhat by_deviation)
    Pack<V> outside, by_mean = load<V>(dbeta, walk.column), by_deviation = load<V>(dgamma, walk.column);
#pragma unroll
    for (int j = 0; j < V; ++j) {
        outside.v[j] = channel.gamma.v[j] * channel.inverse.v[j];
        by_mean.v[j] /= count;
        by_deviation.v[j] /= count;
    }
#pragma unroll 2
    for (unsigned row = walk.first; row < walk.last; row += walk.step) {
        const Pack<V> outer = load<V>(dy, walk.at(row)), inner = load<V>(x, walk.at(row));
        Pack<V> result;
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const float dz = outer.v[j] * activation_slope(act, channel.z(j, inner.v[j]));
            result.v[j] = outside.v[j] * (dz - (by_mean.v[j] + channel.factor(j, inner.v[j]) * by_deviation.v[j]));
        }
        store<V>(dx, walk.at(row), result);
    }
}

template <int V>
__device__ inline void folded_fprop(const float *x, const float *scale, const float *shift, float *y, unsigned act, const Columns &c) {
    const Walk walk(c);
    if (walk.inside()) fprop<V>(x, y, act, walk, Folded<V>(scale, shift, walk.column));
}

template <int V>
__device__ inline void folded_wgrad(const float *dy, const float *x, const float *scale, const float *shift, float *dshift, float *dscale,
                                    unsigned act, const Columns &c) {
    const Walk walk(c);
    wgrad<V>(dy, x, dshift, dscale, act, c, walk, Folded<V>(scale, shift, walk.readable()));
}

template <int V>
__device__ inline void folded_dgrad(const float *__restrict__ dy, const float *__restrict__ x, const float *scale, const float *shift,
                                    float *__restrict__ dx, unsigned act, const Columns &c) {
    const Walk walk(c);
    if (!walk.inside()) return;
    const Folded<V> channel(scale, shift, walk.column);
#pragma unroll 2
    for (unsigned row = walk.first; row < walk.last; row += walk.step) {
        Pack<V> outer = load<V>(dy, walk.at(row));
        const Pack<V> inner = load<V>(x, walk.at(row));
#pragma unroll
        for (int j = 0; j < V; ++j) outer.v[j] *= channel.scale.v[j] * activation_slope(act, channel.z(j, inner.v[j]));
        store<V>(dx, walk.at(row), outer);
    }
}

template <int V>
__device__ inline void linear_dgrad(const float *__restrict__ dy, const float *scale, float *__restrict__ dx, const Columns &c) {
    const Walk walk(c);
    if (!walk.inside()) return;
    const Pack<V> factor = load<V>(scale, walk.column);
#pragma unroll 4
    for (unsigned row = walk.first; row < walk.last; row += walk.step) {
        Pack<V> pack = load<V>(dy, walk.at(row));
#pragma unroll
        for (int j = 0; j < V; ++j) pack.v[j] *= factor.v[j];
        store<V>(dx, walk.at(row), pack);
    }
}

#define KERNEL extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)

#define BATCH_NORM(name, V)                                                                                                     \
    KERNEL batch_norm_moments_f32##name(const float *x, float *mean, float *var, Columns c) { moments<V>(x, mean, var, c); }    \
    KERNEL batch_norm_moments_f32_finish##name(const float *means, const float *vars, float *mean, float *var, Columns c,       \
                                               unsigned rows, unsigned slice) {                                                 \
        finish_moments<V>(means, vars, mean, var, c, rows, slice);                                                              \
    }                                                                                                                           \
    KERNEL batch_norm_fprop_f32##name(const float *x, const float *mean, const float *var, const float *gamma,                  \
                                      const float *beta, float *y, unsigned act, Columns c) {                                   \
        train_fprop<V>(x, mean, var, gamma, beta, y, act, c);                                                                   \
    }                                                                                                                           \
    KERNEL batch_norm_wgrad_f32##name(const float *dy, const float *x, const float *mean, const float *var, const float *gamma, \
                                      const float *beta, float *dbeta, float *dgamma, unsigned act, Columns c) {                \
        train_wgrad<V>(dy, x, mean, var, gamma, beta, dbeta, dgamma, act, c);                                                   \
    }                                                                                                                           \
    KERNEL batch_norm_wgrad_f32_finish##name(const float *partial, float *first, float *second, Columns c) {                    \
        const Walk walk(c);                                                                                                     \
        const Pack<V> sum = column_sum<V>(partial, walk, c);                                                                    \
        if (walk.leads(c)) store<V>(walk.group == 0 ? first : second, walk.column, sum);                                        \
    }                                                                                                                           \
    KERNEL batch_norm_dgrad_f32##name(const float *dy, const float *x, const float *mean, const float *var, const float *gamma, \
                                      const float *beta, const float *dbeta, const float *dgamma, float *dx, unsigned act,      \
                                      float count, Columns c) {                                                                 \
        train_dgrad<V>(dy, x, mean, var, gamma, beta, dbeta, dgamma, dx, act, count, c);                                        \
    }                                                                                                                           \
    KERNEL scale_shift_f32##name(const float *x, const float *scale, const float *shift, float *y, unsigned act, Columns c) {   \
        folded_fprop<V>(x, scale, shift, y, act, c);                                                                            \
    }                                                                                                                           \
    KERNEL scale_shift_dgrad_f32##name(const float *dy, const float *x, const float *scale, const float *shift, float *dx,      \
                                       unsigned act, Columns c) {                                                               \
        folded_dgrad<V>(dy, x, scale, shift, dx, act, c);                                                                       \
    }                                                                                                                           \
    KERNEL scale_shift_dgrad_f32_linear##name(const float *dy, const float *scale, float *dx, Columns c) {                      \
        linear_dgrad<V>(dy, scale, dx, c);                                                                                      \
    }                                                                                                                           \
    KERNEL scale_shift_wgrad_f32##name(const float *dy, const float *x, const float *scale, const float *shift, float *dshift,  \
                                       float *dscale, unsigned act, Columns c) {                                                \
        folded_wgrad<V>(dy, x, scale, shift, dshift, dscale, act, c);                                                           \
    }

BATCH_NORM(, 1)
BATCH_NORM(_x4, 4)

// A thread a channel.
KERNEL batch_norm_track_f32(const float *mean, const float *var, float *running_mean, float *running_var, unsigned c, float keep,
                            float take, float unbiased) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= c) return;
    running_mean[k] = keep * running_mean[k] + take * mean[k];
    running_var[k] = keep * running_var[k] + take * (unbiased * var[k]);
}

KERNEL batch_norm_fold_f32(const float *gamma, const float *beta, const float *mean, const float *var, float *scale, float *shift,
                           unsigned c) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= c) return;
    const float factor = gamma[k] * inverse_deviation(var[k]);
    scale[k] = factor;
    shift[k] = beta[k] - factor * mean[k];
}

KERNEL batch_norm_fold_dgrad_f32(const float *dscale, const float *dshift, const float *mean, const float *var, float *dgamma,
                                 unsigned c) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < c) dgamma[k] = (dscale[k] - dshift[k] * mean[k]) * inverse_deviation(var[k]);
}
