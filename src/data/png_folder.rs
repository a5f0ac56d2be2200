//! A folder of PNG files of any size, brought to squares of one size.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use png::{ColorType, Decoder, DecodingError, Limits, Transformations};

use super::resize::resize;
use super::{DataError, Dataset, ImageShape};

/// Decoded pictures are kept until they fill this many bytes; the others are decoded whenever they are read.
const CACHE_BYTES: usize = 2 << 30;
/// A picture that decodes to more than this is refused rather than allowed to take all memory.
const MAX_DECODED_BYTES: usize = 256 << 20;
/// And so is one of more pixels, because grey ones widen to colour.
const MAX_PIXELS: usize = 64 << 20;
/// The side that a set can be resized to.
const MAX_SIZE: usize = 4096;

/// The part of each picture that is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Crop {
    /// The largest centred square, then resized.
    #[default]
    Centre,
    /// The whole picture is resized until its short side fits; then training takes a square at a random place along
    /// the long side, anew each time, and everything else the centred one.
    Random,
    /// The pixels `left..right` of the rows `top..bottom`, such as 15, 40, 163, 188 for CelebA, then resized.
    Box {
        /// First column.
        left: usize,
        /// First row.
        top: usize,
        /// Column after the last.
        right: usize,
        /// Row after the last.
        bottom: usize,
    },
}

/// A picture at the size of the set; longer than that in one direction where squares are cut from it later.
struct Resized {
    height: usize,
    width: usize,
    pixels: Box<[u8]>,
}

/// The `.png` files of a folder, in the order of their names, without labels.
///
/// Files are decoded when first read. Grey, colour, palette, 16-bit and interlaced files are converted; transparent
/// pixels are laid over black; colour becomes grey by its luma (ITU-R BT.601).
pub struct PngFolder {
    files: Vec<PathBuf>,
    cache: Vec<OnceLock<Resized>>,
    cached_bytes: AtomicUsize,
    shape: ImageShape,
    crop: Crop,
}

impl PngFolder {
    /// Lists the files of `dir` (not of folders in it) for images of `size` x `size` with 1 or 3 channels.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be read or holds no PNG file, or a setting makes no sense.
    pub fn open(
        dir: &Path,
        size: usize,
        channels: usize,
        crop: Crop,
    ) -> Result<PngFolder, DataError> {
        if size == 0 || size > MAX_SIZE || !matches!(channels, 1 | 3) {
            return Err(DataError::Setting(format!(
                "images of {size}x{size} with {channels} channels; use a size of 1 to {MAX_SIZE} and 1 or 3 channels"
            )));
        }
        if let Crop::Box {
            left,
            top,
            right,
            bottom,
        } = crop
            && (left >= right || top >= bottom)
        {
            return Err(DataError::Setting(format!(
                "an empty crop box (left {left}, top {top}, right {right}, bottom {bottom}); left must be below right \
                 and top below bottom"
            )));
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(DataError::unreadable(dir))? {
            let path = entry.map_err(DataError::unreadable(dir))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension.eq_ignore_ascii_case("png"))
            {
                files.push(path);
            }
        }
        if files.is_empty() {
            return Err(DataError::EmptyFolder {
                dir: dir.to_owned(),
            });
        }
        files.sort();
        Ok(PngFolder {
            cache: files.iter().map(|_| OnceLock::new()).collect(),
            cached_bytes: AtomicUsize::new(0),
            files,
            shape: ImageShape {
                height: size,
                width: size,
                channels,
            },
            crop,
        })
    }

    /// The file of `item`.
    pub fn path(&self, item: usize) -> &Path {
        &self.files[item]
    }

