//! Tests of the data side, one file for each concern; here what they share.

mod batches;
mod glyph_sets;
mod malformed;
mod pictures;
mod readers;
mod real_files;

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;

fn temp_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("a fixture");
    path
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn idx_images(count: u32, height: u32, width: u32, pixels: &[u8]) -> Vec<u8> {
    let header = [0x803, count, height, width].map(u32::to_be_bytes);
    [header.as_flattened(), pixels].concat()
}

fn idx_labels(labels: &[u8]) -> Vec<u8> {
    let header = [0x801, labels.len() as u32].map(u32::to_be_bytes);
    [header.as_flattened(), labels].concat()
}

const TRAIN_IMAGES: &str = "train-images-idx3-ubyte";
const TRAIN_LABELS: &str = "train-labels-idx1-ubyte";
const TEST_IMAGES: &str = "t10k-images-idx3-ubyte";

/// Twenty training and five test images of 2x3, with pixels that tell item and place.
fn small_mnist(dir: &Path) {
    let pixels =
        |count: u8, from: u8| -> Vec<u8> { (0..count * 6).map(|value| from + value).collect() };
    let labels = |count: u8| -> Vec<u8> { (0..count).map(|item| item % 10).collect() };
    write(dir, TRAIN_IMAGES, &idx_images(20, 2, 3, &pixels(20, 0)));
    write(
        dir,
        &format!("{TRAIN_LABELS}.gz"),
        &gzip(&idx_labels(&labels(20))),
    );
    write(
        dir,
        &format!("{TEST_IMAGES}.gz"),
        &gzip(&idx_images(5, 2, 3, &pixels(5, 200))),
    );
    write(dir, "t10k-labels.idx1-ubyte", &idx_labels(&labels(5)));
}

fn item(set: &dyn Dataset, item: usize) -> Vec<u8> {
    let mut out = vec![0; set.shape().values()];
    set.read(item, &mut out).expect("a readable item");
    out
}

/// The message of an error, which must name `path`.
fn message<T>(result: Result<T, DataError>, path: &Path) -> String {
    let message = result.err().expect("an error").to_string();
    assert!(
        message.contains(&path.display().to_string()),
        "{message:?} does not name {}",
        path.display()
    );
    message
}

fn assert_contains(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}
