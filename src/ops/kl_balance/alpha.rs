//! Sizes of latent groups, by which KL balancing divides.

/// How a group's size follows from its scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpha {
    /// 1 for every group.
    Equal,
    /// `2^s`, with `s = 0` at the top scale.
    Linear,
    /// `sqrt(2^s)`.
    Sqrt,
    /// `4^s` over the number of groups in the scale: what stage 1 uses.
    Square,
}

/// The size of each group from the top of the hierarchy down, divided by the smallest.
///
/// `groups_per_scale` starts with the highest resolution, as configurations do; the top of the hierarchy is its last entry.
pub fn alpha(kind: Alpha, groups_per_scale: &[usize]) -> Vec<f64> {
    let mut sizes = Vec::new();
    for (scale, &groups) in groups_per_scale.iter().rev().enumerate() {
        let extent = (scale as f64).exp2();
        let size = match kind {
            Alpha::Equal => 1.0,
            Alpha::Linear => extent,
            Alpha::Sqrt => extent.sqrt(),
            Alpha::Square => extent * extent / groups as f64,
        };
        sizes.extend(std::iter::repeat_n(size, groups));
    }
    let smallest = sizes.iter().copied().fold(f64::INFINITY, f64::min);
    sizes.iter_mut().for_each(|size| *size /= smallest);
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn square_divides_by_the_groups_of_a_scale() {
        // Top scale: 1 / 2 each; below: 4 / 4.
        assert_eq!(
            alpha(Alpha::Square, &[4, 2]),
            [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
        );
    }
}
