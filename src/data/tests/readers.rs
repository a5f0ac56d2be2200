use png::{BitDepth, ColorType};

use super::*;

fn open_mnist(dir: &Path) -> Result<Splits, DataError> {
    Source::Mnist {
        dir: dir.to_owned(),
    }
    .open(Validation::Published)
}

#[test]
fn idx_is_read_plain_and_gzipped() {
    let dir = temp_dir();
    small_mnist(dir.path());
    let splits = open_mnist(dir.path()).expect("both parts");
    assert_eq!((splits.train.len(), splits.valid.len()), (20, 5));
    assert!(splits.test.is_none());
    assert_eq!(
        splits.train.shape(),
        ImageShape {
            height: 2,
            width: 3,
            channels: 1
        }
    );
    assert_eq!(item(&*splits.train, 2), [12, 13, 14, 15, 16, 17]);
    assert_eq!(item(&*splits.valid, 1), [206, 207, 208, 209, 210, 211]);
    assert_eq!(splits.train.label(13), Some(3));
    assert_eq!(splits.train.classes(), Some(10));
}

#[test]
fn a_tail_of_the_training_part_validates() {
    let dir = temp_dir();
    small_mnist(dir.path());
    let source = Source::Mnist {
        dir: dir.path().to_owned(),
    };
    let splits = source.open(Validation::Tail(0.25)).expect("three parts");
    assert_eq!((splits.train.len(), splits.valid.len()), (15, 5));
    assert_eq!(splits.test.expect("the published test part").len(), 5);
    assert_eq!(item(&*splits.valid, 0), [90, 91, 92, 93, 94, 95]);
    assert_eq!(splits.valid.label(0), Some(5));
    for fraction in [0.0, 1.0, -0.5, f64::NAN, 0.001] {
        let error = source
            .open(Validation::Tail(fraction))
            .err()
            .expect("an empty part")
            .to_string();
        assert_contains(&error, &["validation part", "20 training images"]);
    }
}

#[test]
fn idx_errors_name_file_and_way_out() {
    let dir = temp_dir();
    let path = dir.path();
    let absent = path.join("absent");
    assert_contains(&message(open_mnist(&absent), &absent), &["cannot read"]);
    assert_contains(
        &message(open_mnist(path), path),
        &["train-images-idx3-ubyte.gz", "folder that holds"],
    );

    small_mnist(path);
    let images = path.join(TRAIN_IMAGES);
    let good = std::fs::read(&images).expect("the fixture");

    write(path, TRAIN_IMAGES, &idx_labels(&[1, 2]));
    assert_contains(
        &message(open_mnist(path), &images),
        &["0x00000801", "0x00000803", "swapped"],
    );
    write(path, TRAIN_IMAGES, b"GIF89a and so on");
    assert_contains(
        &message(open_mnist(path), &images),
        &["0x47494638", "another kind"],
    );
    write(path, TRAIN_IMAGES, &good[..100]);
    assert_contains(
        &message(open_mnist(path), &images),
        &["truncated: 84 of 120 bytes of pixels"],
    );
    write(path, TRAIN_IMAGES, &good[..7]);
    assert_contains(
        &message(open_mnist(path), &images),
        &["truncated", "header"],
    );
    write(path, TRAIN_IMAGES, &[&good[..], &[0]].concat());
    assert_contains(
        &message(open_mnist(path), &images),
        &["wrong size", "more than the 120 bytes"],
    );
    write(path, TRAIN_IMAGES, &idx_images(u32::MAX, u32::MAX, 28, &[]));
    assert_contains(
        &message(open_mnist(path), &images),
        &["wrong size", "announces 4294967295 images"],
    );
    write(path, TRAIN_IMAGES, &idx_images(0, 28, 28, &[]));
    assert_contains(
        &message(open_mnist(path), &images),
        &["wrong size", "announces 0 images"],
    );

    // Noise, so that the compressed file is long enough to be cut in the middle.
    let pixels: Vec<u8> = (0..50 * 784)
        .map(|i| crate::philox::word(1, 0, 0, i) as u8)
        .collect();
    let packed = gzip(&idx_images(50, 28, 28, &pixels));
    for (cut, expected) in [
        (packed.len() / 2, "truncated"),
        (packed.len() - 3, "gzip trailer"),
        (5, "truncated"),
    ] {
        write(path, TRAIN_IMAGES, &packed[..cut]);
        assert_contains(&message(open_mnist(path), &images), &[expected]);
    }
    let mut flipped = packed.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    write(path, TRAIN_IMAGES, &flipped);
    assert_contains(&message(open_mnist(path), &images), &["damaged"]);

    write(path, TRAIN_IMAGES, &good);
    let labels = path.join(format!("{TRAIN_LABELS}.gz"));
    write(
        path,
        &format!("{TRAIN_LABELS}.gz"),
        &gzip(&idx_labels(&[0; 19])),
    );
    let error = message(open_mnist(path), &labels);
    assert_contains(&error, &[TRAIN_IMAGES, "20 images", "19 labels"]);
    write(
        path,
        &format!("{TRAIN_LABELS}.gz"),
        &gzip(&idx_labels(&[&[7, 10][..], &[0; 18]].concat())),
    );
    assert_contains(
        &message(open_mnist(path), &labels),
        &["item 1", "label 10", "10 classes"],
    );

    std::fs::remove_file(&images).expect("the fixture");
    std::fs::create_dir(&images).expect("a folder in its place");
    assert_contains(&message(open_mnist(path), &images), &["cannot read"]);
}

