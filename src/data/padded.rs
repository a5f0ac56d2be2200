//! A set with a black border around every image.

use std::sync::Arc;

use super::{DataError, Dataset, ImageShape};

/// The images of another set, padded with zeros on all four sides: 2 makes 28x28 into 32x32.
pub struct Padded {
    base: Arc<dyn Dataset>,
    pad: usize,
}

impl Padded {
    /// Pads by `pad` pixels on each side; by none, the set itself is returned.
    pub fn around(base: Arc<dyn Dataset>, pad: usize) -> Arc<dyn Dataset> {
        match pad {
            0 => base,
            pad => Arc::new(Padded { base, pad }),
        }
    }

    /// Writes an image of the base set with its border to `out`.
    fn place(&self, image: &[u8], out: &mut [u8]) {
        let inner = self.base.shape();
        let (row, padded_row) = (
            inner.width * inner.channels,
            self.shape().width * inner.channels,
        );
        out.fill(0);
        for (y, pixels) in image.chunks_exact(row).enumerate() {
            let start = (y + self.pad) * padded_row + self.pad * inner.channels;
            out[start..start + row].copy_from_slice(pixels);
        }
    }
}

impl Dataset for Padded {
    fn len(&self) -> usize {
        self.base.len()
    }

    fn shape(&self) -> ImageShape {
        let ImageShape {
            height,
            width,
            channels,
        } = self.base.shape();
        ImageShape {
            height: height + 2 * self.pad,
            width: width + 2 * self.pad,
            channels,
        }
    }

    fn classes(&self) -> Option<u32> {
        self.base.classes()
    }

    fn label(&self, item: usize) -> Option<u32> {
        self.base.label(item)
    }

    fn read(&self, item: usize, out: &mut [u8]) -> Result<(), DataError> {
        let mut image = vec![0; self.base.shape().values()];
        self.base.read(item, &mut image)?;
        self.place(&image, out);
        Ok(())
    }

    fn read_training(&self, item: usize, draw: u32, out: &mut [u8]) -> Result<(), DataError> {
        let mut image = vec![0; self.base.shape().values()];
        self.base.read_training(item, draw, &mut image)?;
        self.place(&image, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Glyphs;

    #[test]
    fn the_border_is_black_and_the_rest_is_the_image() {
        let base: Arc<dyn Dataset> = Arc::new(Glyphs::new(3, 1, 0, 4));
        let padded = Padded::around(base.clone(), 2);
        assert_eq!((padded.shape().height, padded.shape().width), (20, 20));
        let (mut inner, mut outer) = (vec![0; 16 * 16 * 3], vec![9; 20 * 20 * 3]);
        base.read(1, &mut inner).unwrap();
        padded.read(1, &mut outer).unwrap();
        for y in 0..20 {
            for x in 0..20 {
                for c in 0..3 {
                    let inside = (2..18).contains(&y) && (2..18).contains(&x);
                    let want = if inside {
                        inner[((y - 2) * 16 + x - 2) * 3 + c]
                    } else {
                        0
                    };
                    assert_eq!(outer[(y * 20 + x) * 3 + c], want);
                }
            }
        }
    }
}
