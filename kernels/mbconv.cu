// What an inverted bottleneck does between its two matrix products, which the kernels of conv2d make:
//
//   d[n, y, x, j] = post(b[j] + sum over (ky, kx) of pre(a[n, (y + ky - 2) / grow, (x + kx - 2) / grow, j]) w[ky, kx, j])
//   da[n, y', x', j] = swish'(a[n, y', x', j]) * sum over the pixels (y, x) and taps that read it of dm[n, y, x, j] w[ky, kx, j]
//
//   mbconv_fprop_f32_depthwise(a, w, b, d, extents, pre, post)       mbconv_dgrad_f32_depthwise(dm, w, a, da, extents); da may be a
//   mbconv_pack_f32(table, packed, sections, count)                  all weights in one tensor, two of them also transposed
//
// d and dm [n, h, w, c]; a and da [n, h / grow, w / grow, c], grow 1 or 2; w [5, 5, c]; b [c]. What lies outside d's extents is zero:
// of pre(a), not of a.
// Limit: bytes. 50 FLOPs and an activation per element of d, 8 bytes written and read, and (12 / 8)^2 reads of which 5 in 9 come out of L2.
// Geometry: a block makes 8x8 pixels of d in 32 channels from a 12x12 window in shared memory; a warp a row of them, a lane a channel, so
// that all accesses are of 128 bytes and the row of a window is read once for the five taps of it. Blocks: channels, then tiles.

#include "functions.cuh"

#define SIDE 8
#define CHANNELS 32
#define TAPS 5
#define WINDOW (SIDE + TAPS - 1)

// By value; `Extents` in src/ops/mbconv/cuda.rs.
struct Extents {
    int h, w, channels, grow; // of d
};

// Where a block works.
struct Place {
    int image, y, x, channel;
    bool exists; // the lane's channel
};

__device__ inline Place place(const Extents &e) {
    const int groups = (e.channels + CHANNELS - 1) / CHANNELS;
    const int across = (e.w + SIDE - 1) / SIDE, down = (e.h + SIDE - 1) / SIDE;
    const int tile = blockIdx.x / groups, channel = blockIdx.x % groups * CHANNELS + threadIdx.x % 32;
    return {tile / across / down, tile / across % down * SIDE, tile % across * SIDE, channel, channel < e.channels};
}

// Brings the window of data around a block's tile, each pixel standing for grow x grow.
__device__ inline void bring(float (&window)[WINDOW][WINDOW][CHANNELS], const float *data, const Extents &e, int grow, const Place &at,
                             unsigned activation) {
    for (int i = threadIdx.x / 32; i < WINDOW * WINDOW; i += SIDE) {
        const int y = at.y - TAPS / 2 + i / WINDOW, x = at.x - TAPS / 2 + i % WINDOW;
        float value = 0.0f;
        if (at.exists && y >= 0 && y < e.h && x >= 0 && x < e.w) {
            // data[image, y / grow, x / grow, channel]
            value = activate(activation, data[((at.image * (e.h / grow) + y / grow) * (e.w / grow) + x / grow) * e.channels + at.channel]);
        }
        window[i / WINDOW][i % WINDOW][threadIdx.x % 32] = value;
    }
    __syncthreads();
}

// sum[x] += the 5x5 window around pixel x of the warp's row; REVERSED takes the taps from the last to the first.
template <bool REVERSED>
__device__ inline void correlate(float (&sum)[SIDE], const float (&window)[WINDOW][WINDOW][CHANNELS], const float *w, const Extents &e,
                                 const Place &at) {
    const int row = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int ky = 0; ky < TAPS; ++ky) {
        float values[WINDOW];
#pragma unroll
        for (int x = 0; x < WINDOW; ++x) values[x] = window[row + ky][x][lane];
#pragma unroll
        for (int kx = 0; kx < TAPS; ++kx) {
            const int tap = REVERSED ? TAPS * TAPS - 1 - (ky * TAPS + kx) : ky * TAPS + kx;
            const float factor = at.exists ? w[tap * e.channels + at.channel] : 0.0f;
#pragma unroll
            for (int x = 0; x < SIDE; ++x) sum[x] = fmaf(values[x + kx], factor, sum[x]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(SIDE * 32)
    mbconv_fprop_f32_depthwise(const float *a, const float *w, const float *b, float *d, Extents e, unsigned pre, unsigned post) {
    __shared__ float window[WINDOW][WINDOW][CHANNELS];
    const Place at = place(e);
    bring(window, a, e, e.grow, at, pre);
    float sum[SIDE] = {};
    correlate<false>(sum, window, w, e, at);
    const int y = at.y + threadIdx.x / 32;
    if (!at.exists || y >= e.h) return;
    const float bias = b[at.channel];
#pragma unroll
    for (int i = 0; i < SIDE; ++i)
        if (at.x + i < e.w) d[((at.image * e.h + y) * e.w + at.x + i) * e.channels + at.channel] = activate(post, sum[i] + bias);
}

extern "C" __global__ void __launch_bounds__(SIDE * 32)
    mbconv_dgrad_f32_depthwise(const float *dm, const float *w, const float *a, float *da, Extents e) {
    __shared__ float window[WINDOW][WINDOW][CHANNELS];
    const Place at = place(e);
    bring(window, dm, e, 1, at, 0);
    float sum[SIDE] = {};
    correlate<true>(sum, window, w, e, at);
    const int row = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int h = e.h / e.grow, width = e.w / e.grow;
    const int y = at.y / e.grow + row;
    int count = SIDE;
    if (e.grow == 2) {
        // Four pixels of d stand on one of a: two of them in this warp, the row below in the next.
        __syncthreads();
#pragma unroll
        for (int i = 0; i < SIDE / 2; ++i) window[row][i][lane] = sum[2 * i] + sum[2 * i + 1];
        __syncthreads();
        if (row >= SIDE / 2) return;
#pragma unroll
        for (int i = 0; i < SIDE / 2; ++i) sum[i] = window[2 * row][i][lane] + window[2 * row + 1][i][lane];
        count = SIDE / 2;
    }
    if (!at.exists || y >= h) return;
#pragma unroll
    for (int i = 0; i < SIDE; ++i) {
        const int x = at.x / e.grow + i;
        if (i >= count || x >= width) continue;
        const int to = ((at.image * h + y) * width + x) * e.channels + at.channel; // da[n, y', x', j]
        da[to] = sum[i] * Swish::slope(a[to]);
    }
}

// from [rows, columns] goes transposed to packed[begin..]; with one column it is copied.
struct Section {
    const float *from;
    unsigned long long begin, rows, columns;
};

// A thread per packed element; zeros between the sections.
extern "C" __global__ void mbconv_pack_f32(const Section *table, float *packed, unsigned sections, unsigned count) {
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned s = 0;
    while (s + 1 < sections && table[s + 1].begin <= at) ++s;
    const Section section = table[s];
    const unsigned i = at - section.begin, rows = section.rows, columns = section.columns;
    packed[at] = i < rows * columns ? section.from[i % rows * columns + i / rows] : 0.0f;
}