#[test]
fn stacked_sets_combine_three_items() {
    let dir = temp_dir();
    small_mnist(dir.path());
    let source = Source::StackedMnist {
        dir: dir.path().to_owned(),
        seed: 3,
        train_items: 500,
    };
    let splits = source.open(Validation::Tail(0.25)).expect("three parts");
    assert_eq!(
        (
            splits.train.len(),
            splits.valid.len(),
            splits.test.map(|set| set.len())
        ),
        (500, 5, Some(5))
    );
    let digits = Source::Mnist {
        dir: dir.path().to_owned(),
    }
    .open(Validation::Tail(0.25))
    .expect("the digits")
    .train;
    let train = &*splits.train;
    assert_eq!((train.shape().channels, train.classes()), (3, Some(1000)));
    let mut seen = [false; 15];
    for index in 0..train.len() {
        let pixels = item(train, index);
        // The first pixel of digit d is 6 d.
        let sources = [pixels[0] / 6, pixels[1] / 6, pixels[2] / 6].map(usize::from);
        for (channel, &digit) in sources.iter().enumerate() {
            let plane: Vec<u8> = pixels.iter().copied().skip(channel).step_by(3).collect();
            assert_eq!(plane, item(&*digits, digit));
            seen[digit] = true;
        }
        let label = sources.iter().fold(0, |label, &digit| {
            label * 10 + digits.label(digit).expect("a label")
        });
        assert_eq!(train.label(index), Some(label));
    }
    assert!(seen.iter().all(|&seen| seen), "{seen:?}");
    let again = source.open(Validation::Tail(0.25)).expect("the same").train;
    assert_eq!(item(&*again, 77), item(train, 77));
}

#[test]
fn stacked_sets_refuse_what_cannot_be_stacked() {
    let colour = Arc::new(Glyphs::new(3, 0, 0, 10));
    assert_contains(
        &Stacked::new(colour, 0, 0, 5)
            .err()
            .expect("colour")
            .to_string(),
        &["3 channels"],
    );
    let none = Arc::new(Glyphs::new(1, 0, 0, 10));
    assert_contains(
        &Stacked::new(none, 0, 0, 0)
            .err()
            .expect("no items")
            .to_string(),
        &["0 images"],
    );
}

fn cifar_records(labels: &[u8]) -> Vec<u8> {
    labels
        .iter()
        .flat_map(|&label| {
            let plane = move |offset: u8| {
                (0..1024u32).map(move |pixel| (pixel % 50) as u8 + offset + label)
            };
            std::iter::once(label)
                .chain(plane(0))
                .chain(plane(60))
                .chain(plane(120))
        })
        .collect()
}

#[test]
fn cifar_planes_become_pixels() {
    let dir = temp_dir();
    write(dir.path(), "data_batch_1.bin", &cifar_records(&[3, 4, 5]));
    write(dir.path(), "data_batch_2.bin", &cifar_records(&[6; 9]));
    write(dir.path(), "test_batch.bin", &cifar_records(&[9]));
    let source = Source::Cifar10 {
        path: dir.path().to_owned(),
    };
    let splits = source.open(Validation::Published).expect("a set");
    assert_eq!((splits.train.len(), splits.valid.len()), (12, 1));
    let labels: Vec<_> = (0..4).map(|index| splits.train.label(index)).collect();
    assert_eq!(labels, [Some(3), Some(4), Some(5), Some(6)]);
    assert_eq!(item(&*splits.train, 1)[3 * 33..][..3], [37, 97, 157]);

    let splits = source.open(Validation::Tail(0.25)).expect("a set");
    assert_eq!(
        (
            splits.train.len(),
            splits.valid.len(),
            splits.test.map(|set| set.len())
        ),
        (9, 3, Some(1))
    );

    // A single file, and no test batch: the last tenth validates.
    let file = write(dir.path(), "some.bin", &cifar_records(&[1; 20]));
    let splits = Source::Cifar10 { path: file }
        .open(Validation::Published)
        .expect("one file");
    assert_eq!(
        (
            splits.train.len(),
            splits.valid.len(),
            splits.test.is_none()
        ),
        (18, 2, true)
    );
}

