// The depthwise window of the inverted bottleneck on a tile of 8x16 pixels in shared memory (mbconv_bf16.cu, mbconv_sm90a.cu).
#pragma once

#include "mbconv.cuh"

// A tile, and the window on it.
#define ROWS 8
#define COLUMNS 16
#define TILE (ROWS * COLUMNS)
#define TAPS 5
#define HALO (TAPS / 2)
// The tile with all that its windows reach, zero where that is not in the image: no window asks where the image ends.
#define PITCH (COLUMNS + 2 * HALO)
#define PADDED ((ROWS + 2 * HALO) * PITCH)
// What a thread makes of a window's results.
#define DOWN 4
#define ACROSS 2

// What a slice takes of dw, b_dw and, forward, b1.
struct Window {
    float taps[TAPS * TAPS][SLICE], expanded[SLICE], mixed[SLICE];

    __device__ void copy_expansion(const float *b1, int first) { copy_rows<SLICE / 4>(expanded, SLICE / 4, b1 + first, 0, 1, 1); }
    __device__ void copy_taps(const float *dw, int hidden, int first) {
        copy_rows<SLICE / 4>(taps, SLICE / 4, dw + first, hidden / 4, TAPS * TAPS, TAPS * TAPS);
    }
    __device__ void copy_mixing(const float *b_dw, int first) { copy_rows<SLICE / 4>(mixed, SLICE / 4, b_dw + first, 0, 1, 1); }
};

// Where a thread works in the window: two neighbouring channels and DOWN x ACROSS pixels of the tile. The two places of a warp are four
// columns apart, so that its words lie on different banks.
struct Spot {
    int channel, row, column;

    __device__ Spot() {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        channel = lane % 16 * 2;
        row = warp / 4 * DOWN;
        column = (warp % 4 / 2 * 4 + warp % 2 + lane / 16 * 2) * ACROSS;
    }
    // In a tensor of the tile; in one of the tile padded, the corner of the window.
    __device__ int at(int i) const { return (row + i / ACROSS) * COLUMNS + column + i % ACROSS; }
    __device__ int corner() const { return row * PITCH + column; }
};

// sum[i] += the 5x5 window of the two channels around pixel i of the spot. REVERSED takes the taps from the last to the first, as the
// gradient does.
template <bool REVERSED>
__device__ inline void correlate(float2 (&sum)[DOWN * ACROSS], const bf16 *padded, const Window &window, const Spot &spot) {
    const bf16 *from = padded + spot.corner() * (SLICE + PAD) + spot.channel;
    const float *taps = &window.taps[0][spot.channel];
    float2 before[TAPS], tap[TAPS];
#pragma unroll
    for (int x = 0; x < TAPS + ACROSS - 1; ++x) {
        // Column x of the values meets the taps of column x for the first pixel of a line, of the column before for the second.
#pragma unroll
        for (int ky = 0; ky < TAPS; ++ky) {
            before[ky] = tap[ky];
            const int at = REVERSED ? TAPS * TAPS - 1 - (ky * TAPS + x) : ky * TAPS + x;
            if (x < TAPS) tap[ky] = *reinterpret_cast<const float2 *>(taps + at * SLICE);
        }
#pragma unroll
        for (int y = 0; y < DOWN + TAPS - 1; ++y) {
            const float2 value = unpack(word_at(from + (y * PITCH + x) * (SLICE + PAD)));
#pragma unroll
            for (int ky = 0; ky < TAPS; ++ky) {
                const int r = y - ky;
                if (r < 0 || r >= DOWN) continue;
                float2 &one = sum[r * ACROSS], &two = sum[r * ACROSS + 1];
                if (x < TAPS) one = make_float2(fmaf(value.x, tap[ky].x, one.x), fmaf(value.y, tap[ky].y, one.y));
                if (x > 0) two = make_float2(fmaf(value.x, before[ky].x, two.x), fmaf(value.y, before[ky].y, two.y));
            }
        }
    }
}
