// Depthwise convolution, each channel with its own window:
//
//   y[n, oy, ox, c] = sum over (ky, kx) of x[n, oy s - p + ky, ox s - p + kx, c] w[ky, kx, c]
//
//   dwconv_fprop_f32(x, w, y, window)          dwconv_fprop_f32_<k>x<k>[_x4](x, w, y, window, tiles)
//   dwconv_dgrad_f32(dy, w, dx, window)        dwconv_dgrad_f32_<k>x<k>[_x4](dy, w, dx, window, tiles)
//   dwconv_wgrad_f32(x, dy, partial, window, slice)        dwconv_wgrad_f32_<k>x<k>[_x4](x, dy, partial, window, tiles, slice)
//   dwconv_wgrad_f32_finish[_x4](partial, dw, columns)     the sum of the slices
//
// x [n, h, w, c], w [kh, kw, c], y [n, oh, ow, c], zero padding. The plain kernels take any window and stride and are the oracle of the
// others, which are for stride 1 and 3x3 or 5x5; _x4 copies four channels at once, for a multiple of four.
//
// Limit: bytes. 8 an element against 2 k^2 FLOPs (50 for 5x5: 6 FLOPs a byte, half of what an H200 could do), so x has to come from
// device memory once, and from shared memory seldom. Geometry of the tiled kernels: a lane a channel, a warp a strip of 4 columns and
// 8 rows, a block up to 4 strips side by side. The block's input with its halo, [8 + k - 1, 4 strips + k - 1, 32], goes to shared memory; a
// thread walks down its strip with k rows of sums in registers, so one output takes (8 + k - 1) (4 + k - 1) / 32 = 3 reads of shared
// memory for 25 products. dgrad of stride 1 is the same with the window turned round; wgrad keeps the window's sums in registers
// instead, over all tiles of a slice.

#include "async.cuh"
#include "columns.cuh"

#define LANES 32
#define STRIP 4
#define STRIPS 4
#define ROWS 8

struct Window {
    unsigned n, h, w, c;
    unsigned oh, ow;
    unsigned kh, kw;
    unsigned stride;
    int pad;
};

// ---- Plain: a thread an element.

extern "C" __global__ void dwconv_fprop_f32(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, Window g) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= g.n * g.oh * g.ow * g.c) return;
    const unsigned c = i % g.c, pixel = i / g.c;
    const unsigned ox = pixel % g.ow, oy = pixel / g.ow % g.oh, n = pixel / g.ow / g.oh;
    float sum = 0.0f;
    for (unsigned ky = 0; ky < g.kh; ++ky) {
        const int iy = static_cast<int>(oy * g.stride + ky) - g.pad;
        if (iy < 0 || iy >= static_cast<int>(g.h)) continue;
        for (unsigned kx = 0; kx < g.kw; ++kx) {
            const int ix = static_cast<int>(ox * g.stride + kx) - g.pad;
            if (ix < 0 || ix >= static_cast<int>(g.w)) continue;
            sum += x[((n * g.h + iy) * g.w + ix) * g.c + c] * w[(ky * g.kw + kx) * g.c + c];
        }
    }
    y[i] = sum;
}

// The outputs that read input `at` lie at (at + pad - tap) / stride, where that is a whole number below `extent`.
__device__ inline bool reader(unsigned at, unsigned tap, const Window &g, unsigned extent, unsigned &o) {
    const int distance = static_cast<int>(at - tap) + g.pad;
    o = static_cast<unsigned>(distance) / g.stride;
    return distance >= 0 && o * g.stride == static_cast<unsigned>(distance) && o < extent;
}

extern "C" __global__ void dwconv_dgrad_f32(const float *__restrict__ dy, const float *__restrict__ w, float *__restrict__ dx, Window g) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= g.n * g.h * g.w * g.c) return;
    const unsigned c = i % g.c, pixel = i / g.c;
    const unsigned ix = pixel % g.w, iy = pixel / g.w % g.h, n = pixel / g.w / g.h;
    float sum = 0.0f;
    unsigned oy, ox;
    for (unsigned ky = 0; ky < g.kh; ++ky) {
        if (!reader(iy, ky, g, g.oh, oy)) continue;
        for (unsigned kx = 0; kx < g.kw; ++kx) {
            if (!reader(ix, kx, g, g.ow, ox)) continue;
            sum += dy[((n * g.oh + oy) * g.ow + ox) * g.c + c] * w[(ky * g.kw + kx) * g.c + c];
        }
    }
    dx[i] = sum;
}

