use super::*;

/// Images of 2x3 whose pixels are `item, item + 1, ...`.
struct Counting {
    items: usize,
}

impl Dataset for Counting {
    fn len(&self) -> usize {
        self.items
    }
    fn shape(&self) -> ImageShape {
        ImageShape {
            height: 2,
            width: 3,
            channels: 1,
        }
    }
    fn classes(&self) -> Option<u32> {
        None
    }
    fn label(&self, _: usize) -> Option<u32> {
        None
    }
    fn read(&self, item: usize, out: &mut [u8]) -> Result<(), DataError> {
        for (offset, out) in out.iter_mut().enumerate() {
            *out = (item + offset) as u8;
        }
        Ok(())
    }
}

fn options(batch_size: usize) -> BatchOptions {
    BatchOptions {
        batch_size,
        seed: 11,
        flip: false,
        pad: 0,
        binarise: false,
    }
}

fn counting(items: usize, options: BatchOptions) -> Batcher {
    Batcher::new(Arc::new(Counting { items }), options).expect("sound options")
}

#[test]
fn a_shuffle_is_a_fixed_uniform_permutation() {
    for items in [0, 1, 2, 1000] {
        let mut order = shuffled(items, 1, 2);
        assert_eq!(order, shuffled(items, 1, 2));
        order.sort_unstable();
        assert!(
            order
                .iter()
                .enumerate()
                .all(|(index, &item)| index == item as usize),
            "{items} items"
        );
    }
    assert_ne!(shuffled(1000, 1, 2), shuffled(1000, 1, 3));
    assert_ne!(shuffled(1000, 1, 2), shuffled(1000, 2, 2));
    // All 24 orders of four items are equally likely: 23 degrees of freedom, mean 23, standard deviation 6.8.
    let mut counts = std::collections::BTreeMap::new();
    for epoch in 0..24_000 {
        *counts.entry(shuffled(4, 5, epoch)).or_insert(0u32) += 1;
    }
    assert_eq!(counts.len(), 24);
    let chi2: f64 = counts
        .values()
        .map(|&count| (f64::from(count) - 1000.0).powi(2) / 1000.0)
        .sum();
    assert!(chi2 < 57.0, "chi-squared {chi2}");
}

#[test]
fn an_epoch_gives_each_item_at_most_once_and_drops_the_tail() {
    let mut batcher = counting(103, options(10));
    assert_eq!(
        (batcher.batches_per_epoch(), batcher.evaluation_batches()),
        (10, 11)
    );
    let mut dropped = Vec::new();
    for epoch in 0..3 {
        let mut seen = [0; 103];
        for batch in 0..10 {
            for &item in batcher.training_items(Position { epoch, batch }) {
                seen[item as usize] += 1;
            }
        }
        assert_eq!(
            (seen.iter().sum::<i32>(), seen.iter().max()),
            (100, Some(&1))
        );
        dropped.push((0..103).filter(|&item| seen[item] == 0).collect::<Vec<_>>());
    }
    assert_ne!(dropped[0], dropped[1]);
}

#[test]
fn any_step_can_be_resumed() {
    let all = BatchOptions {
        flip: true,
        pad: 1,
        binarise: true,
        ..options(7)
    };
    let mut straight = counting(50, all.clone());
    let mut batches = Vec::new();
    for step in 0..30 {
        let mut out = vec![f32::NAN; straight.values()];
        let position = straight.position(step).expect("a position");
        assert_eq!(
            position,
            Position {
                epoch: (step / 7) as u32,
                batch: (step % 7) as usize
            }
        );
        let items = straight
            .training_batch(position, &mut out)
            .expect("a batch");
        batches.push((items, out));
    }
    for step in [29, 3, 17, 0, 28] {
        let mut fresh = counting(50, all.clone());
        let mut out = vec![f32::NAN; fresh.values()];
        let position = fresh.position(step).expect("a position");
        let items = fresh.training_batch(position, &mut out).expect("a batch");
        assert_eq!((items, out), batches[step as usize], "step {step}");
    }
}

#[test]
fn threads_change_nothing() {
    let draw = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a pool");
        pool.install(|| {
            let mut batcher = counting(
                64,
                BatchOptions {
                    flip: true,
                    binarise: true,
                    ..options(64)
                },
            );
            let mut out = vec![0.0; batcher.values()];
            batcher
                .training_batch(Position { epoch: 3, batch: 0 }, &mut out)
                .expect("a batch");
            out
        })
    };
    assert_eq!(draw(1), draw(5));
}

