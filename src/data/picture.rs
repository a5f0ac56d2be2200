//! Pictures to look at: grids of images, panels with captions, written as PNG.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use super::{DataError, ImageShape, font};

/// How values become grey levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contrast {
    /// [0, 1] becomes 0 to 255; what lies outside is clamped.
    #[default]
    Clamp,
    /// Each image's own smallest and largest value become 0 and 255: `(x - min) / max(max - min, 1e-5)`, as the
    /// published samples are saved. Not faithful: it hides a wrong range.
    MinMaxPerImage,
}

impl Contrast {
    /// Converts one image; values that are no number become 0.
    pub fn to_bytes(self, image: &[f32]) -> Vec<u8> {
        let (low, range) = match self {
            Contrast::Clamp => (0.0, 1.0),
            Contrast::MinMaxPerImage => {
                let low = image.iter().copied().fold(f32::INFINITY, f32::min);
                let high = image.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                (low, (high - low).max(1e-5))
            }
        };
        image
            .iter()
            .map(|value| (((value - low) / range).clamp(0.0, 1.0) * 255.0 + 0.5) as u8)
            .collect()
    }
}

/// An 8-bit colour picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    /// Red, green, blue; row by row.
    pixels: Vec<[u8; 3]>,
}

/// How a grid is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridOptions {
    /// Images per row, at least 1.
    pub columns: usize,
    /// Side of the square that each pixel of an image becomes, at least 1.
    pub upscale: usize,
    /// Pixels around and between images, after upscaling.
    pub padding: usize,
    /// Values to grey levels.
    pub contrast: Contrast,
}

impl Default for GridOptions {
    /// Eight in a row, each pixel doubled, clamped to `[0, 1]`.
    fn default() -> Self {
        GridOptions {
            columns: 8,
            upscale: 2,
            padding: 2,
            contrast: Contrast::Clamp,
        }
    }
}

const BACKGROUND: [u8; 3] = [40, 40, 40];
const INK: [u8; 3] = [236, 236, 236];

impl Picture {
    /// A picture of one colour.
    pub fn new(width: usize, height: usize, colour: [u8; 3]) -> Picture {
        Picture {
            width,
            height,
            pixels: vec![colour; width * height],
        }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The colour of a pixel.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        self.pixels[y * self.width + x]
    }

    /// Lays `images`, f32 `[n, height, width, channels]` with 1 or 3 channels, out row by row.
    ///
    /// # Panics
    ///
    /// Where `images` is not a whole number of images of `shape`, or `columns` or `upscale` is 0.
    pub fn grid(images: &[f32], shape: ImageShape, options: &GridOptions) -> Picture {
        let GridOptions {
            columns,
            upscale,
            padding,
            contrast,
        } = *options;
        assert!(columns > 0 && upscale > 0, "{options:?}");
        assert!(matches!(shape.channels, 1 | 3), "{shape:?}");
        assert_eq!(
            images.len() % shape.values(),
            0,
            "values of whole images of {shape:?}"
        );
        let count = images.len() / shape.values();
        let columns = columns.min(count.max(1));
        let rows = count.div_ceil(columns);
        let (pitch_x, pitch_y) = (
            shape.width * upscale + padding,
            shape.height * upscale + padding,
        );
        let mut picture = Picture::new(
            columns * pitch_x + padding,
            rows * pitch_y + padding,
            BACKGROUND,
        );
        for (index, image) in images.chunks_exact(shape.values()).enumerate() {
            let bytes = contrast.to_bytes(image);
            let (left, top) = (
                padding + index % columns * pitch_x,
                padding + index / columns * pitch_y,
            );
            for y in 0..shape.height * upscale {
                for x in 0..shape.width * upscale {
                    let start = (y / upscale * shape.width + x / upscale) * shape.channels;
                    let pixel = &bytes[start..start + shape.channels];
                    // One channel is repeated, three are taken in order.
                    let colour = [pixel[0], pixel[pixel.len() / 2], pixel[pixel.len() - 1]];
                    picture.pixels[(top + y) * picture.width + left + x] = colour;
                }
            }
        }
        picture
    }

