//! The built-in procedural sets: ten classes of glyphs, drawn as strokes, alone or stacked in three colour channels.
//!
//! An item is a pure function of `(seed, part, item)`. Each glyph is bent, sheared, scaled, rotated and shifted at
//! random and drawn with a stroke of random thickness and softness, so a class is a cloud with about a dozen degrees of
//! freedom, and a stack has 1,000 modes known by construction. Ink and paper keep clear of black and white and carry a fine
//! grain, as photographs do. Only IEEE operations are used (a rotation is given by its
//! tangent), so every machine draws the same bytes.

use super::stacked::{CHANNEL_CLASSES, STACKED_CLASSES};
use super::{DataError, Dataset, ImageShape};
use crate::philox::{self, streams};

/// Side of the images.
pub const GLYPH_SIZE: usize = 16;
/// Classes of a single glyph.
pub const GLYPH_CLASSES: u32 = CHANNEL_CLASSES;

const PIXELS: usize = GLYPH_SIZE * GLYPH_SIZE;
/// Random words set aside for one glyph.
const WORDS: u64 = 16;
/// Blocks of four words set aside for one item: one for the label, then three glyphs.
const BLOCKS: u64 = 16;
/// Brightness where there is no ink, and where there is nothing else.
const PAPER: f32 = 0.2;
const INK: f32 = 0.8;
/// Deviation of the grain. Without it the paper would be the same to the last bit everywhere: a density would reward nothing but
/// that, and an energy network would look at nothing else.
const GRAIN: f32 = 0.04;
/// Half the side of an undistorted glyph in pixels.
const RADIUS: f32 = 4.6;

type Point = (f32, f32);

/// cos 30 degrees; the rings are twelve-sided.
const C: f32 = 0.866_025_4;

/// One list of polylines per class in [-1, 1]^2, x to the right, y down.
const SHAPES: [&[&[Point]]; GLYPH_CLASSES as usize] = [
    // 0: ring
    &[&[
        (1.0, 0.0),
        (C, 0.5),
        (0.5, C),
        (0.0, 1.0),
        (-0.5, C),
        (-C, 0.5),
        (-1.0, 0.0),
        (-C, -0.5),
        (-0.5, -C),
        (0.0, -1.0),
        (0.5, -C),
        (C, -0.5),
        (1.0, 0.0),
    ]],
    // 1: bar
    &[&[(0.0, -1.0), (0.0, 1.0)]],
    // 2: plus
    &[&[(0.0, -1.0), (0.0, 1.0)], &[(-1.0, 0.0), (1.0, 0.0)]],
    // 3: saltire
    &[&[(-0.85, -0.9), (0.85, 0.9)], &[(-0.85, 0.9), (0.85, -0.9)]],
    // 4: triangle
    &[&[(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8), (0.0, -1.0)]],
    // 5: H
    &[
        &[(-0.8, -1.0), (-0.8, 1.0)],
        &[(0.8, -1.0), (0.8, 1.0)],
        &[(-0.8, 0.0), (0.8, 0.0)],
    ],
    // 6: Z
    &[&[(-0.85, -0.95), (0.85, -0.95), (-0.85, 0.95), (0.85, 0.95)]],
    // 7: L
    &[&[(-0.6, -1.0), (-0.6, 0.9), (0.8, 0.9)]],
    // 8: two bars, lying
    &[&[(-0.95, -0.5), (0.95, -0.5)], &[(-0.95, 0.5), (0.95, 0.5)]],
    // 9: arc, open to the right
    &[&[
        (0.7, -C),
        (0.1, -1.0),
        (-0.4, -C),
        (-0.8, -0.5),
        (-0.95, 0.0),
        (-0.8, 0.5),
        (-0.4, C),
        (0.1, 1.0),
        (0.7, C),
    ]],
];

/// A procedural set of 16x16 images.
pub struct Glyphs {
    channels: usize,
    seed: u64,
    part: u32,
    items: usize,
}

impl Glyphs {
    /// `channels` 1 (classes 0 to 9) or 3 (a glyph in each of red, green, blue; label `100 red + 10 green + blue`, all
    /// 1,000 equally likely). `part` tells training, validation and test set of one seed apart.
    ///
    /// # Panics
    ///
    /// For another number of channels.
    pub fn new(channels: usize, seed: u64, part: u32, items: usize) -> Glyphs {
        assert!(channels == 1 || channels == 3, "{channels} channels");
        Glyphs {
            channels,
            seed,
            part,
            items,
        }
    }

    /// The class of the glyph in each channel; in a one-channel set the first counts.
    fn channel_classes(&self, item: usize) -> [u32; 3] {
        assert!(item < self.items, "item {item} of {}", self.items);
        let words = philox::words(
            self.seed,
            streams::DATA_GLYPHS,
            self.part,
            item as u64 * BLOCKS,
        );
        [0, 1, 2].map(|channel: usize| {
            ((u64::from(words[channel]) * u64::from(GLYPH_CLASSES)) >> 32) as u32
        })
    }
}

