// The divergence guard: one number of many tensors, a verdict on such numbers, copies of states and the way back.
//
//   guard_measure_f32_norm(items, partial)              sum of w a^2
//   guard_measure_f32_distance(items, partial)          sum of w (a - b)^2
//   guard_measure_f32_clamped(items, partial)           sum of w where a is not strictly inside (0, 1)
//   guard_measure_f32_finish(partial, y, n, root)       y = the sum of n partial sums, or its root
//   guard_judge_f32(values, t, state, apply, z, settings)
//     for each watched number v, ln v or itself, with median m and median absolute deviation d of its past:
//     z = (v - m) / max(1.4826 d, floor + relative |m|); see src/ops/guard/judge.rs for what follows from it
//   guard_keep_f32(items)                               to = from
//   guard_put_back_f32(items, apply)                    to = from if *apply is 0
//
// Limit: bytes, 4 an element that is read (copies: 8). The verdict is on a few hundred numbers: its time is that of a launch.
// Geometry: a block an item, which is a piece of one tensor; one block for the last sum and for the verdict. Sums are in f64, each in an
// order that depends on the geometry alone. The verdict has a thread for each past value, which finds its rank by counting.

#include "reduce.cuh"

// A piece of a tensor; a row of the table that src/ops/guard/cuda.rs makes.
struct Item {
    const float *a, *b;
    unsigned long long count;
    double weight;
};

struct Copy {
    const float *from;
    float *to;
    unsigned long long count;
};

struct Square {
    __device__ double operator()(const Item &item, unsigned i) const {
        const double a = item.a[i];
        return a * a;
    }
};

struct SquaredDifference {
    __device__ double operator()(const Item &item, unsigned i) const {
        const double d = item.a[i] - item.b[i];
        return d * d;
    }
};

struct Outside {
    __device__ double operator()(const Item &item, unsigned i) const {
        return item.a[i] > 0.0f && item.a[i] < 1.0f ? 0.0 : 1.0;
    }
};

template <class Term>
__device__ inline void measure(const Item *items, double *partial, const Term &term) {
    __shared__ double room[32];
    const Item item = items[blockIdx.x];
    const unsigned count = item.count;
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) sum += term(item, i);
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) partial[blockIdx.x] = item.weight * sum;
}

extern "C" __global__ void guard_measure_f32_norm(const Item *items, double *partial) { measure(items, partial, Square()); }

extern "C" __global__ void guard_measure_f32_distance(const Item *items, double *partial) {
    measure(items, partial, SquaredDifference());
}

extern "C" __global__ void guard_measure_f32_clamped(const Item *items, double *partial) { measure(items, partial, Outside()); }

extern "C" __global__ void guard_measure_f32_finish(const double *partial, float *y, unsigned n, unsigned root) {
    __shared__ double room[32];
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) *y = static_cast<float>(root ? sqrt(sum) : sum);
}

// Numbers that can be watched, and past values of each: one for each thread.
#define MAX_WATCHES 7
#define MAX_WINDOW 256
// Of the state: values in the window, the next one's place, bad steps in succession, tripped.
#define HEAD 4

struct Watch {
    float floor, relative, limit;
    unsigned log, both;
};

struct Settings {
    Watch watches[MAX_WATCHES];
    unsigned count, window, warmup, patience, records;
    float threshold;
};

// The median of the first n values that the threads hold: the mean of the two middle ones where there are two. All threads call.
__device__ inline float median(float own, unsigned n, float *room, float *middle) {
    __syncthreads();
    room[threadIdx.x] = own;
    __syncthreads();
    if (threadIdx.x < n) {
        unsigned rank = 0;
        for (unsigned i = 0; i < n; ++i) rank += room[i] < own || (room[i] == own && i < threadIdx.x);
        if (rank == (n - 1) / 2) middle[0] = own;
        if (rank == n / 2) middle[1] = own;
    }
    __syncthreads();
    return 0.5f * (middle[0] + middle[1]);
}

extern "C" __global__ void __launch_bounds__(MAX_WINDOW)
    guard_judge_f32(const float *const *values, const float *t, float *state, float *apply, float *z, Settings settings) {
    __shared__ float room[MAX_WINDOW], middle[2];
    const bool first = threadIdx.x == 0;
    const unsigned count = settings.count;
    const bool tripped = state[3] != 0.0f;
    const unsigned seen = state[0], next = state[1];
    // Nobody may read the state after the first thread has changed it.
    __syncthreads();
    if (first) {
        *apply = 0.0f;
        for (unsigned i = 0; i < count; ++i) z[i] = 0.0f;
    }
    // The same in every thread: nobody waits at a barrier alone.
    if (tripped) return;
    float *const windows = state + HEAD + settings.records * (2 + 2 * count);
    float *const record = state + HEAD + static_cast<unsigned>(*t) % settings.records * (2 + 2 * count);
    unsigned complaints = 0;
    for (unsigned i = 0; i < count; ++i) {
        const Watch watch = settings.watches[i];
        const float raw = *values[i];
        const bool finite = fabsf(raw) <= 3.402823466e38f;
        float value = 0.0f, deviation = 0.0f;
        if (finite) {
            if (fabsf(raw) > watch.limit) complaints |= 1u << (16 + i);
            value = watch.log ? logf(fmaxf(raw, 1e-30f)) : raw;
            if (settings.threshold > 0.0f && seen >= settings.warmup) {
                const float past = threadIdx.x < seen ? windows[i * settings.window + threadIdx.x] : 0.0f;
                const float m = median(past, seen, room, middle);
                const float d = median(fabsf(past - m), seen, room, middle);
                const float scale = fmaxf(1.4826f * d, fmaf(watch.relative, fabsf(m), watch.floor));
                deviation = fminf(fmaxf((value - m) / scale, -1e6f), 1e6f);
                if ((watch.both ? fabsf(deviation) : deviation) > settings.threshold) complaints |= 1u << i;
            }
        } else {
            complaints |= 1u << (8 + i);
        }
        if (first) {
            z[i] = deviation;
            record[2 + i] = finite ? raw : 0.0f;
            record[2 + count + i] = deviation;
        }
    }
    if (!first) return;
    record[0] = *t;
    record[1] = complaints;
    if (complaints) {
        state[2] += 1.0f;
        state[3] = state[2] >= settings.patience ? 1.0f : 0.0f;
        return;
    }
    *apply = 1.0f;
    state[2] = 0.0f;
    for (unsigned i = 0; i < count; ++i) {
        const float raw = *values[i];
        windows[i * settings.window + next] = settings.watches[i].log ? logf(fmaxf(raw, 1e-30f)) : raw;
    }
    state[0] = min(seen + 1, settings.window);
    state[1] = (next + 1) % settings.window;
}

__device__ inline void copy(const Copy &item) {
    for (unsigned i = threadIdx.x; i < item.count; i += blockDim.x) item.to[i] = item.from[i];
}

extern "C" __global__ void guard_keep_f32(const Copy *items) { copy(items[blockIdx.x]); }

extern "C" __global__ void guard_put_back_f32(const Copy *items, const float *apply) {
    if (*apply == 0.0f) copy(items[blockIdx.x]);
}