    /// Puts pictures side by side, top edges level, each under its caption of one line.
    pub fn panels(panels: &[(&str, Picture)]) -> Picture {
        const SCALE: usize = 2;
        const MARGIN: usize = 8;
        const HEAD: usize = MARGIN + font::HEIGHT * SCALE + MARGIN / 2;
        let text_width = |text: &str| text.chars().count() * (font::WIDTH + 1) * SCALE;
        let panel_width =
            |(caption, picture): &(&str, Picture)| picture.width.max(text_width(caption));
        let width = panels
            .iter()
            .map(|panel| panel_width(panel) + MARGIN)
            .sum::<usize>()
            + MARGIN;
        let height = HEAD
            + panels
                .iter()
                .map(|(_, picture)| picture.height)
                .max()
                .unwrap_or(0)
            + MARGIN;
        let mut whole = Picture::new(width, height, BACKGROUND);
        let mut left = MARGIN;
        for panel in panels {
            let (caption, picture) = panel;
            whole.write_text(caption, left, MARGIN, SCALE);
            for (y, row) in picture
                .pixels
                .chunks_exact(picture.width.max(1))
                .enumerate()
            {
                let start = (HEAD + y) * whole.width + left;
                whole.pixels[start..start + row.len()].copy_from_slice(row);
            }
            left += panel_width(panel) + MARGIN;
        }
        whole
    }

    /// Writes one line of text with its upper left corner at (`left`, `top`); what lies outside is cut off.
    pub fn write_text(&mut self, text: &str, left: usize, top: usize, scale: usize) {
        for (index, character) in text.chars().enumerate() {
            let left = left + index * (font::WIDTH + 1) * scale;
            for y in 0..font::HEIGHT * scale {
                for x in 0..font::WIDTH * scale {
                    let (column, row) = (left + x, top + y);
                    if column < self.width
                        && row < self.height
                        && font::ink(character, x / scale, y / scale)
                    {
                        self.pixels[row * self.width + column] = INK;
                    }
                }
            }
        }
    }

    /// Writes a PNG file, grey where no pixel has colour. The file appears whole or not at all: it is written under a
    /// temporary name in the same folder and renamed.
    ///
    /// # Errors
    ///
    /// Where the picture is empty or the file cannot be written.
    pub fn write_png(&self, path: &Path) -> Result<(), DataError> {
        if self.pixels.is_empty() {
            return Err(DataError::Setting(format!(
                "an empty picture for {}; give it at least one image",
                path.display()
            )));
        }
        let mut name = std::ffi::OsString::from(crate::checkpoint::TEMPORARY);
        name.push(path.file_name().unwrap_or_default());
        let temporary = path.with_file_name(name);
        let result = self
            .encode_to(&temporary)
            .and_then(|()| fs::rename(&temporary, path));
        if result.is_err() {
            // Best effort: the error that matters is the first one.
            let _ = fs::remove_file(&temporary);
        }
        result.map_err(DataError::unwritable(path))
    }

    fn encode_to(&self, path: &Path) -> std::io::Result<()> {
        let file = File::create(path)?;
        self.encode(BufWriter::new(&file))?;
        file.sync_all()
    }

    /// Writes the bytes of a PNG file.
    pub(super) fn encode(&self, mut file: impl Write) -> std::io::Result<()> {
        let grey = self.pixels.iter().all(|&[r, g, b]| r == g && g == b);
        let too_large = |_| std::io::Error::other("a side of 2^32 pixels or more");
        let mut encoder = png::Encoder::new(
            &mut file,
            u32::try_from(self.width).map_err(too_large)?,
            u32::try_from(self.height).map_err(too_large)?,
        );
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_color(if grey {
            png::ColorType::Grayscale
        } else {
            png::ColorType::Rgb
        });
        let mut writer = encoder.write_header()?;
        if grey {
            let levels: Vec<u8> = self.pixels.iter().map(|pixel| pixel[0]).collect();
            writer.write_image_data(&levels)?;
        } else {
            writer.write_image_data(self.pixels.as_flattened())?;
        }
        writer.finish()?;
        file.flush()
    }
}