impl Dataset for Glyphs {
    fn len(&self) -> usize {
        self.items
    }

    fn shape(&self) -> ImageShape {
        ImageShape {
            height: GLYPH_SIZE,
            width: GLYPH_SIZE,
            channels: self.channels,
        }
    }

    fn classes(&self) -> Option<u32> {
        Some(if self.channels == 1 {
            GLYPH_CLASSES
        } else {
            STACKED_CLASSES
        })
    }

    fn label(&self, item: usize) -> Option<u32> {
        let classes = self.channel_classes(item);
        Some(
            classes[..self.channels]
                .iter()
                .fold(0, |label, class| label * GLYPH_CLASSES + class),
        )
    }

    fn read(&self, item: usize, out: &mut [u8]) -> Result<(), DataError> {
        let classes = self.channel_classes(item);
        for (channel, &class) in classes[..self.channels].iter().enumerate() {
            let first_word = item as u64 * BLOCKS * 4 + 4 + channel as u64 * WORDS;
            let mut uniform = [0.0; WORDS as usize];
            philox::fill_uniform(
                &mut uniform,
                self.seed,
                streams::DATA_GLYPHS,
                self.part,
                first_word,
            );
            let plane = draw(class, &uniform.map(|u| 2.0 * u - 1.0));
            let mut grain = [0.0; PIXELS];
            philox::fill_normal(
                &mut grain,
                self.seed,
                streams::DATA_GRAIN,
                self.part,
                ((item * 3 + channel) * PIXELS) as u64,
            );
            for ((pixel, coverage), grain) in
                out.chunks_exact_mut(self.channels).zip(&plane).zip(&grain)
            {
                let value = PAPER + (INK - PAPER) * coverage + GRAIN * grain;
                pixel[channel] = (255.0 * value.clamp(0.0, 1.0) + 0.5) as u8;
            }
        }
        Ok(())
    }
}

/// Draws one glyph; `variation` holds numbers in (-1, 1).
fn draw(class: u32, variation: &[f32; WORDS as usize]) -> [f32; PIXELS] {
    let v = variation;
    // Rotation up to 15 degrees by its tangent; scale, aspect and shear of the size that handwriting shows.
    let tangent = 0.27 * v[0];
    let cos = 1.0 / (1.0 + tangent * tangent).sqrt();
    let sin = tangent * cos;
    let scale = RADIUS * (1.0 + 0.15 * v[1]);
    let (scale_x, scale_y) = (scale * (1.0 + 0.1 * v[2]), scale * (1.0 - 0.1 * v[2]));
    let shear = 0.2 * v[3];
    let centre = 0.5 * GLYPH_SIZE as f32;
    let (centre_x, centre_y) = (centre + 1.2 * v[4], centre + 1.2 * v[5]);
    let half_width = 0.85 + 0.3 * v[6];
    let softness = 1.0 + 0.4 * v[7];
    let bend = [0.12 * v[8], 0.12 * v[9], 0.12 * v[10], 0.12 * v[11]];

    let place = |&(x, y): &Point| -> Point {
        let (x, y) = (
            x + bend[0] * y * y + bend[1] * x * y,
            y + bend[2] * x * x + bend[3] * x * y,
        );
        let (x, y) = (scale_x * (x + shear * y), scale_y * y);
        (centre_x + cos * x - sin * y, centre_y + sin * x + cos * y)
    };

    // Squared distance of each pixel centre to the nearest stroke.
    let mut distance2 = [f32::MAX; PIXELS];
    for polyline in SHAPES[class as usize] {
        for ends in polyline.windows(2) {
            let (from, to) = (place(&ends[0]), place(&ends[1]));
            let (dx, dy) = (to.0 - from.0, to.1 - from.1);
            let inverse = 1.0 / (dx * dx + dy * dy);
            for (row, distances) in distance2.chunks_exact_mut(GLYPH_SIZE).enumerate() {
                let y = row as f32 + 0.5 - from.1;
                for (column, distance) in distances.iter_mut().enumerate() {
                    let x = column as f32 + 0.5 - from.0;
                    let along = ((x * dx + y * dy) * inverse).clamp(0.0, 1.0);
                    let (rx, ry) = (x - along * dx, y - along * dy);
                    *distance = distance.min(rx * rx + ry * ry);
                }
            }
        }
    }
    // An edge of width `softness` around the stroke's border is the anti-aliasing.
    distance2.map(|distance2| ((half_width - distance2.sqrt()) / softness + 0.5).clamp(0.0, 1.0))
}
