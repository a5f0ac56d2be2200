use super::picture::{Contrast, GridOptions, Picture};
use super::png_folder::read_png;
use super::*;

const GREY: ImageShape = ImageShape {
    height: 2,
    width: 2,
    channels: 1,
};

fn options(columns: usize) -> GridOptions {
    GridOptions {
        columns,
        upscale: 1,
        padding: 0,
        contrast: Contrast::Clamp,
    }
}

#[test]
fn contrast_clamps_or_stretches() {
    assert_eq!(
        Contrast::Clamp.to_bytes(&[-1.0, 0.0, 0.5, 1.0, 7.0, f32::NAN]),
        [0, 0, 128, 255, 255, 0]
    );
    assert_eq!(
        Contrast::MinMaxPerImage.to_bytes(&[0.25, 0.5, 0.75]),
        [0, 128, 255]
    );
    // A constant image would divide by zero.
    assert_eq!(Contrast::MinMaxPerImage.to_bytes(&[0.3; 3]), [0; 3]);
}

#[test]
fn a_grid_places_every_pixel() {
    let images: Vec<f32> = (0..12).map(|value| value as f32 * 20.0 / 255.0).collect();
    let options = GridOptions {
        upscale: 3,
        padding: 2,
        ..options(2)
    };
    let grid = Picture::grid(&images, GREY, &options);
    assert_eq!((grid.width(), grid.height()), (2 + 2 * 8, 2 + 2 * 8));
    let background = grid.pixel(0, 0);
    for index in 0..12 {
        let (image, y, x) = (index / 4, index / 2 % 2, index % 2);
        let (left, top) = (2 + image % 2 * 8 + x * 3, 2 + image / 2 * 8 + y * 3);
        for (dx, dy) in [(0, 0), (2, 0), (1, 1), (2, 2)] {
            assert_eq!(
                grid.pixel(left + dx, top + dy),
                [index as u8 * 20; 3],
                "value {index}"
            );
        }
    }
    // The fourth place is empty; gaps are background.
    assert_eq!(
        [grid.pixel(12, 12), grid.pixel(8, 3), grid.pixel(17, 17)],
        [background; 3]
    );
}

#[test]
fn colour_keeps_its_order() {
    let shape = ImageShape {
        height: 1,
        width: 2,
        channels: 3,
    };
    let grid = Picture::grid(&[1.0, 0.5, 0.0, 0.0, 0.0, 1.0], shape, &options(4));
    assert_eq!((grid.width(), grid.height()), (2, 1));
    assert_eq!(
        [grid.pixel(0, 0), grid.pixel(1, 0)],
        [[255, 128, 0], [0, 0, 255]]
    );
}

#[test]
fn panels_stand_side_by_side_under_their_captions() {
    let red = Picture::new(30, 10, [255, 0, 0]);
    let blue = Picture::new(200, 20, [0, 0, 255]);
    let panels = [("VAE", red), ("VAEBM (ours)", blue)];
    let whole = Picture::panels(&panels);
    let count = |colour: [u8; 3]| {
        let places = (0..whole.height()).flat_map(|y| (0..whole.width()).map(move |x| (x, y)));
        places
            .filter(|&(x, y)| whole.pixel(x, y) == colour)
            .collect::<Vec<_>>()
    };
    let (red, blue) = (count([255, 0, 0]), count([0, 0, 255]));
    assert_eq!((red.len(), blue.len()), (300, 4000));
    assert_eq!(red[0].1, blue[0].1, "top edges are level");
    assert!(red.iter().all(|&(x, _)| x < blue[0].0));
    // V has 13 dots, A 18, E 18 in the font; each is 2x2 pixels here.
    let caption = (0..red[0].1)
        .flat_map(|y| (0..blue[0].0).map(move |x| (x, y)))
        .filter(|&(x, y)| whole.pixel(x, y)[0] > 200)
        .count();
    assert_eq!(caption, 4 * (13 + 18 + 18));
}

#[test]
fn every_character_is_distinct() {
    let dots = |character: char| {
        let mut picture = Picture::new(5, 7, [0; 3]);
        picture.write_text(&character.to_string(), 0, 0, 1);
        (0..35)
            .map(|at| picture.pixel(at % 5, at / 5)[0] > 0)
            .collect::<Vec<_>>()
    };
    let all: std::collections::BTreeSet<_> = (' '..='~').map(dots).collect();
    assert_eq!(all.len(), 95);
    assert_eq!(dots('\u{e9}'), dots('?'));
    assert!(dots(' ').iter().all(|dot| !dot));
}

#[test]
fn text_outside_is_cut_off() {
    let mut picture = Picture::new(8, 4, [0; 3]);
    picture.write_text("####", 4, 2, 2);
    assert!((0..8).any(|x| picture.pixel(x, 3) != [0; 3]));
}

#[test]
fn png_files_come_back_as_written() {
    let dir = temp_dir();
    let images: Vec<f32> = (0..12).map(|value| value as f32 / 255.0).collect();
    let colour = Picture::grid(
        &images,
        ImageShape {
            height: 2,
            width: 2,
            channels: 3,
        },
        &options(1),
    );
    let grey = Picture::grid(&images, GREY, &options(3));
    let path = dir.path().join("picture.png");
    for (picture, channels) in [(colour, 3), (grey, 1)] {
        picture.write_png(&path).expect("a file");
        let back = read_png(&path).expect("a PNG file");
        assert_eq!(
            (back.width, back.height, back.channels),
            (picture.width(), picture.height(), channels)
        );
        for (index, pixel) in back.pixels.chunks_exact(channels).enumerate() {
            let colour = picture.pixel(index % back.width, index / back.width);
            assert_eq!([pixel[0], pixel[channels - 1]], [colour[0], colour[2]]);
        }
    }
    let names: Vec<_> = std::fs::read_dir(&dir)
        .expect("the folder")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(names, ["picture.png"], "no temporary file stays");
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let dir = temp_dir();
    let picture = Picture::new(2, 2, [9; 3]);
    let absent = dir.path().join("absent/picture.png");
    assert_contains(
        &message(picture.write_png(&absent), &absent),
        &["cannot write"],
    );
    // A folder in the file's place: the rename fails after the temporary file was written.
    let taken = dir.path().join("taken.png");
    std::fs::create_dir(&taken).expect("a folder");
    write(&taken, "inside", b"kept");
    assert_contains(
        &message(picture.write_png(&taken), &taken),
        &["cannot write"],
    );
    assert_eq!(std::fs::read_dir(&dir).expect("the folder").count(), 1);
    let empty = Picture::grid(&[], GREY, &options(4));
    let path = dir.path().join("empty.png");
    assert_contains(&message(empty.write_png(&path), &path), &["empty picture"]);
}
