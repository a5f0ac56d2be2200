// The tile of a block at one resolution, and the depthwise window on it.
#pragma once

#include "mbconv.cuh"

#define ROWS 8
#define COLUMNS 16
#define TILE (ROWS * COLUMNS)
// Taps along each axis, and how far they reach.
#define TAPS 5
#define HALO (TAPS / 2)
