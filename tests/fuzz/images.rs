//! Image sets: IDX files, plain and packed, CIFAR-10 records, folders of PNG files.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use vaebm::data::{Crop, DataError, Source, Splits, Validation};

use super::harness::{Target, fuzz};
use super::{BASE, form, place, refused, seed};

/// Reads every item of every part, as training and as evaluation would.
fn read_all(opened: Result<Splits, DataError>, folder: &Path) -> Result<bool, String> {
    let splits = match opened {
        Ok(splits) => splits,
        // About the split, not about a file.
        Err(DataError::Setting(reason)) if reason.contains("validation part") => return Ok(false),
        Err(error) => return refused(&error, folder),
    };
    let sets = [Some(splits.train), Some(splits.valid), splits.test];
    let mut accepted = true;
    for set in sets.into_iter().flatten() {
        let mut out = vec![0; set.shape().values()];
        for item in 0..set.len().min(50) {
            let draw = (item as u32).wrapping_mul(0x9e37_79b9);
            for read in [
                set.read(item, &mut out),
                set.read_training(item, draw, &mut out),
            ] {
                if let Err(error) = read {
                    accepted = refused(&error, folder)?;
                }
            }
            if set
                .label(item)
                .is_some_and(|label| Some(label) >= set.classes())
            {
                return Err(format!("item {item} has a label beyond its classes"));
            }
        }
    }
    Ok(accepted)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn idx(magic: u32, extents: &[u32], body: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_be_bytes().to_vec();
    extents
        .iter()
        .for_each(|extent| bytes.extend(extent.to_be_bytes()));
    [&bytes, body].concat()
}

const COUNT: usize = 12;

fn idx_images() -> Vec<u8> {
    let pixels: Vec<u8> = (0..COUNT * 6).map(|value| value as u8).collect();
    idx(0x803, &[COUNT as u32, 2, 3], &pixels)
}

fn idx_labels() -> Vec<u8> {
    idx(0x801, &[COUNT as u32], &[3; COUNT])
}

/// Forms: bit 0, the labels instead of the images; bit 1, packed after the damage.
fn read_idx(folder: &Path, input: &[u8]) -> Result<bool, String> {
    let (form, contents) = form(input);
    let contents = if form & 2 == 0 {
        contents.to_vec()
    } else {
        gzip(contents)
    };
    let (images, labels) = match form & 1 {
        0 => (contents, idx_labels()),
        _ => (idx_images(), contents),
    };
    for part in ["train", "t10k"] {
        place(folder, &format!("{part}-images-idx3-ubyte"), &images);
        place(folder, &format!("{part}-labels-idx1-ubyte"), &labels);
    }
    let source = Source::Mnist {
        dir: folder.to_owned(),
    };
    read_all(source.open(Validation::Tail(0.25)), folder)
}

#[test]
fn idx_files() {
    fuzz(&Target {
        name: "idx",
        seeds: || {
            let (images, labels) = (idx_images(), idx_labels());
            vec![
                seed(0, &images),
                seed(1, &labels),
                seed(2, &images),
                seed(3, &labels),
                // Damage to the packed bytes themselves.
                seed(0, &gzip(&images)),
                seed(1, &gzip(&labels)),
            ]
        },
        text: false,
        // Packed bytes grow a thousandfold at most, and a buffer that doubles takes three times what it holds, twice over.
        allowed: |length| BASE + 8 * 1032 * length,
        read: read_idx,
    });
}

/// Forms: even, a single file; odd, a folder with a test batch.
fn read_cifar(folder: &Path, input: &[u8]) -> Result<bool, String> {
    let (form, contents) = form(input);
    let train = place(folder, "data_batch_1.bin", contents);
    let path = if form & 1 == 0 {
        train
    } else {
        place(folder, "test_batch.bin", contents);
        folder.to_owned()
    };
    read_all(Source::Cifar10 { path }.open(Validation::Tail(0.5)), folder)
}

#[test]
fn cifar_files() {
    fuzz(&Target {
        name: "cifar",
        seeds: || {
            let record = |label: u8| [vec![label], vec![label * 20; 3072]].concat();
            let records: Vec<u8> = (0..3).flat_map(record).collect();
            vec![seed(0, &records), seed(1, &records)]
        },
        text: false,
        allowed: |length| BASE + 16 * length,
        read: read_cifar,
    });
}

fn chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(body);
    [&length[..], kind, body, &crc.sum().to_be_bytes()].concat()
}