#[test]
fn cifar_errors_name_file_and_way_out() {
    let dir = temp_dir();
    let open = |path: &Path| {
        Source::Cifar10 {
            path: path.to_owned(),
        }
        .open(Validation::Published)
    };
    assert_contains(
        &message(open(dir.path()), dir.path()),
        &["data_batch_*.bin"],
    );
    let file = write(dir.path(), "data_batch_1.bin", &cifar_records(&[1, 2])[1..]);
    assert_contains(
        &message(open(dir.path()), &file),
        &["wrong size", "6145 bytes", "3073"],
    );
    write(dir.path(), "data_batch_1.bin", &[]);
    assert_contains(&message(open(&file), &file), &["wrong size", "0 bytes"]);
    write(dir.path(), "data_batch_1.bin", &cifar_records(&[1, 11]));
    assert_contains(&message(open(&file), &file), &["item 1", "label 11"]);
    let absent = dir.path().join("absent.bin");
    assert_contains(&message(open(&absent), &absent), &["cannot read"]);
}

/// Encodes raw sample data as PNG.
pub(super) fn png_bytes(
    width: u32,
    height: u32,
    color: ColorType,
    depth: BitDepth,
    palette: Option<&[u8]>,
    data: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if let Some(palette) = palette {
        encoder.set_palette(palette.to_vec());
    }
    let mut writer = encoder.write_header().expect("memory");
    writer.write_image_data(data).expect("memory");
    writer.finish().expect("memory");
    bytes
}

fn open_png(dir: &Path, size: usize, channels: usize, crop: Crop) -> Result<PngFolder, DataError> {
    PngFolder::open(dir, size, channels, crop)
}

#[test]
fn every_png_kind_is_read() {
    use BitDepth::{Eight, One, Sixteen};
    let palette = [10, 20, 30, 200, 100, 50];
    let cases: [(&str, Vec<u8>, [u8; 3], u8); 7] = [
        (
            "grey",
            png_bytes(1, 1, ColorType::Grayscale, Eight, None, &[77]),
            [77; 3],
            77,
        ),
        (
            "grey16",
            png_bytes(1, 1, ColorType::Grayscale, Sixteen, None, &[0x80, 0x10]),
            [0x80; 3],
            0x80,
        ),
        (
            "bit",
            png_bytes(1, 1, ColorType::Grayscale, One, None, &[0x80]),
            [255; 3],
            255,
        ),
        (
            "grey-alpha",
            png_bytes(1, 1, ColorType::GrayscaleAlpha, Eight, None, &[200, 128]),
            [100; 3],
            100,
        ),
        (
            "rgb",
            png_bytes(1, 1, ColorType::Rgb, Eight, None, &[255, 0, 0]),
            [255, 0, 0],
            76,
        ),
        (
            "rgba",
            png_bytes(1, 1, ColorType::Rgba, Eight, None, &[0, 255, 100, 0]),
            [0; 3],
            0,
        ),
        (
            "palette",
            png_bytes(1, 1, ColorType::Indexed, One, Some(&palette), &[0x80]),
            [200, 100, 50],
            124,
        ),
    ];
    for (name, bytes, colour, grey) in cases {
        let dir = temp_dir();
        write(dir.path(), "a.PNG", &bytes);
        let set = open_png(dir.path(), 1, 3, Crop::Centre).expect(name);
        assert_eq!(item(&set, 0), colour, "{name} as colour");
        assert_eq!(item(&set, 0), colour, "{name} as colour, from the cache");
        let set = open_png(dir.path(), 1, 1, Crop::Centre).expect(name);
        assert_eq!(item(&set, 0), [grey], "{name} as grey");
    }
}

