//! MNIST and Fashion-MNIST: the IDX format, gzipped or not.
//!
//! Image files: big-endian u32 magic 0x803, count, rows, columns, then one byte per pixel. Label files: magic 0x801,
//! count, then one byte per label.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::{DataError, ImageShape, Pixels};

const IMAGE_MAGIC: u32 = 0x803;
const LABEL_MAGIC: u32 = 0x801;
const CLASSES: u32 = 10;
/// More than any published set of this format needs; keeps a damaged header from asking for all memory.
const MAX_BYTES: u64 = 1 << 31;

/// Which pair of files.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Train,
    Test,
}

impl Part {
    fn prefix(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Test => "t10k",
        }
    }
}

/// Reads the image and label file of one part, found in `dir` under their usual names.
pub(super) fn read_part(dir: &Path, part: Part) -> Result<Pixels, DataError> {
    let image_path = find(dir, part, "images", "idx3")?;
    let label_path = find(dir, part, "labels", "idx1")?;
    let (shape, pixels) = read_images(&image_path)?;
    let images = pixels.len() / shape.values();
    let mut file = IdxFile::open(&label_path)?;
    let count = file.label_count()?;
    if u64::from(count) != images as u64 {
        return Err(DataError::CountMismatch {
            image_path,
            images,
            label_path,
            labels: count as usize,
        });
    }
    let labels = file.labels(count)?;
    Ok(Pixels::new(shape, pixels, Some((labels, CLASSES))))
}

fn find(dir: &Path, part: Part, what: &str, kind: &str) -> Result<PathBuf, DataError> {
    // Tells a folder that does not exist from one that lacks the file.
    std::fs::read_dir(dir).map_err(DataError::unreadable(dir))?;
    let prefix = part.prefix();
    let names = [
        format!("{prefix}-{what}-{kind}-ubyte.gz"),
        format!("{prefix}-{what}-{kind}-ubyte"),
        format!("{prefix}-{what}.{kind}-ubyte"),
    ];
    names
        .iter()
        .map(|name| dir.join(name))
        .find(|path| path.exists())
        .ok_or_else(|| DataError::Missing {
            dir: dir.to_owned(),
            set: "MNIST or Fashion-MNIST",
            expected: names.join(", "),
        })
}

fn read_images(path: &Path) -> Result<(ImageShape, Vec<u8>), DataError> {
    let mut file = IdxFile::open(path)?;
    let hint = "this looks like a label file; are the file names swapped?";
    let [count, height, width] =
        file.header(IMAGE_MAGIC, "an IDX image file", LABEL_MAGIC, hint)?;
    let bytes = u64::from(count)
        .checked_mul(u64::from(height))
        .and_then(|n| n.checked_mul(u64::from(width)));
    match bytes {
        Some(1..=MAX_BYTES) => {}
        _ => {
            return Err(DataError::WrongSize {
                path: path.to_owned(),
                reason: format!(
                    "its header announces {count} images of {height}x{width}; expected 1 byte to 2 GiB in all, such as \
                     60000 of 28x28"
                ),
            });
        }
    }
    let shape = ImageShape {
        height: height as usize,
        width: width as usize,
        channels: 1,
    };
    let pixels = file.body(u64::from(count) * shape.values() as u64, "pixels")?;
    Ok((shape, pixels))
}

/// An open file, decompressed as it is read if it starts like a gzip file.
struct IdxFile<'a> {
    path: &'a Path,
    reader: Box<dyn Read>,
}

impl<'a> IdxFile<'a> {
    fn open(path: &'a Path) -> Result<IdxFile<'a>, DataError> {
        let mut reader = BufReader::new(File::open(path).map_err(DataError::unreadable(path))?);
        let start = reader.fill_buf().map_err(DataError::unreadable(path))?;
        let gzip = start.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn Read> = if gzip {
            Box::new(MultiGzDecoder::new(reader))
        } else {
            Box::new(reader)
        };
        Ok(IdxFile { path, reader })
    }

    /// Reads the header of a label file.
    fn label_count(&mut self) -> Result<u32, DataError> {
        let hint = "this looks like an image file; are the file names swapped?";
        let [count] = self.header(LABEL_MAGIC, "an IDX label file", IMAGE_MAGIC, hint)?;
        Ok(count)
    }

    /// Reads what follows it.
    fn labels(&mut self, count: u32) -> Result<Vec<u8>, DataError> {
        let labels = self.body(u64::from(count), "labels")?;
        match labels.iter().position(|&label| u32::from(label) >= CLASSES) {
            Some(item) => Err(DataError::WrongLabel {
                path: self.path.to_owned(),
                item,
                label: u32::from(labels[item]),
                classes: CLASSES,
            }),
            None => Ok(labels),
        }
    }

    /// Reads the magic number and `N` dimensions. `other` is the magic number of the sister format, which `hint` is for.
    fn header<const N: usize>(
        &mut self,
        magic: u32,
        format: &'static str,
        other: u32,
        hint: &'static str,
    ) -> Result<[u32; N], DataError> {
        let bytes = self.read_up_to(4)?;
        let found = self.complete(bytes, 4, "header")?;
        let found = u32::from_be_bytes([found[0], found[1], found[2], found[3]]);
        if found != magic {
            let hint = if found == other {
                hint
            } else {
                "it is another kind of file, or damaged"
            };
            return Err(DataError::WrongMagic {
                path: self.path.to_owned(),
                format,
                expected: magic,
                found,
                hint,
            });
        }
        let bytes = self.read_up_to(4 * N as u64)?;
        let bytes = self.complete(bytes, 4 * N as u64, "header")?;
        let mut dimensions = [0; N];
        for (dimension, bytes) in dimensions.iter_mut().zip(bytes.chunks_exact(4)) {
            *dimension = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Ok(dimensions)
    }

    /// Reads exactly `expected` bytes, after which the file must end.
    fn body(&mut self, expected: u64, what: &'static str) -> Result<Vec<u8>, DataError> {
        let bytes = self.read_up_to(expected)?;
        let bytes = self.complete(bytes, expected, what)?;
        match self.reader.read(&mut [0]) {
            Ok(0) => Ok(bytes),
            Ok(_) => Err(DataError::WrongSize {
                path: self.path.to_owned(),
                reason: format!(
                    "more than the {expected} bytes of {what} that its header announces; fetch it again"
                ),
            }),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(DataError::Damaged {
                path: self.path.to_owned(),
                reason: "its gzip trailer is missing".into(),
            }),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Grows with what is really there, so a header cannot make us allocate more than the file holds.
    fn read_up_to(&mut self, limit: u64) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::new();
        match self.reader.by_ref().take(limit).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            // Compressed data end early: what came so far is all there is, and `complete` tells.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(bytes),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: std::io::Error) -> DataError {
        match error.kind() {
            ErrorKind::InvalidData | ErrorKind::InvalidInput => DataError::Damaged {
                path: self.path.to_owned(),
                reason: error.to_string(),
            },
            _ => DataError::Unreadable {
                path: self.path.to_owned(),
                source: error,
            },
        }
    }

    fn complete(
        &self,
        bytes: Vec<u8>,
        expected: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, DataError> {
        let found = bytes.len() as u64;
        if found < expected {
            return Err(DataError::Truncated {
                path: self.path.to_owned(),
                what,
                expected,
                found,
            });
        }
        Ok(bytes)
    }
}