/// A picture of `[width, height]` in a colour type (0 grey, 2 colour, 3 palette, 4 grey and alpha, 6 colour and alpha) with so many bits,
/// with rows of so many bytes.
fn png([width, height]: [u32; 2], bits: u8, colour: u8, interlaced: u8, row: usize) -> Vec<u8> {
    let header = [
        &width.to_be_bytes()[..],
        &height.to_be_bytes(),
        &[bits, colour, 0, 0, interlaced],
    ]
    .concat();
    let lines: Vec<u8> = (0..height as usize)
        .flat_map(|y| {
            std::iter::once((y % 5) as u8).chain((0..row).map(move |x| (7 * x + 3 * y) as u8))
        })
        .collect();
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(&lines).expect("memory");
    let palette = chunk(
        b"PLTE",
        &[10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120],
    );
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &header),
        if colour == 3 { palette } else { Vec::new() },
        chunk(b"IDAT", &packer.finish().expect("memory")),
        chunk(b"IEND", &[]),
    ]
    .concat()
}

/// Makes the checksums of chunks right again, so that damage reaches the decoder.
fn repair(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some(body) = at
            .checked_add(8 + length)
            .and_then(|end| bytes.get(at + 4..end))
        else {
            break;
        };
        let mut crc = flate2::Crc::new();
        crc.update(body);
        let end = at + 8 + length;
        if let Some(sum) = bytes.get_mut(end..end + 4) {
            sum.copy_from_slice(&crc.sum().to_be_bytes());
        }
        at = end + 4;
    }
}

/// Forms: bits 0 and 1, the crop; bit 2, channels; bit 3, checksums made right; bits 4 to 7, the size.
fn read_png(folder: &Path, input: &[u8]) -> Result<bool, String> {
    let (form, contents) = form(input);
    let mut contents = contents.to_vec();
    if form & 8 != 0 {
        repair(&mut contents);
    }
    for name in ["a.png", "b.png"] {
        place(folder, name, &contents);
    }
    let source = Source::PngFolder {
        dir: folder.to_owned(),
        size: [1, 4, 16, 64][usize::from(form >> 4) % 4],
        channels: if form & 4 == 0 { 3 } else { 1 },
        crop: match form & 3 {
            0 => Crop::Centre,
            1 => Crop::Box {
                left: 0,
                top: 1,
                right: 5,
                bottom: 6,
            },
            _ => Crop::Random,
        },
    };
    read_all(source.open(Validation::Tail(0.5)), folder)
}

#[test]
fn png_files() {
    fuzz(&Target {
        name: "png",
        seeds: || {
            let pictures = [
                png([9, 7], 8, 2, 0, 27),
                png([9, 7], 8, 0, 0, 9),
                png([9, 7], 16, 6, 0, 72),
                png([9, 7], 2, 3, 0, 3),
                png([9, 7], 8, 4, 0, 18),
                png([40, 6], 8, 0, 0, 40),
            ];
            let with = |form: u8| pictures.iter().map(move |picture| seed(form, picture));
            [0x1au8, 0x28, 0x0c, 0x39]
                .into_iter()
                .flat_map(with)
                .collect()
        },
        text: false,
        // What a picture of the most pixels takes while it is decoded, cut and resized.
        allowed: |length| (768 << 20) + 1000 * length,
        read: read_png,
    });
}
