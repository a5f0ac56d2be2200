// The depthwise window of the inverted bottleneck on shared memory, for kernels whose tile has 128 pixels (mbconv_bf16.cu, mbconv_sm90a.cu).
#pragma once

#include "mbconv.cuh"

// Pixels of a tile: rows a multiple of 8 and columns 8 or 16.
#define TILE 128
#define TAPS 5
#define HALO (TAPS / 2)

// The place in the tile of a pixel of a region around it; -1 outside, and beyond the region.
__device__ inline int inside_tile(const Cell &c, const Tile &tile, const Region &r, int pixel) {
    const int row = r.top + pixel / r.width - tile.y, column = r.left + pixel % r.width - tile.x;
    const bool inside = pixel < r.pixels() && row >= 0 && row < c.rows && column >= 0 && column < c.columns;
    return inside ? row * c.columns + column : -1;
}

// What a slice of S hidden channels takes of dw, b_dw and, forward, b1.
template <int S>
struct Window {
    float taps[TAPS * TAPS][S], expanded[S], mixed[S];

    __device__ void copy_expansion(const float *b1, int first) { copy_rows(expanded, S / 4, b1 + first, 0, 1, 1, S / 4, S / 4); }
    __device__ void copy_mixing(const float *dw, const float *b_dw, int hidden, int first) {
        copy_rows(taps, S / 4, dw + first, hidden / 4, TAPS * TAPS, TAPS * TAPS, S / 4, S / 4);
        copy_rows(mixed, S / 4, b_dw + first, 0, 1, 1, S / 4, S / 4);
    }
};

// sum[r] = the 5x5 window around pixel (y + r, x) of the two channels, r < R; what is not in the region is zero. REVERSED takes the taps
// from the last to the first, as the gradient does.
template <int R, int S, bool REVERSED>
__device__ inline void correlate(float2 (&sum)[R], const bf16 *data, const Region &region, const Window<S> &window, int channel, int y, int x) {
#pragma unroll 1
    for (int kx = 0; kx < TAPS; ++kx) {
        const int column = x + kx - HALO;
        if (column < region.left || column >= region.left + region.width) continue;
        float2 taps[TAPS];
#pragma unroll
        for (int ky = 0; ky < TAPS; ++ky) {
            const int tap = REVERSED ? TAPS * TAPS - 1 - (ky * TAPS + kx) : ky * TAPS + kx;
            taps[ky] = *reinterpret_cast<const float2 *>(&window.taps[tap][channel]);
        }
        const bf16 *from = data + region.at(y - HALO, column) * (S + PAD) + channel;
#pragma unroll
        for (int i = 0; i < R + TAPS - 1; ++i) {
            const int row = y + i - HALO;
            const bool inside = row >= region.top && row < region.top + region.height;
            const float2 value = unpack(inside ? word_at(from + i * region.width * (S + PAD)) : 0);
#pragma unroll
            for (int ky = 0; ky < TAPS; ++ky) {
                const int r = i - ky;
                if (r < 0 || r >= R) continue;
                sum[r].x = fmaf(value.x, taps[ky].x, sum[r].x);
                sum[r].y = fmaf(value.y, taps[ky].y, sum[r].y);
            }
        }
    }
}
