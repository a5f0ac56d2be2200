//! The area under the ROC curve with DeLong's interval (DeLong, DeLong, Clarke-Pearson, Biometrics 1988).

use serde::Serialize;

/// The chance that a value of one set is above one of the other; a tie counts half.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Auroc {
    /// The area, 0 to 1; 0.5 says nothing apart.
    pub value: f64,
    /// Half the width of the 95% interval, from both sets' variation; the interval is not cut off at 0 and 1. It is 0 where the sets do
    /// not overlap, which says that this many images do not suffice to tell how rare an overlap is.
    pub half_width: f64,
}

/// The 97.5% quantile of the normal law.
const Z: f64 = 1.959_963_984_540_054;

/// The chance that a value of `above` is greater than one of `below`. Exact with ties; `O(n log n)`.
///
/// # Panics
/// For fewer than two values in either set, or one that is no number.
pub fn auroc(above: &[f64], below: &[f64]) -> Auroc {
    assert!(above.len() >= 2 && below.len() >= 2, "two values in each");
    let (m, n) = (above.len() as f64, below.len() as f64);
    let both = [above, below].concat();
    let ranks = midranks(&both);
    let (among_above, among_below) = (midranks(above), midranks(below));
    // For each value of `above` the share of `below` that it exceeds, and for each of `below` the share of `above` that exceeds it.
    let exceeds: Vec<f64> = (ranks.iter().zip(&among_above))
        .map(|(rank, own)| (rank - own) / n)
        .collect();
    let exceeded: Vec<f64> = (ranks[above.len()..].iter().zip(&among_below))
        .map(|(rank, own)| 1.0 - (rank - own) / m)
        .collect();
    let variance = variance(&exceeds) / m + variance(&exceeded) / n;
    Auroc {
        value: exceeds.iter().sum::<f64>() / m,
        half_width: Z * variance.sqrt(),
    }
}

fn variance(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)
}

/// Ranks from 1; equal values share the mean of theirs.
fn midranks(values: &[f64]) -> Vec<f64> {
    assert!(values.iter().all(|v| !v.is_nan()), "a value is no number");
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let same = order[first..].iter();
        let count = same
            .take_while(|&&i| values[i] == values[order[first]])
            .count();
        let rank = first as f64 + (count + 1) as f64 / 2.0;
        order[first..first + count]
            .iter()
            .for_each(|&i| ranks[i] = rank);
        first += count;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_apart_sets_alike_and_ties() {
        let apart = auroc(&[3.0, 4.0, 5.0], &[1.0, 2.0]);
        assert_eq!((apart.value, apart.half_width), (1.0, 0.0));
        assert_eq!(auroc(&[1.0, 2.0], &[3.0, 4.0, 5.0]).value, 0.0);
        let alike = auroc(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]);
        assert!((alike.value - 0.5).abs() < 1e-15);
        // Zero has two signs and one value.
        assert_eq!(auroc(&[0.0, 0.0], &[-0.0, -0.0, 0.0]).value, 0.5);
    }

    #[test]
    fn pairs_are_counted_as_they_are() {
        // 2 > 1; 2 = 2; 4 > 1; 4 > 2; 4 < inf; 2 < inf.
        let some = auroc(&[2.0, 4.0], &[1.0, 2.0, f64::INFINITY]);
        assert!((some.value - 3.5 / 6.0).abs() < 1e-15);
        let other = auroc(&[1.0, 2.0, f64::INFINITY], &[2.0, 4.0]);
        assert!((some.value + other.value - 1.0).abs() < 1e-15);
        assert!((some.half_width - other.half_width).abs() < 1e-15);
    }
}