#[test]
fn pictures_are_cropped_and_resized() {
    let dir = temp_dir();
    // 6x4: the columns 1 to 4 are the centred square; 2x2 blocks of 40, 80 / 120, 160 inside, 255 outside.
    let line = |left: u8, right: u8| [255, left, left, right, right, 255];
    let data = [line(40, 80), line(40, 80), line(120, 160), line(120, 160)].concat();
    write(
        dir.path(),
        "a.png",
        &png_bytes(6, 4, ColorType::Grayscale, BitDepth::Eight, None, &data),
    );
    let read = |size, crop| item(&open_png(dir.path(), size, 1, crop).expect("a set"), 0);
    assert_eq!(
        read(4, Crop::Centre),
        [
            [40, 40, 80, 80],
            [40, 40, 80, 80],
            [120, 120, 160, 160],
            [120, 120, 160, 160]
        ]
        .concat()
    );
    // The triangle of half-width 2 about 1.0 in [40, 40, 80, 80] weighs 3, 3, 1 (and nothing beyond the edge): 320/7.
    let near = |a: f64, b: f64| ((3.0 * a + 3.0 * a + b) / 7.0, (a + 3.0 * b + 3.0 * b) / 7.0);
    let ((top_left, top_right), (low_left, low_right)) = (near(40.0, 80.0), near(120.0, 160.0));
    let ((a, c), (b, d)) = (near(top_left, low_left), near(top_right, low_right));
    assert_eq!(
        read(2, Crop::Centre),
        [a, b, c, d].map(|value| value.round() as u8)
    );
    assert_eq!(
        read(
            1,
            Crop::Box {
                left: 3,
                top: 0,
                right: 4,
                bottom: 1
            }
        ),
        [80]
    );

    let wide = Crop::Box {
        left: 0,
        top: 0,
        right: 7,
        bottom: 4,
    };
    let set = open_png(dir.path(), 2, 1, wide).expect("not decoded yet");
    let error = message(set.read(0, &mut [0; 4]), set.path(0));
    assert_contains(&error, &["6x4", "column 7"]);
}

#[test]
fn a_random_crop_moves_along_the_long_side() {
    let dir = temp_dir();
    // 12x4 and 4x12: pairs of columns (rows) have the values 0, 10, .. 50.
    let wide: Vec<u8> = (0..4).flat_map(|_| (0..12).map(|x| x / 2 * 10)).collect();
    let tall: Vec<u8> = (0..12).flat_map(|y| [y / 2 * 10; 4]).collect();
    for (name, width, height, data) in [("a.png", 12, 4, wide), ("b.png", 4, 12, tall)] {
        let bytes = png_bytes(
            width,
            height,
            ColorType::Grayscale,
            BitDepth::Eight,
            None,
            &data,
        );
        write(dir.path(), name, &bytes);
    }
    let set: Arc<dyn Dataset> = Arc::new(open_png(dir.path(), 4, 1, Crop::Random).expect("a set"));
    assert_eq!(item(&*set, 0), [20, 20, 30, 30].repeat(4), "the centre");
    let all: Arc<dyn Dataset> = Arc::new(Subset::new(set, 0..2));
    let padded = Padded::around(all.clone(), 1);
    let mut seen = [[false; 9]; 2];
    for draw in (0..64u32).map(|i| i << 26) {
        for (picture, seen) in seen.iter_mut().enumerate() {
            let mut out = vec![0; 16];
            all.read_training(picture, draw, &mut out).expect("a crop");
            // The place, 0 to 8, from the first two values along the long side.
            let along: Vec<usize> = (0..4)
                .map(|i| usize::from(out[if picture == 0 { i } else { 4 * i }]) / 10)
                .collect();
            let start = 2 * along[0] + usize::from(along[1] != along[0]);
            let want: Vec<usize> = (0..4).map(|i| (start + i) / 2).collect();
            assert_eq!(along, want, "draw {draw:#x}");
            assert_eq!(start, ((u64::from(draw) * 9) >> 32) as usize);
            seen[start] = true;
            let mut bordered = vec![9; 36];
            padded
                .read_training(picture, draw, &mut bordered)
                .expect("a crop");
            assert_eq!(bordered[7..11], out[..4]);
        }
    }
    assert_eq!(seen, [[true; 9]; 2]);
}

#[test]
fn resizing_keeps_constants_and_means() {
    for (height, width, size) in [(7, 7, 3), (64, 48, 16), (5, 9, 20), (148, 148, 64)] {
        let flat = vec![137u8; height * width * 3];
        assert!(
            resize::resize(&flat, [height, width], 3, [size, size])
                .iter()
                .all(|&value| value == 137)
        );
        // A ramp keeps its order and, away from the edges, its slope.
        let ramp: Vec<u8> = (0..height)
            .flat_map(|_| (0..width).map(|x| (x * 250 / width) as u8))
            .collect();
        let small = resize::resize(&ramp, [height, width], 1, [size, size]);
        assert!(small[..size].is_sorted(), "{:?}", &small[..size]);
        let mean =
            |pixels: &[u8]| pixels.iter().map(|&v| f64::from(v)).sum::<f64>() / pixels.len() as f64;
        assert!((mean(&ramp) - mean(&small)).abs() < 2.0);
    }
}

