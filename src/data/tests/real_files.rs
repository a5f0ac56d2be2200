//! The published files, where they lie beside the checkout.

use super::*;
use crate::shared::require_shared;

#[test]
fn mnist() {
    let Some(dir) = require_shared("data/mnist") else {
        return;
    };
    let splits = Source::Mnist { dir: dir.clone() }
        .open(Validation::Published)
        .expect("MNIST");
    assert_eq!((splits.train.len(), splits.valid.len()), (60_000, 10_000));
    assert_eq!(
        splits.train.shape(),
        ImageShape {
            height: 28,
            width: 28,
            channels: 1
        }
    );
    let labels: Vec<_> = (0..10)
        .filter_map(|index| splits.train.label(index))
        .collect();
    assert_eq!(labels, [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]);
    let labels: Vec<_> = (0..10)
        .filter_map(|index| splits.valid.label(index))
        .collect();
    assert_eq!(labels, [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]);
    // The well-known mean of the training pixels.
    let sum: f64 = (0..60_000)
        .map(|i| {
            item(&*splits.train, i)
                .iter()
                .map(|&v| f64::from(v))
                .sum::<f64>()
        })
        .sum();
    let mean = sum / (60_000.0 * 784.0 * 255.0);
    assert!((mean - 0.1307).abs() < 5e-5, "{mean}");

    let stacked = Source::StackedMnist {
        dir,
        seed: 1,
        train_items: 20_000,
    }
    .open(Validation::Published)
    .expect("stacks");
    let mut seen = vec![false; 1000];
    for index in 0..20_000 {
        seen[stacked.train.label(index).expect("a label") as usize] = true;
    }
    assert!(seen.iter().all(|&seen| seen), "all 1,000 modes");
    assert_eq!(stacked.train.shape().values(), 28 * 28 * 3);
}

#[test]
fn fashion_mnist() {
    let Some(dir) = require_shared("data/fashion-mnist") else {
        return;
    };
    let splits = Source::Mnist { dir }
        .open(Validation::Tail(0.1))
        .expect("Fashion-MNIST");
    assert_eq!((splits.train.len(), splits.valid.len()), (54_000, 6_000));
    assert_eq!(splits.test.expect("the test part").len(), 10_000);
    let labels: Vec<_> = (0..5)
        .filter_map(|index| splits.train.label(index))
        .collect();
    assert_eq!(labels, [9, 0, 0, 3, 0]);
}

#[test]
fn cifar10() {
    let Some(dir) = require_shared("data/cifar10-lossless-4000") else {
        return;
    };
    for path in [dir.clone(), dir.join("train_first4000.bin")] {
        let splits = Source::Cifar10 { path }
            .open(Validation::Published)
            .expect("CIFAR-10");
        assert_eq!((splits.train.len(), splits.valid.len()), (3_600, 400));
        let labels: Vec<_> = (0..10)
            .filter_map(|index| splits.train.label(index))
            .collect();
        assert_eq!(labels, [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]);
        // The first pixel of the first image, a frog on brown ground.
        assert_eq!(item(&*splits.train, 0)[..3], [59, 62, 63]);
    }
}
