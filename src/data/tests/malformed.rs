//! Whatever the bytes, a reader gives a set or an error that names a file; it neither panics nor takes memory that the
//! file does not account for.

use png::{BitDepth, ColorType};
use proptest::prelude::*;

use super::*;

/// A valid file with some bytes overwritten, cut or appended.
fn damage(mut bytes: Vec<u8>, edits: &[(usize, u8)], cut: Option<usize>, tail: &[u8]) -> Vec<u8> {
    for &(at, value) in edits {
        let len = bytes.len();
        bytes[at % len] = value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut % (bytes.len() + 1));
    }
    bytes.extend(tail);
    bytes
}

fn edits() -> impl Strategy<Value = (Vec<(usize, u8)>, Option<usize>, Vec<u8>)> {
    // Headers matter most, so half of the edits go there.
    let place = prop_oneof![0usize..40, any::<usize>()];
    (
        prop::collection::vec((place, any::<u8>()), 0..4),
        prop::option::of(any::<usize>()),
        prop::collection::vec(any::<u8>(), 0..20),
    )
}

/// Reads everything of the parts, or checks the error.
fn exercise(result: Result<Splits, DataError>, dir: &Path) -> Result<(), TestCaseError> {
    match result {
        Ok(splits) => {
            let sets = [Some(splits.train), Some(splits.valid), splits.test];
            for set in sets.into_iter().flatten() {
                prop_assert!(
                    set.len() * set.shape().values() < 1 << 20,
                    "{} of {:?}",
                    set.len(),
                    set.shape()
                );
                let mut out = vec![0; set.shape().values()];
                for item in 0..set.len() {
                    if let Err(error) = set.read(item, &mut out) {
                        prop_assert!(
                            error.to_string().contains(&dir.display().to_string()),
                            "{error}"
                        );
                    }
                    prop_assert_eq!(set.label(item).is_some(), set.classes().is_some());
                }
            }
        }
        // The only error without a file is about the fraction that validates.
        Err(DataError::Setting(reason)) => {
            prop_assert!(reason.contains("validation part"), "{reason}")
        }
        Err(error) => prop_assert!(
            error.to_string().contains(&dir.display().to_string()),
            "{error}"
        ),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn idx_files((edits, cut, tail) in edits(), labels in any::<bool>(), packed in any::<bool>(), inside in any::<bool>()) {
        let dir = temp_dir();
        small_mnist(dir.path());
        let (name, good) = if labels {
            (format!("{TRAIN_LABELS}.gz"), idx_labels(&[3; 20]))
        } else {
            (TRAIN_IMAGES.to_owned(), idx_images(20, 2, 3, &[9; 120]))
        };
        // Damage under the compression, or the compressed bytes themselves.
        let bytes = match (packed, inside) {
            (false, _) => damage(good, &edits, cut, &tail),
            (true, true) => gzip(&damage(good, &edits, cut, &tail)),
            (true, false) => damage(gzip(&good), &edits, cut, &tail),
        };
        write(dir.path(), &name, &bytes);
        exercise(Source::Mnist { dir: dir.path().to_owned() }.open(Validation::Published), dir.path())?;
    }

    #[test]
    fn idx_headers(header in prop::array::uniform3(prop_oneof![0u32..6, any::<u32>()]), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let dir = temp_dir();
        small_mnist(dir.path());
        write(dir.path(), TRAIN_IMAGES, &idx_images(header[0], header[1], header[2], &bytes));
        exercise(Source::Mnist { dir: dir.path().to_owned() }.open(Validation::Published), dir.path())?;
    }

    #[test]
    fn cifar_files(records in 0usize..3, extra in 0usize..3073, value in any::<u8>()) {
        let dir = temp_dir();
        let path = write(dir.path(), "train.bin", &vec![value; records * 3073 + extra]);
        exercise(Source::Cifar10 { path }.open(Validation::Tail(0.5)), dir.path())?;
    }

    #[test]
    fn png_files((edits, cut, tail) in edits(), kind in 0usize..4) {
        let (colour, samples) =
            [(ColorType::Grayscale, 1), (ColorType::GrayscaleAlpha, 2), (ColorType::Rgb, 3), (ColorType::Rgba, 4)][kind];
        let data: Vec<u8> = (0..9 * 7 * samples).map(|value| value as u8).collect();
        let mut bytes = damage(readers::png_bytes(9, 7, colour, BitDepth::Eight, None, &data), &edits, cut, &tail);
        // Half of the damage would stop at the header's checksum; make it right so that the decoder goes on.
        if bytes.len() > 33 && edits.len() % 2 == 1 {
            let mut crc = flate2::Crc::new();
            crc.update(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        }
        let dir = temp_dir();
        write(dir.path(), "a.png", &bytes);
        write(dir.path(), "b.png", &bytes);
        let source = Source::PngFolder { dir: dir.path().to_owned(), size: 4, channels: 3, crop: Crop::Centre };
        exercise(source.open(Validation::Tail(0.5)), dir.path())?;
    }
}