// partial[slice, ky, kx, c], blockIdx = (tap and tile of channels, slice of the pixels of y). Threads (channel, pixel) as in columns.cuh.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    dwconv_wgrad_f32(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ partial, Window g, unsigned slice) {
    __shared__ Sums<1> room[COLUMN_THREADS / 2];
    const unsigned tiles = (g.c + LANES - 1) / LANES;
    const unsigned tap = blockIdx.x / tiles, c = blockIdx.x % tiles * LANES + threadIdx.x % LANES;
    const unsigned ky = tap / g.kw, kx = tap % g.kw, last = min(blockIdx.y * slice + slice, g.n * g.oh * g.ow);
    Sums<1> own = {};
    for (unsigned pixel = blockIdx.y * slice + threadIdx.x / LANES; c < g.c && pixel < last; pixel += blockDim.x / LANES) {
        const unsigned ox = pixel % g.ow, oy = pixel / g.ow % g.oh, n = pixel / g.ow / g.oh;
        const int iy = static_cast<int>(oy * g.stride + ky) - g.pad, ix = static_cast<int>(ox * g.stride + kx) - g.pad;
        if (iy < 0 || iy >= static_cast<int>(g.h) || ix < 0 || ix >= static_cast<int>(g.w)) continue;
        own.v[0] += x[((n * g.h + iy) * g.w + ix) * g.c + c] * dy[pixel * g.c + c];
    }
    join_rows(own, LANES, room);
    if (threadIdx.x < LANES && c < g.c) partial[(blockIdx.y * g.kh * g.kw + tap) * g.c + c] = own.v[0];
}

// ---- Tiled.

// How many blocks cover an image and the channels.
struct Tiles {
    unsigned down, across, channels;
};

// Where a tile lies: its first output and channel.
struct Tile {
    unsigned n, oy, ox, c;

    // `number` counts tiles of images, rows and columns, innermost last; `channels` counts those of channels.
    __device__ Tile(unsigned number, unsigned channels, const Tiles &t, unsigned width) {
        ox = number % t.across * width;
        oy = number / t.across % t.down * ROWS;
        n = number / t.across / t.down;
        c = channels * LANES;
    }
};

// in[r, j, lane] = x[n, oy - p + r, ox - p + j, c + lane] for rows r below `rows` and columns j below `columns`, zero outside x.
template <int V>
__device__ inline void fill(float *in, const float *__restrict__ x, const Tile &tile, const Window &g, unsigned rows, unsigned columns) {
    // Lanes that share a pixel, V channels each.
    constexpr unsigned SHARE = LANES / V;
    const unsigned lane = threadIdx.x % SHARE * V, c = tile.c + lane;
    for (unsigned r = 0; r < rows; ++r) {
        // A negative row or column is a large unsigned number, which is not inside either.
        const unsigned iy = tile.oy + r - g.pad;
        const bool row_inside = iy < g.h && c < g.c;
        const float *line = x + static_cast<size_t>(row_inside ? (tile.n * g.h + iy) * g.w * g.c + c : 0);
        float *to = in + r * columns * LANES + lane;
        for (unsigned j = threadIdx.x / SHARE; j < columns; j += blockDim.x / SHARE) {
            const unsigned ix = tile.ox + j - g.pad;
            const bool inside = row_inside && ix < g.w;
            copy_async<4 * V>(to + j * LANES, line + (inside ? ix * g.c : 0), inside);
        }
    }
    copy_async_commit();
}

// y from x and w for stride 1; TURNED takes the window from its end.
template <int K, bool TURNED, int V>
__device__ inline void convolve(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, const Window &g,
                                const Tiles &t) {
    extern __shared__ float in[];
    const unsigned width = blockDim.x / LANES * STRIP, columns = width + K - 1;
    const Tile tile(blockIdx.x / t.channels, blockIdx.x % t.channels, t, width);
    const unsigned rows = min(ROWS, g.oh - tile.oy);
    fill<V>(in, x, tile, g, rows + K - 1, columns);

    const unsigned lane = threadIdx.x % LANES, c = tile.c + lane, strip = threadIdx.x / LANES * STRIP;
    float window[K * K];
#pragma unroll
    for (int tap = 0; tap < K * K; ++tap) window[tap] = c < g.c ? w[(TURNED ? K * K - 1 - tap : tap) * g.c + c] : 0.0f;
    copy_async_wait<0>();
    __syncthreads();

    // sums[r % K]: row r of the strip, complete once input row r + K - 1 has been added.
    float sums[K][STRIP];
    const float *from = in + strip * LANES + lane;
    const unsigned ox = tile.ox + strip, step = g.ow * g.c;
    float *to = y + (((tile.n * g.oh + tile.oy) * g.ow + ox) * g.c + c);
#pragma unroll
    for (int r = 0; r < ROWS + K - 1; ++r) {
        if (r >= rows + K - 1) break;
        float line[STRIP + K - 1];
#pragma unroll
        for (int j = 0; j < STRIP + K - 1; ++j) line[j] = from[j * LANES];
        from += columns * LANES;
#pragma unroll
        for (int j = 0; j < STRIP; ++j) sums[r % K][j] = 0.0f;
        // Output row r - ky takes input row r with row ky of the window.
#pragma unroll
        for (int ky = 0; ky < K; ++ky) {
            if (r < ky || r - ky >= ROWS) continue;
#pragma unroll
            for (int j = 0; j < STRIP; ++j)
#pragma unroll
                for (int kx = 0; kx < K; ++kx) sums[(r - ky) % K][j] += line[j + kx] * window[ky * K + kx];
        }
        if (r < K - 1) continue;
#pragma unroll
        for (int j = 0; j < STRIP; ++j)
            if (c < g.c && ox + j < g.ow) to[j * g.c] = sums[(r - (K - 1)) % K][j];
        to += step;
    }
}

