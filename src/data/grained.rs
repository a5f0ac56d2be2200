//! A set with a fine grain on every image.

use std::sync::Arc;

use super::{DataError, Dataset, ImageShape};
use crate::philox::{self, streams};

/// The images of another set, normal noise added to every value.
///
/// Areas of one exact value, like the background of MNIST, are degenerate for a density: the VAE's decoder shrinks to a spike
/// there, and an energy network learns to see that the spike has a width and nothing else. The grain, of a deviation that
/// the decoder can have (at least 0.005 of the range), takes that away. Values are drawn together so that three
/// deviations fit below black and above white. An item has one grain, the same whenever it is read.
pub struct Grained {
    base: Arc<dyn Dataset>,
    deviation: f32,
    seed: u64,
    part: u32,
}

impl Grained {
    /// Adds noise of `deviation` grey levels, chosen by `seed` and by the number of the part; with none, the set itself is
    /// returned.
    pub fn around(
        base: Arc<dyn Dataset>,
        deviation: f64,
        seed: u64,
        part: u32,
    ) -> Arc<dyn Dataset> {
        if deviation == 0.0 {
            return base;
        }
        Arc::new(Grained {
            base,
            deviation: deviation as f32,
            seed,
            part,
        })
    }

    fn grain(&self, item: usize, image: &mut [u8]) {
        let mut noise = vec![0.0; image.len()];
        let first = (item * image.len()) as u64;
        philox::fill_normal(&mut noise, self.seed, streams::DATA_GRAIN, self.part, first);
        let black = 3.0 * self.deviation;
        let contrast = (255.0 - 2.0 * black) / 255.0;
        for (value, noise) in image.iter_mut().zip(&noise) {
            let grained = black + contrast * f32::from(*value) + self.deviation * noise;
            // The conversion saturates.
            *value = (grained + 0.5) as u8;
        }
    }
}

impl Dataset for Grained {
    fn len(&self) -> usize {
        self.base.len()
    }

    fn shape(&self) -> ImageShape {
        self.base.shape()
    }

    fn classes(&self) -> Option<u32> {
        self.base.classes()
    }

    fn label(&self, item: usize) -> Option<u32> {
        self.base.label(item)
    }

    fn read(&self, item: usize, out: &mut [u8]) -> Result<(), DataError> {
        self.base.read(item, out)?;
        self.grain(item, out);
        Ok(())
    }

    fn read_training(&self, item: usize, draw: u32, out: &mut [u8]) -> Result<(), DataError> {
        self.base.read_training(item, draw, out)?;
        self.grain(item, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Pixels;

    const SIDE: usize = 100;

    fn flat(value: u8, deviation: f64, part: u32) -> Vec<u8> {
        let shape = ImageShape {
            height: SIDE,
            width: SIDE,
            channels: 1,
        };
        let base = Arc::new(Pixels::new(shape, vec![value; 2 * SIDE * SIDE], None));
        let set = Grained::around(base, deviation, 7, part);
        let (mut out, mut again) = (vec![0; SIDE * SIDE], vec![0; SIDE * SIDE]);
        set.read(1, &mut out).unwrap();
        set.read_training(1, 99, &mut again).unwrap();
        assert_eq!(out, again);
        out
    }

    #[test]
    fn grain_has_its_deviation_about_the_value_drawn_together() {
        for (value, mean) in [(0, 24.0), (255, 231.0), (100, 24.0 + 207.0 / 255.0 * 100.0)] {
            let out = flat(value, 8.0, 0);
            let n = out.len() as f64;
            let found = out.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let variance = out
                .iter()
                .map(|&v| (f64::from(v) - found).powi(2))
                .sum::<f64>()
                / n;
            // Five standard errors of 10,000 draws, and 1/12 for the rounding.
            assert!((found - mean).abs() < 0.4, "mean {found} of {value}");
            assert!(
                (variance - 64.08).abs() < 4.6,
                "variance {variance} of {value}"
            );
        }
    }

    #[test]
    fn parts_have_their_own_grain_and_none_leaves_the_set() {
        assert_ne!(flat(50, 4.0, 0), flat(50, 4.0, 1));
        assert_eq!(flat(50, 0.0, 0), vec![50; SIDE * SIDE]);
    }
}