#[test]
fn values_are_scaled_padded_and_flipped() {
    let mut batcher = counting(
        40,
        BatchOptions {
            pad: 2,
            flip: true,
            ..options(40)
        },
    );
    assert_eq!(
        batcher.shape(),
        ImageShape {
            height: 6,
            width: 7,
            channels: 1
        }
    );
    let mut flips = Vec::new();
    for epoch in 0..50 {
        let mut out = vec![f32::NAN; batcher.values()];
        let items = batcher
            .training_batch(Position { epoch, batch: 0 }, &mut out)
            .expect("a batch");
        for (image, item) in out.chunks_exact(42).zip(items) {
            let value = |offset: u32| (item + offset) as f32 / 255.0;
            let flipped = image[2 * 7 + 2] != value(0);
            flips.push((item, flipped));
            for (y, line) in image.chunks_exact(7).enumerate() {
                for (x, &found) in line.iter().enumerate() {
                    let inside = (2..4).contains(&y) && (2..5).contains(&x);
                    let expected = if inside {
                        let column = if flipped { 4 - x } else { x - 2 };
                        value(((y - 2) * 3 + column) as u32)
                    } else {
                        0.0
                    };
                    assert_eq!(found, expected, "item {item}, [{y}, {x}]");
                }
            }
        }
    }
    let flipped = flips.iter().filter(|(_, flipped)| *flipped).count();
    // 2,000 fair coins: five standard deviations are 112.
    assert!((888..1112).contains(&flipped), "{flipped} of 2000");
    assert!(
        flips.contains(&(7, true)) && flips.contains(&(7, false)),
        "an item flips in some epochs only"
    );
}

#[test]
fn colour_pixels_stay_whole_when_flipped() {
    let set: Arc<dyn Dataset> = Arc::new(Glyphs::new(3, 1, 0, 8));
    let mut batcher = Batcher::new(
        set.clone(),
        BatchOptions {
            flip: true,
            ..options(8)
        },
    )
    .expect("sound options");
    let mut out = vec![0.0; batcher.values()];
    let items = batcher
        .training_batch(Position { epoch: 0, batch: 0 }, &mut out)
        .expect("a batch");
    let mut mirrored = 0;
    for (image, &index) in out.chunks_exact(768).zip(&items) {
        let pixels: Vec<f32> = item(&*set, index as usize)
            .iter()
            .map(|&v| f32::from(v) / 255.0)
            .collect();
        let mirror: Vec<f32> = pixels
            .chunks_exact(48)
            .flat_map(|row| row.chunks_exact(3).rev().flatten().copied())
            .collect();
        assert!(image == pixels || image == mirror, "item {index}");
        mirrored += usize::from(image == mirror);
    }
    assert!((1..8).contains(&mirrored), "{mirrored} of 8 mirrored");
}

#[test]
fn binarisation_follows_the_pixel_and_changes_with_the_epoch() {
    let mut batcher = counting(
        200,
        BatchOptions {
            binarise: true,
            ..options(200)
        },
    );
    let mut sums = vec![0.0f64; 200 * 6];
    let mut previous = Vec::new();
    for epoch in 0..400 {
        let mut out = vec![f32::NAN; batcher.values()];
        let items = batcher
            .training_batch(Position { epoch, batch: 0 }, &mut out)
            .expect("a batch");
        assert!(out.iter().all(|&value| value == 0.0 || value == 1.0));
        let mut ordered = vec![0.0; 1200];
        for (image, &item) in out.chunks_exact(6).zip(&items) {
            ordered[item as usize * 6..][..6].copy_from_slice(image);
        }
        sums.iter_mut()
            .zip(&ordered)
            .for_each(|(sum, &value)| *sum += f64::from(value));
        assert_ne!(ordered, previous, "epoch {epoch}");
        previous = ordered;
    }
    for (index, sum) in sums.iter().enumerate() {
        let p = ((index / 6 + index % 6) as f64) / 255.0;
        let room = 5.0 * (400.0 * p * (1.0 - p)).sqrt();
        assert!(
            (sum - 400.0 * p).abs() <= room,
            "value {index}: {sum} of 400, p = {p}"
        );
    }
    let evaluate = || {
        let mut out = vec![f32::NAN; batcher.values()];
        batcher.evaluation_batch(0, &mut out).expect("a batch");
        out
    };
    assert_eq!(evaluate(), evaluate());
}

#[test]
fn evaluation_pads_and_counts() {
    let batcher = counting(
        23,
        BatchOptions {
            flip: true,
            ..options(10)
        },
    );
    let mut out = vec![f32::NAN; batcher.values()];
    let mut firsts = Vec::new();
    for (batch, expected) in [10, 10, 3].into_iter().enumerate() {
        let valid = batcher.evaluation_batch(batch, &mut out).expect("a batch");
        assert_eq!(valid, expected);
        firsts.extend(
            out.chunks_exact(6)
                .take(valid)
                .map(|image| (image[0] * 255.0).round() as usize),
        );
        let last = &out[(valid - 1) * 6..valid * 6];
        assert!(
            out.chunks_exact(6).skip(valid).all(|image| image == last),
            "padding repeats the last item"
        );
    }
    assert_eq!(firsts, (0..23).collect::<Vec<_>>());
}

#[test]
fn impossible_batches_are_refused() {
    let refused = |items, size| {
        Batcher::new(Arc::new(Counting { items }), options(size))
            .err()
            .map(|e| e.to_string())
    };
    assert_contains(&refused(5, 0).expect("no batch"), &["batch size of 0"]);
    assert_contains(&refused(0, 5).expect("no items"), &["0 images"]);
    let small = counting(5, options(6));
    assert_eq!(
        (small.batches_per_epoch(), small.evaluation_batches()),
        (0, 1)
    );
    assert_contains(
        &small.position(0).expect_err("too few").to_string(),
        &["batch of 6", "5 images"],
    );
    let error = counting(5, options(5))
        .position(u64::MAX)
        .expect_err("too late")
        .to_string();
    assert_contains(&error, &["beyond epoch"]);
}