// partial[slice, ky, kx, c] over the tiles of a slice, for stride 1; blockIdx = (tile of channels, slice).
template <int K, int V>
__device__ inline void correlate(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ partial, const Window &g,
                                 const Tiles &t, unsigned slice) {
    extern __shared__ float in[];
    const unsigned strips = blockDim.x / LANES, width = strips * STRIP, columns = width + K - 1;
    const unsigned warp = threadIdx.x / LANES, lane = threadIdx.x % LANES, c = blockIdx.x * LANES + lane;
    const unsigned last = min(blockIdx.y * slice + slice, g.n * t.down * t.across);
    float sums[K * K];
#pragma unroll
    for (int tap = 0; tap < K * K; ++tap) sums[tap] = 0.0f;

    for (unsigned number = blockIdx.y * slice; number < last; ++number) {
        const Tile tile(number, blockIdx.x, t, width);
        const unsigned rows = min(ROWS, g.oh - tile.oy), ox = tile.ox + warp * STRIP;
        __syncthreads();
        fill<V>(in, x, tile, g, rows + K - 1, columns);
        copy_async_wait<0>();
        __syncthreads();

        // outer[r % K]: row r of dy, which meets input rows r .. r + K.
        float outer[K][STRIP];
        const float *from = in + warp * STRIP * LANES + lane;
        const float *above = dy + (((tile.n * g.oh + tile.oy) * g.ow + ox) * g.c + c);
#pragma unroll
        for (int r = 0; r < ROWS + K - 1; ++r) {
            if (r >= rows + K - 1) break;
#pragma unroll
            for (int j = 0; j < STRIP; ++j) {
                const bool inside = r < rows && ox + j < g.ow && c < g.c;
                outer[r % K][j] = inside ? above[j * g.c] : 0.0f;
            }
            above += g.ow * g.c;
            float line[STRIP + K - 1];
#pragma unroll
            for (int j = 0; j < STRIP + K - 1; ++j) line[j] = from[j * LANES];
            from += columns * LANES;
#pragma unroll
            for (int ky = 0; ky < K; ++ky) {
                if (r < ky) continue;
#pragma unroll
                for (int kx = 0; kx < K; ++kx)
#pragma unroll
                    for (int j = 0; j < STRIP; ++j) sums[ky * K + kx] += line[j + kx] * outer[(r - ky) % K][j];
            }
        }
    }

    // The strips' sums, added up in their order.
    __syncthreads();
#pragma unroll
    for (int tap = 0; tap < K * K; ++tap) in[(warp * K * K + tap) * LANES + lane] = sums[tap];
    __syncthreads();
    for (unsigned tap = warp; tap < K * K && c < g.c; tap += strips) {
        float sum = 0.0f;
        for (unsigned strip = 0; strip < strips; ++strip) sum += in[(strip * K * K + tap) * LANES + lane];
        partial[(blockIdx.y * K * K + tap) * g.c + c] = sum;
    }
}

#define TILED extern "C" __global__ void __launch_bounds__(LANES *STRIPS)

#define DWCONV(name, K, V)                                                                                                      \
    TILED dwconv_fprop_f32_##name(const float *x, const float *w, float *y, Window g, Tiles t) {                                \
        convolve<K, false, V>(x, w, y, g, t);                                                                                   \
    }                                                                                                                           \
    TILED dwconv_dgrad_f32_##name(const float *dy, const float *w, float *dx, Window g, Tiles t) {                              \
        convolve<K, true, V>(dy, w, dx, g, t);                                                                                  \
    }                                                                                                                           \
    TILED dwconv_wgrad_f32_##name(const float *x, const float *dy, float *partial, Window g, Tiles t, unsigned slice) {         \
        correlate<K, V>(x, dy, partial, g, t, slice);                                                                           \
    }

DWCONV(3x3, 3, 1)
DWCONV(3x3_x4, 3, 4)
DWCONV(5x5, 5, 1)
DWCONV(5x5_x4, 5, 4)

extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    dwconv_wgrad_f32_finish(const float *partial, float *dw, Columns c) {
    column_sums<1>(partial, dw, c);
}

extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    dwconv_wgrad_f32_finish_x4(const float *partial, float *dw, Columns c) {
    column_sums<4>(partial, dw, c);
}
