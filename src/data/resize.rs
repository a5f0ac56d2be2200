//! Resampling of 8-bit pictures with a triangle filter.
//!
//! Each output pixel is the weighted mean of the input under a triangle centred on it, as wide as two output pixels when
//! shrinking (area-like, so nothing aliases) and as two input pixels when enlarging (plain bilinear interpolation). This
//! is what the published data pipelines call antialiased bilinear.

/// For one output coordinate: the first input coordinate under the filter and the weights from there, with sum 1.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

fn taps(input: usize, output: usize) -> Vec<Taps> {
    let ratio = input as f64 / output as f64;
    let support = ratio.max(1.0);
    (0..output)
        .map(|position| {
            let centre = (position as f64 + 0.5) * ratio;
            let first = (centre - support).floor().max(0.0) as usize;
            let end = ((centre + support).ceil() as usize).min(input);
            let weight = |at: usize| (1.0 - ((at as f64 + 0.5 - centre) / support).abs()).max(0.0);
            let sum: f64 = (first..end).map(weight).sum();
            Taps {
                first,
                weights: (first..end).map(|at| (weight(at) / sum) as f32).collect(),
            }
        })
        .collect()
}

/// Resamples `pixels`, `[height, width, channels]`, to `[to_height, to_width, channels]`.
pub(super) fn resize(
    pixels: &[u8],
    [height, width]: [usize; 2],
    channels: usize,
    [to_height, to_width]: [usize; 2],
) -> Vec<u8> {
    debug_assert_eq!(pixels.len(), height * width * channels);
    if (height, width) == (to_height, to_width) {
        return pixels.to_vec();
    }
    // Rows first: narrow[y, x', :] for every input row.
    let columns = taps(width, to_width);
    let mut narrow = vec![0.0f32; height * to_width * channels];
    for (line, out_line) in pixels
        .chunks_exact(width * channels)
        .zip(narrow.chunks_exact_mut(to_width * channels))
    {
        for (taps, out) in columns.iter().zip(out_line.chunks_exact_mut(channels)) {
            for (pixel, &weight) in line[taps.first * channels..]
                .chunks_exact(channels)
                .zip(&taps.weights)
            {
                for (out, &value) in out.iter_mut().zip(pixel) {
                    *out += weight * f32::from(value);
                }
            }
        }
    }
    let mut result = Vec::with_capacity(to_height * to_width * channels);
    let mut sums = vec![0.0f32; to_width * channels];
    for taps in taps(height, to_height) {
        sums.fill(0.0);
        for (line, &weight) in narrow[taps.first * to_width * channels..]
            .chunks_exact(to_width * channels)
            .zip(&taps.weights)
        {
            for (sum, &value) in sums.iter_mut().zip(line) {
                *sum += weight * value;
            }
        }
        result.extend(sums.iter().map(|&sum| (sum + 0.5) as u8));
    }
    result
}
