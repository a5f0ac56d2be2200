//! So many items from all over a set.

use std::sync::Arc;

use super::{DataError, Dataset, ImageShape};

/// Items at even distances in another set: files are often sorted, and the first half of MNIST's test images is cleaner than the second.
pub struct Spread {
    base: Arc<dyn Dataset>,
    items: usize,
}

impl Spread {
    /// `items` of a set's items, in their order; where the set has no more than that, the set itself is returned.
    pub fn over(base: Arc<dyn Dataset>, items: usize) -> Arc<dyn Dataset> {
        match items < base.len() {
            true => Arc::new(Spread { base, items }),
            false => base,
        }
    }

    fn item(&self, item: usize) -> usize {
        item * self.base.len() / self.items
    }
}

impl Dataset for Spread {
    fn len(&self) -> usize {
        self.items
    }

    fn shape(&self) -> ImageShape {
        self.base.shape()
    }

    fn classes(&self) -> Option<u32> {
        self.base.classes()
    }

    fn label(&self, item: usize) -> Option<u32> {
        self.base.label(self.item(item))
    }

    fn read(&self, item: usize, out: &mut [u8]) -> Result<(), DataError> {
        self.base.read(self.item(item), out)
    }

    fn read_training(&self, item: usize, draw: u32, out: &mut [u8]) -> Result<(), DataError> {
        self.base.read_training(self.item(item), draw, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Glyphs;

    #[test]
    fn items_stand_at_even_distances_and_a_set_too_small_is_itself() {
        let base: Arc<dyn Dataset> = Arc::new(Glyphs::new(1, 7, 1, 10));
        let few = Spread::over(base.clone(), 4);
        let read = |set: &Arc<dyn Dataset>, item: usize| {
            let mut image = vec![0; set.shape().values()];
            set.read(item, &mut image).unwrap();
            (image, set.label(item))
        };
        assert_eq!((few.len(), few.shape()), (4, base.shape()));
        for (item, from) in [0, 2, 5, 7].into_iter().enumerate() {
            assert_eq!(read(&few, item), read(&base, from));
        }
        assert_eq!(Spread::over(base, 10).len(), 10);
    }
}
