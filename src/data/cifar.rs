//! CIFAR-10 in its binary layout: records of one label byte and 1,024 red, 1,024 green, 1,024 blue bytes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{DataError, ImageShape, Pixels};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const RECORD: usize = 1 + 3 * PLANE;
const CLASSES: u32 = 10;
/// The published files have 10,000 records. Ten times the whole set is room enough for merged files.
const MAX_RECORDS: u64 = 600_000;

/// Reads the training records and, where there is one, the test batch. `path` is a single file of training records or
/// a folder.
pub(super) fn read(path: &Path) -> Result<(Pixels, Option<Pixels>), DataError> {
    if path.is_file() {
        return Ok((read_files(&[path.to_owned()])?, None));
    }
    let mut training = Vec::new();
    for entry in std::fs::read_dir(path).map_err(DataError::unreadable(path))? {
        let file = entry.map_err(DataError::unreadable(path))?.path();
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if (name.starts_with("data_batch") || name.starts_with("train")) && name.ends_with(".bin") {
            training.push(file);
        }
    }
    if training.is_empty() {
        return Err(DataError::Missing {
            dir: path.to_owned(),
            set: "CIFAR-10 binary",
            expected: "data_batch_*.bin, train*.bin".into(),
        });
    }
    training.sort();
    let test = path.join("test_batch.bin");
    let test = if test.exists() {
        Some(read_files(&[test])?)
    } else {
        None
    };
    Ok((read_files(&training)?, test))
}

fn read_files(paths: &[PathBuf]) -> Result<Pixels, DataError> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in paths {
        read_file(path, &mut pixels, &mut labels)?;
    }
    let shape = ImageShape {
        height: SIDE,
        width: SIDE,
        channels: 3,
    };
    Ok(Pixels::new(shape, pixels, Some((labels, CLASSES))))
}

fn read_file(path: &Path, pixels: &mut Vec<u8>, labels: &mut Vec<u8>) -> Result<(), DataError> {
    let mut bytes = Vec::new();
    let limit = MAX_RECORDS * RECORD as u64;
    let file = File::open(path).map_err(DataError::unreadable(path))?;
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(DataError::unreadable(path))?;
    if bytes.is_empty() || bytes.len() % RECORD != 0 || bytes.len() as u64 > limit {
        return Err(DataError::WrongSize {
            path: path.to_owned(),
            reason: format!(
                "{} bytes; a CIFAR-10 binary file has 1 to {MAX_RECORDS} records of {RECORD} bytes (if it is the \
                 archive, unpack it; the Python version of the set will not do)",
                bytes.len()
            ),
        });
    }
    pixels.reserve(bytes.len() / RECORD * 3 * PLANE);
    for (item, record) in bytes.chunks_exact(RECORD).enumerate() {
        let (label, planes) = (record[0], &record[1..]);
        if u32::from(label) >= CLASSES {
            return Err(DataError::WrongLabel {
                path: path.to_owned(),
                item,
                label: u32::from(label),
                classes: CLASSES,
            });
        }
        labels.push(label);
        for pixel in 0..PLANE {
            pixels.extend([
                planes[pixel],
                planes[PLANE + pixel],
                planes[2 * PLANE + pixel],
            ]);
        }
    }
    Ok(())
}