    fn decode(&self, path: &Path) -> Result<Resized, DataError> {
        let picture = read_png(path)?;
        let Decoded { width, height, .. } = picture;
        let (left, top, right, bottom) = match self.crop {
            Crop::Centre => {
                let side = width.min(height);
                let (left, top) = ((width - side) / 2, (height - side) / 2);
                (left, top, left + side, top + side)
            }
            Crop::Random => (0, 0, width, height),
            Crop::Box {
                left,
                top,
                right,
                bottom,
            } => (left, top, right, bottom),
        };
        if right > width || bottom > height {
            return Err(DataError::WrongSize {
                path: path.to_owned(),
                reason: format!(
                    "{width}x{height} pixels, but the crop box reaches to column {right} and row {bottom}; change the \
                     crop or remove the file"
                ),
            });
        }
        let channels = self.shape.channels;
        let size = self.shape.width;
        let to @ [to_height, to_width] = match self.crop {
            Crop::Random => {
                let short = width.min(height);
                [height, width].map(|side| (side * size / short).max(size))
            }
            Crop::Centre | Crop::Box { .. } => [size, size],
        };
        // Between the two steps of resizing it has the rows of the one and the columns of the other.
        let largest = to_height.max(bottom - top).saturating_mul(to_width);
        if largest > MAX_PIXELS {
            return Err(DataError::WrongSize {
                path: path.to_owned(),
                reason: format!(
                    "{width}x{height} pixels become {to_width}x{to_height} where the short side is made {size}: more than this program \
                     takes on; cut the picture or remove it"
                ),
            });
        }
        let row_bytes = (right - left) * picture.channels;
        let cropped: Vec<u8> = picture
            .pixels
            .chunks_exact(width * picture.channels)
            .skip(top)
            .take(bottom - top)
            .flat_map(|row| &row[left * picture.channels..][..row_bytes])
            .copied()
            .collect();
        drop(picture.pixels);
        let colours = to_channels(&cropped, picture.channels, channels);
        drop(cropped);
        Ok(Resized {
            height: to_height,
            width: to_width,
            pixels: resize(&colours, [bottom - top, right - left], channels, to).into(),
        })
    }

