//! Sectors and bank conflicts of a warp's access.

use super::machine::Worker;
use super::registers::{Lanes64, lanes};
use crate::memory::Allocation;

/// Passes that an access to shared memory takes, and those that its bytes need. 32 banks of four bytes; 8-byte
/// accesses go by half warps and 16-byte ones by quarter warps; lanes that want the same word share it.
pub(crate) fn bank_passes(addresses: &Lanes64, mask: u32, bytes: u32) -> (u64, u64) {
    let (parts, words) = match bytes {
        16 => (4, 4),
        8 => (2, 2),
        _ => (1, 1),
    };
    let width = 32 / parts;
    let (mut passes, mut needed) = (0, 0);
    for part in 0..parts {
        let group = mask >> (part * width) & (!0 >> (32 - width));
        if group == 0 {
            continue;
        }
        needed += 1;
        // The first word of each bank; further ones are conflicts.
        let mut first = [u64::MAX; 32];
        let mut depth = [1u64; 32];
        let mut extra = [u64::MAX; 32];
        let mut extras = 0;
        for lane in lanes(group) {
            let word = addresses[lane + (part * width) as usize] / 4;
            for word in word..word + words {
                let bank = (word % 32) as usize;
                if first[bank] == u64::MAX {
                    first[bank] = word;
                } else if first[bank] != word && !extra[..extras].contains(&word) && extras < 32 {
                    extra[extras] = word;
                    extras += 1;
                    depth[bank] += 1;
                }
            }
        }
        passes += depth.into_iter().max().unwrap_or(1);
    }
    (passes, needed)
}

/// Lists the 32-byte sectors of a global access, each once; returns their number and the distinct bytes asked for
/// (as far as neighbouring lanes tell).
pub(crate) fn sectors(
    addresses: &Lanes64,
    mask: u32,
    bytes: u32,
    list: &mut [u64; 64],
) -> (usize, u32) {
    let mut count = 0;
    let mut asked = 0;
    let mut last_address = None;
    for lane in lanes(mask) {
        let address = addresses[lane];
        if last_address != Some(address) {
            asked += bytes;
        }
        last_address = Some(address);
        let (from, to) = (
            address / 32,
            address.saturating_add(u64::from(bytes) - 1) / 32,
        );
        for sector in from..=to {
            let known = &list[..count];
            if known.last() != Some(&sector) && !known.contains(&sector) && count < list.len() {
                list[count] = sector;
                count += 1;
            }
        }
    }
    (count, asked)
}

impl Worker<'_> {
    /// Counts the sectors of a bulk copy.
    pub fn count_bulk(&mut self, allocation: &Allocation, address: u64, bytes: u32, store: bool) {
        let bytes = u64::from(bytes);
        let sectors = address / 32..(address + bytes).div_ceil(32);
        let (count, mut unique) = (sectors.end - sectors.start, 0);
        for sector in sectors {
            let index = ((sector * 32).saturating_sub(allocation.base) / 32) as usize;
            unique += u64::from(allocation.touch_sector(index, self.m.launch, store));
        }
        let c = &mut self.counters;
        c.bulk_copies += 1;
        c.bulk_bytes += bytes;
        *c.sectors_by_width.entry(16).or_default() += count;
        c.ideal_sectors += bytes.div_ceil(32).min(count);
        if store {
            c.global_store_bytes += bytes;
            c.store_sectors += count;
            c.store_sectors_unique += unique;
        } else {
            c.global_load_bytes += bytes;
            c.load_sectors += count;
            c.load_sectors_unique += unique;
        }
    }

    pub fn count_shared(&mut self, addresses: &Lanes64, mask: u32, total: u32) {
        let (passes, needed) = bank_passes(addresses, mask, total);
        self.counters.shared_requests += 1;
        self.counters.shared_wavefronts += passes;
        self.counters.bank_conflicts += passes - needed;
    }

    pub fn count_ldmatrix(&mut self, addresses: &Lanes64, mask: u32) {
        self.count_shared(addresses, mask, 16);
    }

    /// Counts the sectors of a global access, each once per launch too.
    pub fn count_global(&mut self, addresses: &Lanes64, mask: u32, total: u32, store: bool) {
        let mut list = [0u64; 64];
        let (count, bytes) = sectors(addresses, mask, total, &mut list);
        let mut unique = 0;
        for sector in &list[..count] {
            let Some(allocation) = self
                .locate(sector * 32, 1)
                .or_else(|| self.locate(sector * 32 + 31, 1))
            else {
                continue;
            };
            let index = ((sector * 32).saturating_sub(allocation.base) / 32) as usize;
            unique += u64::from(allocation.touch_sector(index, self.m.launch, store));
        }
        let count = count as u64;
        let c = &mut self.counters;
        c.global_requests += 1;
        *c.sectors_by_width.entry(total).or_default() += count;
        c.ideal_sectors += u64::from(bytes.div_ceil(32)).min(count);
        let asked = u64::from(mask.count_ones() * total);
        if store {
            c.global_store_bytes += asked;
            c.store_sectors += count;
            c.store_sectors_unique += unique;
        } else {
            c.global_load_bytes += asked;
            c.load_sectors += count;
            c.load_sectors_unique += unique;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_conflict_as_known() {
        let stride = |s: u64| std::array::from_fn(|lane| lane as u64 * 4 * s);
        assert_eq!(bank_passes(&stride(1), !0, 4), (1, 1));
        assert_eq!(bank_passes(&stride(0), !0, 4), (1, 1));
        assert_eq!(bank_passes(&stride(2), !0, 4), (2, 1));
        assert_eq!(bank_passes(&stride(32), !0, 4), (32, 1));
        assert_eq!(bank_passes(&stride(33), !0, 4), (1, 1));
        assert_eq!(bank_passes(&stride(4), !0, 16), (4, 4));
        assert_eq!(bank_passes(&stride(8), !0, 16), (8, 4));
    }

    #[test]
    fn sectors_of_known_patterns() {
        let mut list = [0; 64];
        let stride = |s: u64| std::array::from_fn(|lane| 4096 + lane as u64 * s);
        assert_eq!(sectors(&stride(4), !0, 4, &mut list), (4, 128));
        assert_eq!(sectors(&stride(32), !0, 4, &mut list), (32, 128));
        assert_eq!(sectors(&stride(0), !0, 4, &mut list), (1, 4));
        assert_eq!(sectors(&stride(16), !0, 16, &mut list), (16, 512));
    }
}
