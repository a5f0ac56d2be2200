//! Places in one arena for tensors that live at different times.

/// A tensor's life, in positions of a program's order, both ends included, and its place.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its length, in whatever the arena is measured in.
    pub size: usize,
    /// When it is written first.
    pub first: usize,
    /// When it is read last.
    pub last: usize,
    /// Where it begins: what [`place`] decides.
    pub offset: usize,
}

/// Gives each block an offset such that blocks alive at the same time do not overlap; returns the arena's length.
///
/// Largest first, each at the lowest gap that is free throughout its life: the usual greedy rule, within a few percent of the
/// live-set bound on these programs.
pub fn place(blocks: &mut [Block]) -> usize {
    let mut by_size: Vec<usize> = (0..blocks.len()).collect();
    by_size.sort_by_key(|&b| (std::cmp::Reverse(blocks[b].size), blocks[b].first, b));
    let mut placed: Vec<usize> = Vec::with_capacity(blocks.len()); // sorted by offset
    let mut arena = 0;
    for b in by_size {
        let mut offset = 0;
        for &other in &placed {
            let o = &blocks[other];
            let together = o.first <= blocks[b].last && blocks[b].first <= o.last;
            if together && o.size > 0 {
                if offset + blocks[b].size <= o.offset {
                    break;
                }
                offset = offset.max(o.offset + o.size);
            }
        }
        blocks[b].offset = offset;
        arena = arena.max(offset + blocks[b].size);
        let at = placed.partition_point(|&p| (blocks[p].offset, p) < (offset, b));
        placed.insert(at, b);
    }
    arena
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_that_live_together_never_overlap(
            raw in proptest::collection::vec((1usize..200, 0usize..40, 0usize..20), 1..60)
        ) {
            let mut blocks: Vec<Block> = raw
                .iter()
                .map(|&(size, first, life)| Block { size, first, last: first + life, offset: 0 })
                .collect();
            let arena = place(&mut blocks);
            let mut peak = 0;
            for t in 0..60 {
                peak = peak.max(blocks.iter().filter(|b| b.first <= t && t <= b.last).map(|b| b.size).sum());
            }
            prop_assert!(arena >= peak);
            for (i, a) in blocks.iter().enumerate() {
                prop_assert!(a.offset + a.size <= arena);
                for b in &blocks[..i] {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = a.offset + a.size <= b.offset || b.offset + b.size <= a.offset;
                    prop_assert!(!together || apart);
                }
            }
        }
    }
}
