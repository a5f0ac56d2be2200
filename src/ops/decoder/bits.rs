//! Reducing 8-bit images to fewer bits.

/// A value in [0, 1] with `bits` bits: `floor(255 x / 2^(8 - bits)) / (2^bits - 1)` in `f32`; itself for 8 bits.
pub fn reduce_bits(x: f32, bits: u32) -> f32 {
    if bits == 8 {
        return x;
    }
    let step = (8.0 - bits as f32).exp2();
    (x * 255.0 / step).floor() / ((bits as f32).exp2() - 1.0)
}

#[cfg(test)]
mod tests {
    use super::reduce_bits;

    #[test]
    fn the_ends_stay_and_levels_are_even() {
        for bits in 1..=8 {
            assert_eq!((reduce_bits(0.0, bits), reduce_bits(1.0, bits)), (0.0, 1.0));
        }
        assert_eq!(reduce_bits(127.0 / 255.0, 1), 0.0);
        assert_eq!(reduce_bits(128.0 / 255.0, 1), 1.0);
        let five = [0.0, 7.0, 8.0, 255.0].map(|level| reduce_bits(level / 255.0, 5));
        assert_eq!(five, [0.0, 0.0, 1.0 / 31.0, 1.0]);
    }
}
