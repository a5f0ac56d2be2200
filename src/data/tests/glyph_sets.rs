use super::*;

#[test]
fn an_item_depends_on_seed_part_and_index_alone() {
    for channels in [1, 3] {
        let set = Glyphs::new(channels, 5, 0, 100);
        let longer = Glyphs::new(channels, 5, 0, 1_000_000);
        assert_eq!(item(&set, 42), item(&longer, 42));
        assert_eq!(set.label(42), longer.label(42));
        assert_ne!(item(&set, 42), item(&set, 43));
        assert_ne!(item(&set, 42), item(&Glyphs::new(channels, 6, 0, 100), 42));
        assert_ne!(item(&set, 42), item(&Glyphs::new(channels, 5, 1, 100), 42));
    }
}

#[test]
fn the_bytes_are_fixed() {
    // FNV-1a over the first 64 items: machines, releases and instruction sets must agree.
    let set = Glyphs::new(3, 2021, 0, 64);
    let hash = (0..64)
        .flat_map(|index| item(&set, index))
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    assert_eq!(hash, FIXED_BYTES, "{hash:#x}");
}
const FIXED_BYTES: u64 = 0xaca2_a005_dfd9_d830;

#[test]
fn labels_are_uniform() {
    let set = Glyphs::new(3, 1, 0, 200_000);
    let mut counts = vec![0u32; 1000];
    for index in 0..set.len() {
        counts[set.label(index).expect("a label") as usize] += 1;
    }
    let expected = set.len() as f64 / 1000.0;
    let chi2: f64 = counts
        .iter()
        .map(|&count| (f64::from(count) - expected).powi(2) / expected)
        .sum();
    // 999 degrees of freedom: mean 999, standard deviation 44.7.
    assert!((775.0..1223.0).contains(&chi2), "chi-squared {chi2}");
}

#[test]
fn stroke_and_place_vary_but_stay_inside() {
    let set = Glyphs::new(1, 9, 0, 5000);
    let (mut inks, mut at_border) = (Vec::new(), 0.0);
    for index in 0..set.len() {
        let pixels = item(&set, index);
        // Ink above the paper: what the stroke adds.
        let above = |v: u8| f64::from(v) - 0.2 * 255.0;
        let ink: f64 = pixels.iter().map(|&v| above(v)).sum();
        inks.push(ink);
        let border = |i: &usize| matches!(i % 16, 0 | 15) || matches!(i / 16, 0 | 15);
        at_border += (0..256)
            .filter(border)
            .map(|i| above(pixels[i]))
            .sum::<f64>()
            / ink;
        assert!(pixels.iter().any(|&v| v > 150), "item {index} is faint");
    }
    let mean = inks.iter().sum::<f64>() / inks.len() as f64 / (255.0 * 256.0);
    assert!((0.048..0.15).contains(&mean), "mean {mean}");
    let cut = at_border / set.len() as f64;
    assert!(cut < 0.01, "{cut} of the ink lies on the border");
}

/// A perceptron with one hidden layer of 64, trained by plain SGD: small enough to fail on classes that overlap.
#[test]
fn a_small_classifier_separates_the_classes() {
    const HIDDEN: usize = 64;
    const CLASSES: usize = 10;
    let train = Glyphs::new(1, 3, 0, 6000);
    let test = Glyphs::new(1, 3, 2, 2000);
    let load =
        |set: &Glyphs| read_f32(set, &(0..set.len()).collect::<Vec<_>>()).expect("drawn images");
    let (train_x, test_x) = (load(&train), load(&test));
    let mut w1 = vec![0.0f32; 256 * HIDDEN];
    crate::philox::fill_normal(&mut w1, 1, 0, 0, 0);
    w1.iter_mut().for_each(|w| *w *= 0.1);
    let mut w2 = vec![0.0f32; HIDDEN * CLASSES];
    let forward = |w1: &[f32], w2: &[f32], x: &[f32]| {
        let mut hidden = [0.0f32; HIDDEN];
        for (row, &x) in w1.chunks_exact(HIDDEN).zip(x) {
            hidden.iter_mut().zip(row).for_each(|(h, &w)| *h += x * w);
        }
        hidden.iter_mut().for_each(|h| *h = h.max(0.0));
        let mut logits = [0.0f32; CLASSES];
        for (row, &h) in w2.chunks_exact(CLASSES).zip(&hidden) {
            logits.iter_mut().zip(row).for_each(|(l, &w)| *l += h * w);
        }
        (hidden, logits)
    };
    for epoch in 0..25 {
        let rate = 0.03 * (1.0 - epoch as f32 / 25.0);
        for &index in &shuffled(train.len(), 4, epoch) {
            let x = &train_x[index as usize * 256..][..256];
            let (hidden, mut delta) = forward(&w1, &w2, x);
            let max = delta.iter().copied().fold(f32::MIN, f32::max);
            delta.iter_mut().for_each(|l| *l = (*l - max).exp());
            let sum: f32 = delta.iter().sum();
            delta.iter_mut().for_each(|p| *p /= sum);
            delta[train.label(index as usize).expect("a label") as usize] -= 1.0;
            let mut back = [0.0f32; HIDDEN];
            for ((row, &h), back) in w2.chunks_exact_mut(CLASSES).zip(&hidden).zip(&mut back) {
                *back = if h > 0.0 {
                    row.iter().zip(&delta).map(|(w, d)| w * d).sum()
                } else {
                    0.0
                };
                row.iter_mut()
                    .zip(&delta)
                    .for_each(|(w, d)| *w -= rate * h * d);
            }
            for (row, &x) in w1.chunks_exact_mut(HIDDEN).zip(x) {
                if x > 0.0 {
                    row.iter_mut()
                        .zip(&back)
                        .for_each(|(w, b)| *w -= rate * x * b);
                }
            }
        }
    }
    let right = (0..test.len())
        .filter(|&index| {
            let (_, logits) = forward(&w1, &w2, &test_x[index * 256..][..256]);
            let best = (0..CLASSES).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            best.map(|class| class as u32) == test.label(index)
        })
        .count();
    let accuracy = right as f64 / test.len() as f64;
    println!("accuracy {accuracy}");
    assert!(accuracy > 0.98, "accuracy {accuracy}");
}

#[test]
fn sources_give_three_disjoint_parts() {
    let source = Source::StackedGlyphs {
        seed: 1,
        train_items: 30,
        held_out_items: 20,
    };
    let splits = source.open(Validation::Published).expect("a built-in set");
    let test = splits.test.expect("a test part");
    assert_eq!(
        (splits.train.len(), splits.valid.len(), test.len()),
        (30, 20, 20)
    );
    assert_ne!(item(&*splits.train, 0), item(&*splits.valid, 0));
    assert_ne!(item(&*test, 0), item(&*splits.valid, 0));
    let none = Source::Glyphs {
        seed: 1,
        train_items: 0,
        held_out_items: 20,
    };
    assert_contains(
        &none
            .open(Validation::Published)
            .err()
            .expect("no items")
            .to_string(),
        &["at least 1"],
    );
}
