//! A set of square images in all four quarter turns, labelled with the turn: a task for images without labels.

use std::sync::Arc;

use super::{DataError, Dataset, ImageShape};

/// Every image of another set upright, and turned clockwise once, twice and three times; the label counts the turns.
///
/// A network that tells them apart must see what is in an image (Gidaris, Singh, Komodakis, ICLR 2018), so its features serve where a set
/// has no labels to learn from.
pub struct Turned {
    base: Arc<dyn Dataset>,
}

/// Quarter turns of a full one.
const TURNS: usize = 4;

impl Turned {
    /// # Panics
    /// For images that are not square.
    pub fn of(base: Arc<dyn Dataset>) -> Arc<dyn Dataset> {
        let shape = base.shape();
        assert_eq!(shape.height, shape.width, "images to be turned are square");
        Arc::new(Turned { base })
    }
}

impl Dataset for Turned {
    fn len(&self) -> usize {
        TURNS * self.base.len()
    }

    fn shape(&self) -> ImageShape {
        self.base.shape()
    }

    fn classes(&self) -> Option<u32> {
        Some(TURNS as u32)
    }

    fn label(&self, item: usize) -> Option<u32> {
        Some((item % TURNS) as u32)
    }

    fn read(&self, item: usize, out: &mut [u8]) -> Result<(), DataError> {
        let ImageShape {
            width: side,
            channels,
            ..
        } = self.shape();
        let mut upright = vec![0; out.len()];
        self.base.read(item / TURNS, &mut upright)?;
        let last = side - 1;
        for (place, to) in out.chunks_exact_mut(channels).enumerate() {
            let (y, x) = (place / side, place % side);
            let (from_y, from_x) = match item % TURNS {
                0 => (y, x),
                1 => (last - x, y),
                2 => (last - y, last - x),
                _ => (x, last - y),
            };
            to.copy_from_slice(&upright[(from_y * side + from_x) * channels..][..channels]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Pixels;

    #[test]
    fn images_turn_clockwise_and_say_how_often() {
        let shape = ImageShape {
            height: 2,
            width: 2,
            channels: 3,
        };
        // One pixel a row: a b / c d, each of three channels.
        let pixels: Vec<u8> = (0..2 * 12).collect();
        let set = Turned::of(Arc::new(Pixels::new(shape, pixels, None)));
        assert_eq!((set.len(), set.classes()), (8, Some(4)));
        let first = |item: usize| {
            let mut out = vec![0; 12];
            set.read(item, &mut out).unwrap();
            assert_eq!(set.label(item), Some(item as u32 % 4));
            // A pixel moves as a whole.
            assert!(out.chunks(3).all(|p| p[1] == p[0] + 1 && p[2] == p[0] + 2));
            [out[0], out[3], out[6], out[9]]
        };
        assert_eq!(first(0), [0, 3, 6, 9]);
        assert_eq!(first(1), [6, 0, 9, 3]);
        assert_eq!(first(2), [9, 6, 3, 0]);
        assert_eq!(first(3), [3, 9, 0, 6]);
        assert_eq!(first(6), [21, 18, 15, 12]);
    }
}
