//! The nearest images of a set: what shows whether a model repeats its training images.

use rayon::prelude::*;
use serde::Serialize;

use super::manifold::squared_distance;

/// An image of the searched set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Neighbour {
    /// Which.
    pub item: usize,
    /// Its Euclidean distance.
    pub distance: f64,
}

/// A search for the nearest rows of a set that is offered part by part.
pub struct Search<'a> {
    queries: &'a [f32],
    width: usize,
    keep: usize,
    /// Of each query the nearest so far by squared distance, nearest first; of two as near the earlier.
    found: Vec<Vec<Neighbour>>,
    offered: usize,
}

impl<'a> Search<'a> {
    /// For `queries`, `[n, width]`, and the `keep` nearest rows of each.
    pub fn new(queries: &'a [f32], width: usize, keep: usize) -> Self {
        Search {
            queries,
            width,
            keep,
            found: vec![Vec::new(); queries.len() / width],
            offered: 0,
        }
    }

    /// Looks through the next rows of the set.
    pub fn offer(&mut self, rows: &[f32]) {
        let (width, keep, first) = (self.width, self.keep, self.offered);
        self.found
            .par_iter_mut()
            .zip(self.queries.par_chunks_exact(width))
            .for_each(|(found, query)| {
                for (i, row) in rows.chunks_exact(width).enumerate() {
                    let distance = squared_distance(query, row);
                    let at = found.partition_point(|n| n.distance <= distance);
                    if at < keep {
                        found.truncate(keep - 1);
                        let item = first + i;
                        found.insert(at, Neighbour { item, distance });
                    }
                }
            });
        self.offered += rows.len() / width;
    }

    /// The nearest rows of each query, nearest first.
    pub fn finish(mut self) -> Vec<Vec<Neighbour>> {
        let all = self.found.iter_mut().flatten();
        all.for_each(|n| n.distance = n.distance.sqrt());
        self.found
    }
}

/// The distance of each row of `queries` to the nearest row of `set`.
pub fn nearest_distances(queries: &[f32], set: &[f32], width: usize) -> Vec<f64> {
    let mut search = Search::new(queries, width, 1);
    search.offer(set);
    let nearest = |found: Vec<Neighbour>| found.first().map_or(f64::INFINITY, |n| n.distance);
    search.finish().into_iter().map(nearest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox;

    #[test]
    fn parts_give_what_sorting_the_whole_gives() {
        let mut noise = vec![0.0; 3 * 230];
        philox::fill_normal(&mut noise, 8, 0, 0, 0);
        // Coarse values, so that there are ties.
        noise.iter_mut().for_each(|v| *v = (2.0 * *v).round());
        let (queries, set) = noise.split_at(3 * 30);
        let mut search = Search::new(queries, 3, 4);
        for part in set.chunks(3 * 37) {
            search.offer(part);
        }
        for (query, found) in queries.chunks_exact(3).zip(search.finish()) {
            let mut all: Vec<Neighbour> = (set.chunks_exact(3).enumerate())
                .map(|(item, row)| Neighbour {
                    item,
                    distance: squared_distance(query, row).sqrt(),
                })
                .collect();
            all.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.item.cmp(&b.item)));
            assert_eq!(found, all[..4]);
        }
    }

    #[test]
    fn a_copy_is_found_and_a_small_set_is_given_whole() {
        let set = [0.0, 0.0, 3.0, 4.0];
        let mut search = Search::new(&[3.0, 4.0], 2, 3);
        search.offer(&set);
        let found = search.finish().remove(0);
        assert_eq!(found.iter().map(|n| n.item).collect::<Vec<_>>(), [1, 0]);
        assert_eq!((found[0].distance, found[1].distance), (0.0, 5.0));
        assert_eq!(nearest_distances(&[3.0, 0.0], &set, 2), [3.0]);
    }
}