#[test]
fn a_folder_is_sorted_and_split() {
    let dir = temp_dir();
    let grey = |value: u8| png_bytes(1, 1, ColorType::Grayscale, BitDepth::Eight, None, &[value]);
    for value in (0..20u8).rev() {
        write(dir.path(), &format!("{value:03}.png"), &grey(value));
    }
    write(dir.path(), "notes.txt", b"not a picture");
    let source = Source::PngFolder {
        dir: dir.path().to_owned(),
        size: 1,
        channels: 1,
        crop: Crop::Centre,
    };
    let splits = source.open(Validation::Published).expect("a set");
    assert_eq!((splits.train.len(), splits.valid.len()), (18, 2));
    assert_eq!(
        (item(&*splits.train, 5), item(&*splits.valid, 1)),
        (vec![5], vec![19])
    );
    assert_eq!(
        (splits.train.label(0), splits.train.classes()),
        (None, None)
    );

    std::fs::create_dir(dir.path().join("train")).expect("a folder");
    let train = dir.path().join("train");
    assert_contains(
        &message(source.open(Validation::Published), &train),
        &["no .png file"],
    );
    std::fs::remove_dir(&train).expect("the empty folder");
    for (part, value) in [("train", 50), ("test", 70), ("valid", 60)] {
        if part == "valid" {
            let splits = source.open(Validation::Published).expect("two folders");
            assert_eq!(
                (item(&*splits.valid, 0), splits.test.is_none()),
                (vec![70], true)
            );
        }
        std::fs::create_dir(dir.path().join(part)).expect("a folder");
        write(&dir.path().join(part), "x.png", &grey(value));
    }
    let splits = source.open(Validation::Published).expect("three folders");
    let test = splits.test.expect("a test folder");
    assert_eq!(
        [&splits.train, &splits.valid, &test].map(|set| item(&**set, 0)[0]),
        [50, 60, 70]
    );
}

#[test]
fn png_errors_name_file_and_way_out() {
    let dir = temp_dir();
    let path = dir.path();
    let absent = path.join("absent");
    assert_contains(
        &message(open_png(&absent, 4, 3, Crop::Centre), &absent),
        &["cannot read"],
    );
    assert_contains(
        &message(open_png(path, 4, 3, Crop::Centre), path),
        &["no .png file"],
    );
    for (size, channels) in [(0, 3), (4, 2), (100_000, 1)] {
        let error = open_png(path, size, channels, Crop::Centre)
            .err()
            .expect("a bad setting")
            .to_string();
        assert_contains(&error, &[&size.to_string(), "1 or 3 channels"]);
    }
    let empty = Crop::Box {
        left: 3,
        top: 0,
        right: 3,
        bottom: 4,
    };
    assert_contains(
        &open_png(path, 4, 3, empty)
            .err()
            .expect("empty")
            .to_string(),
        &["left 3", "right 3"],
    );

    let pixels: Vec<u8> = (0..32 * 32 * 3)
        .map(|i| crate::philox::word(1, 0, 0, i) as u8)
        .collect();
    let good = png_bytes(32, 32, ColorType::Rgb, BitDepth::Eight, None, &pixels);
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 0x10;
    let mut bomb = good.clone();
    // A header that announces 2^31 - 1 rows and columns, with its checksum made right.
    bomb[16..20].copy_from_slice(&0x7fff_ffffu32.to_be_bytes());
    bomb[20..24].copy_from_slice(&0x7fff_ffffu32.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    for (bytes, expected) in [
        (&b"\xff\xd8\xff\xe0 a JPEG file"[..], "another kind of file"),
        (&[], "truncated"),
        (&good[..20], "truncated"),
        (&good[..good.len() / 2], "damaged"),
        (&flipped, "damaged"),
        (&bomb, "more than 256 MiB"),
    ] {
        let file = write(path, "a.png", bytes);
        let set = open_png(path, 4, 3, Crop::Centre).expect("files are read later");
        let error = message(set.read(0, &mut [0; 48]), &file);
        assert_contains(&error, &[expected]);
    }
}