    /// Writes the square of `item` whose place along the long side is `place(free)`, at most `free`.
    fn read_square(
        &self,
        item: usize,
        place: impl Fn(usize) -> usize,
        out: &mut [u8],
    ) -> Result<(), DataError> {
        let size = self.shape.width;
        let cut = |picture: &Resized, out: &mut [u8]| {
            let top = place(picture.height - size);
            let left = place(picture.width - size);
            let channels = self.shape.channels;
            let rows = picture.pixels.chunks_exact(picture.width * channels);
            for (out, row) in out.chunks_exact_mut(size * channels).zip(rows.skip(top)) {
                out.copy_from_slice(&row[left * channels..][..size * channels]);
            }
        };
        if let Some(picture) = self.cache[item].get() {
            cut(picture, out);
            return Ok(());
        }
        let picture = self.decode(&self.files[item])?;
        cut(&picture, out);
        let bytes = picture.pixels.len();
        if self.cached_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= CACHE_BYTES {
            // Where two threads decode one item at once, the second copy is dropped; both are the same.
            if self.cache[item].set(picture).is_err() {
                self.cached_bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
        } else {
            self.cached_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Dataset for PngFolder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn shape(&self) -> ImageShape {
        self.shape
    }

    fn classes(&self) -> Option<u32> {
        None
    }

    fn label(&self, _item: usize) -> Option<u32> {
        None
    }

    fn read(&self, item: usize, out: &mut [u8]) -> Result<(), DataError> {
        self.read_square(item, |free| free / 2, out)
    }

    fn read_training(&self, item: usize, draw: u32, out: &mut [u8]) -> Result<(), DataError> {
        match self.crop {
            Crop::Random => {
                let place = |free: usize| ((u64::from(draw) * (free as u64 + 1)) >> 32) as usize;
                self.read_square(item, place, out)
            }
            Crop::Centre | Crop::Box { .. } => self.read(item, out),
        }
    }
}

/// A picture with 8 bits per value.
pub(super) struct Decoded {
    pub(super) width: usize,
    pub(super) height: usize,
    /// 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha.
    pub(super) channels: usize,
    pub(super) pixels: Vec<u8>,
}

/// Decodes a PNG file; of an animation, the first picture.
pub(super) fn read_png(path: &Path) -> Result<Decoded, DataError> {
    const SIGNATURE: [u8; 4] = [0x89, b'P', b'N', b'G'];
    let mut file = BufReader::new(File::open(path).map_err(DataError::unreadable(path))?);
    let failed = |error: DecodingError| match error {
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            DataError::Damaged {
                path: path.to_owned(),
                reason: "the file is truncated".into(),
            }
        }
        DecodingError::IoError(source) => DataError::Unreadable {
            path: path.to_owned(),
            source,
        },
        DecodingError::LimitsExceeded => DataError::WrongSize {
            path: path.to_owned(),
            reason: format!(
                "it decodes to more than {} MiB or {} megapixels; shrink the picture",
                MAX_DECODED_BYTES >> 20,
                MAX_PIXELS >> 20
            ),
        },
        error => DataError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        },
    };
    let start = file.fill_buf().map_err(DataError::unreadable(path))?;
    if let Some(&start) = start.first_chunk::<4>()
        && start != SIGNATURE
    {
        return Err(DataError::WrongMagic {
            path: path.to_owned(),
            format: "a PNG file",
            expected: u32::from_be_bytes(SIGNATURE),
            found: u32::from_be_bytes(start),
            hint: "it is another kind of file under a .png name; convert or remove it",
        });
    }
    let mut decoder = Decoder::new_with_limits(
        file,
        Limits {
            bytes: MAX_DECODED_BYTES,
        },
    );
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(failed)?;
    let info = reader.info();
    // The decoder takes these two on trust, and panics where they do not fit each other.
    let colours = info.palette.as_deref().map_or(0, <[u8]>::len);
    let opacities = info.trns.as_deref().map_or(0, <[u8]>::len);
    if info.color_type == ColorType::Indexed
        && (colours == 0 || colours % 3 != 0 || colours > 3 * 256 || opacities > colours / 3)
    {
        return Err(DataError::Damaged {
            path: path.to_owned(),
            reason: format!(
                "its palette has {colours} bytes of colours and {opacities} of opacities"
            ),
        });
    }
    let bytes = reader
        .output_buffer_size()
        .filter(|&bytes| bytes <= MAX_DECODED_BYTES)
        .filter(|_| {
            let info = reader.info();
            u64::from(info.width) * u64::from(info.height) <= MAX_PIXELS as u64
        })
        .ok_or_else(|| failed(DecodingError::LimitsExceeded))?;
    let mut pixels = vec![0; bytes];
    let frame = reader.next_frame(&mut pixels).map_err(failed)?;
    pixels.truncate(frame.buffer_size());
    let channels = match frame.color_type {
        ColorType::Grayscale => 1,
        ColorType::GrayscaleAlpha => 2,
        ColorType::Rgb => 3,
        ColorType::Rgba => 4,
        ColorType::Indexed => {
            return Err(DataError::Damaged {
                path: path.to_owned(),
                reason: "its palette is missing".into(),
            });
        }
    };
    Ok(Decoded {
        width: frame.width as usize,
        height: frame.height as usize,
        channels,
        pixels,
    })
}

/// Lays transparent pixels over black and converts between grey and colour.
fn to_channels(pixels: &[u8], from: usize, to: usize) -> Vec<u8> {
    let over_black =
        |value: u8, alpha: u8| ((u32::from(value) * u32::from(alpha) + 127) / 255) as u8;
    let luma = |r: u8, g: u8, b: u8| {
        ((299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b) + 500) / 1000) as u8
    };
    let mut result = Vec::with_capacity(pixels.len() / from * to);
    for pixel in pixels.chunks_exact(from) {
        let [r, g, b] = match *pixel {
            [grey] => [grey; 3],
            [grey, alpha] => [over_black(grey, alpha); 3],
            [r, g, b, alpha] => [r, g, b].map(|value| over_black(value, alpha)),
            // `from` is 3 here.
            _ => [pixel[0], pixel[1], pixel[2]],
        };
        if to == 3 {
            result.extend([r, g, b]);
        } else {
            result.push(luma(r, g, b));
        }
    }
    result
}
