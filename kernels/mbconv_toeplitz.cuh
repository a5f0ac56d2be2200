// The depthwise 5x5 window on tensor cores: for each channel a product of its pixels with a matrix of its taps.
//
// Pixels of a channel lie in shared memory as words of two bf16: two rows of one column, the upper one in the low half. A pair of rows is
// PITCH words, a column each; a patch, 4 columns of a pair of rows, sees 8 columns of 3 pairs, 48 numbers. So
//
//   c[16 patches][8 pixels] += a[16 patches][48] b[48][8]
//
// are three mma for 128 pixels; a is the pixels as they lie, and b[k][n] the tap that pixel n of a patch has for number k of what the patch
// sees, or zero: 25 of 48. Step s of three takes pair s of the window: numbers 0 to 7 are its columns 0 to 3, 8 to 15 its columns 4 to 7. Pixel
// n of a patch is row n % 2 of column n / 2. What the rows 0 to 7 of a need in step s + 1, the rows 8 to 15 need in step s, because these are
// the patches one pair below: each word is read once for both.
#pragma once

#include "mbconv_tile.cuh"

// Pairs of rows of a tile with the halo, and words between those: a window starts on 16 bytes, and patches two pairs apart lie on different
// banks.
#define PAIRS (ROWS / 2 + HALO)
#define PITCH 24
// Words of a channel's taps: for each column of them, and for a column of zeros, what the upper and the lower pixel of a patch take in steps
// 0 and 1, then the same for step 2.
#define TABLE (3 * LAST_STEP)
#define LAST_STEP (2 * (TAPS + 1))

// Word i of the table of a channel whose taps are tap(row, column).
template <class Tap>
__device__ inline unsigned table_word(int i, Tap tap) {
    const bool last = i >= 2 * LAST_STEP;
    const int step = last ? 2 : i % 2, entry = last ? i - 2 * LAST_STEP : i / 2, column = entry / 2, row = 2 * step - entry % 2;
    const auto or_zero = [&](int y) { return y >= 0 && y < TAPS && column < TAPS ? tap(y, column) : 0.0f; };
    return round_bf16(or_zero(row), or_zero(row + 1));
}

// Where a lane finds what it needs of a channel: its entries of the table, and its row of a, in words from the first pixel that a window sees.
struct WindowLane {
    int low, high, patch;

    __device__ WindowLane() {
        const int lane = threadIdx.x % 32, column = lane / 8, row = lane / 4 % 2;
        const auto entry = [&](int tap) { return 2 * (tap >= 0 && tap < TAPS ? tap : TAPS) + row; };
        low = entry(lane % 4 - column);
        high = entry(lane % 4 + 4 - column);
        // Matrices of a fragment: patches 0 to 7 and 8 to 15, columns 0 to 3 and 4 to 7. Patches 0 to 7 are those of pairs 0 and 2.
        patch = (lane % 8 / 4 * 2 + lane / 8 % 2) * PITCH + (lane % 4 + lane / 16) * 4;
    }
};

// A lane's results are both rows of one column, c[0] and c[1] of pair 2 (lane / 16), c[2] and c[3] of the pair below.
__device__ inline int window_column() { return threadIdx.x % 16; }
__device__ inline int window_pair() { return threadIdx.x % 32 / 16 * 2; }
// Of pixel `at` of a tile whose words lie in the order of lanes, first c[0] and c[1], then c[2] and c[3].
__device__ inline int window_x(int at) { return at / 2 % COLUMNS; }
__device__ inline int window_y(int at) { return (at / 32 % 2 * 2 + at / 64) * 2 + at % 2; }

// c += the window of a channel on a tile. `pixels` is the address of the lane's row of a in shared memory.
__device__ inline void correlate(float (&c)[4], unsigned pixels, const unsigned *table, const WindowLane &lane) {
    unsigned first[4], last[4];
    load_matrices(first, pixels);
    load_matrices(last, pixels + 2 * PITCH * 4);
    const uint2 low = *reinterpret_cast<const uint2 *>(table + 2 * lane.low), high = *reinterpret_cast<const uint2 *>(table + 2 * lane.high);
    const unsigned last_low = table[2 * LAST_STEP + lane.low], last_high = table[2 * LAST_STEP + lane.high];
    const unsigned middle[4] = {first[1], last[0], first[3], last[2]};
    mma_bf16(c, first, low.x, high.x);
    mma_bf16(c, middle, low.y, high.y);
    mma_bf16(c, last, last_low, last_high);
}
