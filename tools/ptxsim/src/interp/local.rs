//! Local memory of a warp's lanes: the kernel's variables at the bottom, the frames of calls above them.

use crate::ptx::isa::Code;

/// Local memory of all lanes, one after the other, made at the first access and grown by calls.
#[derive(Debug, Default)]
pub(crate) struct Local {
    data: Vec<u8>,
    written: Vec<bool>,
    /// Bytes per lane that the kernel itself has, and that are there.
    kernel: usize,
    bytes: usize,
}

impl Local {
    pub fn reset(&mut self, code: &Code) {
        self.kernel = code.local_bytes as usize;
        self.bytes = 0;
        self.data.clear();
        self.written.clear();
    }

    /// Bytes per lane of the kernel itself.
    pub fn kernel_bytes(&self) -> u32 {
        self.kernel as u32
    }

    /// Makes room for `bytes` bytes per lane.
    pub fn reserve(&mut self, bytes: u32) {
        let wanted = (bytes as usize).max(self.kernel);
        if wanted <= self.bytes {
            return;
        }
        let old = self.bytes;
        // Doubling, so that deep recursion does not copy at every call.
        let new = wanted.max(2 * old);
        let (mut data, mut written) = (vec![0; new * 32], vec![false; new * 32]);
        for lane in 0..if old == 0 { 0 } else { 32 } {
            let from = lane * old..(lane + 1) * old;
            let to = lane * new..lane * new + old;
            data[to.clone()].copy_from_slice(&self.data[from.clone()]);
            written[to].copy_from_slice(&self.written[from]);
        }
        (self.data, self.written, self.bytes) = (data, written, new);
    }

    fn at(&self, lane: usize, address: u64, bytes: u32) -> std::ops::Range<usize> {
        let start = lane * self.bytes + address as usize;
        start..start + bytes as usize
    }

    /// A scalar of up to 8 bytes, and whether all of it was written.
    pub fn get(&mut self, lane: usize, address: u64, bytes: u32) -> (u64, bool) {
        self.reserve(0);
        let range = self.at(lane, address, bytes);
        let mut value = [0; 8];
        value[..bytes as usize].copy_from_slice(&self.data[range.clone()]);
        (
            u64::from_le_bytes(value),
            self.written[range].iter().all(|w| *w),
        )
    }

    /// Stores a scalar; storing an unwritten value makes the bytes count as unwritten.
    pub fn put(&mut self, lane: usize, address: u64, bytes: u32, value: u64, written: bool) {
        self.reserve(0);
        let range = self.at(lane, address, bytes);
        self.data[range.clone()].copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
        self.written[range].fill(written);
    }

    /// Copies bytes of a lane, and whether they were written.
    pub fn copy(&mut self, lane: usize, from: u32, to: u32, bytes: u32) {
        let source = self.at(lane, u64::from(from), bytes);
        let target = self.at(lane, u64::from(to), 0).start;
        self.data.copy_within(source.clone(), target);
        self.written.copy_within(source, target);
    }

    /// Bytes of a lane count as never written.
    pub fn forget(&mut self, lane: usize, from: u32, bytes: u32) {
        let range = self.at(lane, u64::from(from), bytes);
        self.written[range].fill(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_keeps_what_each_lane_has() {
        let mut local = Local::default();
        local.reset(&Code {
            local_bytes: 8,
            ..Code::default()
        });
        for lane in 0..32 {
            local.put(lane, 4, 4, lane as u64 + 7, true);
        }
        local.reserve(100);
        for lane in 0..32 {
            assert_eq!(local.get(lane, 4, 4), (lane as u64 + 7, true));
            assert!(!local.get(lane, 0, 4).1);
            local.copy(lane, 4, 60, 4);
            assert_eq!(local.get(lane, 60, 4), (lane as u64 + 7, true));
            local.forget(lane, 60, 1);
            assert!(!local.get(lane, 60, 4).1);
        }
    }
}
