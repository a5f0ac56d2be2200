//! Loads and stores in every state space.

use super::cluster::Common;
use super::global::GlobalAccess;
use super::machine::{Site, Worker};
use super::peers::shown;
use super::race::{ENGINE, HazardKind};
use super::registers::{Lanes64, lanes};
use super::shared::{SharedFault, describe};
use super::warp::Warp;
use crate::finding::{Access, FindingKind};
use crate::memory::{CLUSTER_WINDOW, LOCAL_WINDOW, SHARED_WINDOW, WINDOW};
use crate::ptx::isa::{Addr, Reg, Space};

/// A load or store as decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer {
    pub space: Space,
    /// Bytes of an element.
    pub bytes: u32,
    /// Elements.
    pub lanes: usize,
    pub strong: bool,
    pub release: bool,
    pub cached: bool,
    pub addr: Addr,
}

impl Transfer {
    fn total(&self) -> u32 {
        self.bytes * self.lanes as u32
    }
}

/// Splits a mask by the window that generic addresses fall into, with the addresses within their space.
fn split_generic(addresses: &Lanes64, mask: u32) -> [(Space, u32, Lanes64); 3] {
    let window = |from: u64, size: u64| {
        lanes(mask)
            .filter(|lane| (from..from + size).contains(&addresses[*lane]))
            .fold(0, |m, lane| m | 1 << lane)
    };
    let shared = window(SHARED_WINDOW, CLUSTER_WINDOW);
    let local = window(LOCAL_WINDOW, WINDOW);
    [
        (Space::Global, mask & !shared & !local, *addresses),
        (
            Space::Cluster,
            shared,
            addresses.map(|a| a.wrapping_sub(SHARED_WINDOW)),
        ),
        (
            Space::Local,
            local,
            addresses.map(|a| a.wrapping_sub(LOCAL_WINDOW)),
        ),
    ]
}

impl Worker<'_> {
    /// Reports a misaligned address; whether it is one.
    #[inline]
    pub fn misaligned(
        &mut self,
        warp: &Warp,
        lane: usize,
        address: u64,
        bytes: u32,
        access: Access,
    ) -> bool {
        if address.is_multiple_of(u64::from(bytes)) {
            return false;
        }
        let memory = self.m.memory;
        self.report_access(
            warp.site(lane),
            FindingKind::Misaligned,
            access,
            address,
            || {
                (
                    format!("{bytes}-byte {access:?} at an address that is no multiple of {bytes}")
                        .to_lowercase(),
                    memory.nearest(address),
                )
            },
        );
        true
    }

    pub fn out_of_bounds(
        &mut self,
        warp: &Warp,
        lane: usize,
        address: u64,
        bytes: u32,
        access: Access,
    ) {
        let memory = self.m.memory;
        self.report_access(
            warp.site(lane),
            FindingKind::OutOfBounds,
            access,
            address,
            || {
                let word = format!("{access:?}").to_lowercase();
                (
                    format!("{bytes}-byte {word} outside every allocation"),
                    memory.nearest(address),
                )
            },
        );
    }

    pub fn shared_out_of_bounds(
        &mut self,
        warp: &Warp,
        lane: usize,
        address: u64,
        bytes: u32,
        access: Access,
    ) {
        let (code, cta) = (self.m.code, self.cta);
        self.report_access(
            warp.site(lane),
            FindingKind::OutOfBounds,
            access,
            shown(address),
            || {
                let word = format!("{access:?}").to_lowercase();
                (
                    format!("{bytes}-byte {word} outside every shared variable"),
                    Some(describe(code, cta, address)),
                )
            },
        );
    }

    /// Reports what is wrong with an access to shared memory.
    pub fn shared_fault(
        &mut self,
        warp: &Warp,
        lane: usize,
        address: u64,
        access: Access,
        fault: SharedFault,
    ) {
        self.shared_fault_at(warp.site(lane), address, access, fault);
    }

    /// The same at any instruction.
    pub fn shared_fault_at(
        &mut self,
        site: Site,
        address: u64,
        access: Access,
        fault: SharedFault,
    ) {
        let (kind, message) = match fault {
            SharedFault::Unwritten => (
                FindingKind::UnwrittenShared,
                "read of shared memory that nothing wrote".to_owned(),
            ),
            SharedFault::InFlight => (
                FindingKind::AsyncCopyNotWaited,
                "access to shared memory that an asynchronous copy fills, before the copy was waited for"
                    .to_owned(),
            ),
            SharedFault::Mbarrier => (
                FindingKind::MbarrierMisuse,
                "access to the bytes of an mbarrier by something else than mbarrier instructions"
                    .to_owned(),
            ),
            SharedFault::NoProxyFence(writer) => (
                FindingKind::NoProxyFence,
                format!(
                    "wgmma or a bulk copy reads what {} wrote with no fence.proxy.async after",
                    self.warp_name(writer)
                ),
            ),
            SharedFault::Race(hazard) => {
                let kind = match (hazard.async_copy, hazard.in_warp) {
                    (true, _) => FindingKind::AsyncCopyNoBarrier,
                    (false, true) => FindingKind::SharedRaceInWarp,
                    (false, false) => FindingKind::SharedRace,
                };
                let what = match hazard.kind {
                    HazardKind::ReadAfterWrite
                        if hazard.async_copy && hazard.other != ENGINE =>
                    {
                        "reads what a cp.async of"
                    }
                    HazardKind::ReadAfterWrite => "reads what",
                    HazardKind::WriteAfterRead => "changes what",
                    HazardKind::WriteAfterWrite => "overwrites with another value what",
                };
                let did = match hazard.kind {
                    HazardKind::ReadAfterWrite if hazard.async_copy => "brought",
                    HazardKind::WriteAfterRead => "read",
                    _ => "wrote",
                };
                let who = if hazard.async_copy && hazard.other == ENGINE {
                    "the copy engine brought with no wait for its mbarrier".to_owned()
                } else if hazard.in_warp {
                    format!("another lane of this warp {did} with no __syncwarp between")
                } else {
                    let warp = self.warp_name(hazard.other);
                    format!("{warp} {did} with no barrier between")
                };
                (kind, format!("shared memory race: {what} {who}"))
            }
        };
        let (code, cta) = (self.m.code, self.cta);
        self.report_access(site, kind, access, shown(address), || {
            (message, Some(describe(code, cta, address)))
        });
    }

    /// Executes a load; returns the lanes of `mask` whose values had been written.
    pub fn load(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        t: Transfer,
        signed: bool,
        d: &[Reg; 4],
        mask: u32,
    ) -> u32 {
        let addresses = warp.regs.addresses(&self.m.constants, t.addr);
        let mut one = [[0u64; 32]; 1];
        let mut four;
        let values: &mut [Lanes64] = if t.lanes == 1 {
            &mut one
        } else {
            four = [[0u64; 32]; 4];
            &mut four[..t.lanes]
        };
        let mut ok = mask;
        match t.space {
            Space::Generic => {
                for (space, part, addresses) in split_generic(&addresses, mask) {
                    if part != 0 {
                        ok &= !part
                            | self.gather(
                                common,
                                warp,
                                Transfer { space, ..t },
                                &addresses,
                                part,
                                values,
                            );
                    }
                }
            }
            _ => ok = self.gather(common, warp, t, &addresses, mask, values),
        }
        if signed {
            let shift = 64 - 8 * t.bytes;
            for value in values.iter_mut().flat_map(|v| v.iter_mut()) {
                *value = ((*value << shift) as i64 >> shift) as u64;
            }
        }
        for (reg, value) in d.iter().zip(values.iter()) {
            warp.regs.set_any(*reg, value, mask);
        }
        ok
    }

    fn gather(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        t: Transfer,
        addresses: &Lanes64,
        mask: u32,
        values: &mut [Lanes64],
    ) -> u32 {
        let total = t.total();
        let mut ok = mask;
        match t.space {
            Space::Shared | Space::Cluster => {
                self.count_shared(addresses, mask, total);
                for lane in lanes(mask) {
                    let address = addresses[lane];
                    if self.misaligned(warp, lane, address, total, Access::Read) {
                        continue;
                    }
                    let address = warp.shared(address, t.space == Space::Cluster);
                    if !self.has_shared(common, warp, lane, address, total, Access::Read) {
                        continue;
                    }
                    let part = t.bytes.min(4);
                    for (element, value) in values.iter_mut().enumerate() {
                        let mut at = address + u64::from(t.bytes) * element as u64;
                        for half in 0..t.bytes.div_ceil(4) {
                            value[lane] |= u64::from(common.shared.get(at, part)) << (32 * half);
                            if self.m.check {
                                let fault = common.shared.note_read(
                                    at,
                                    part,
                                    warp.actor(lane),
                                    &common.order,
                                    t.strong,
                                );
                                if let Some(fault) = fault {
                                    self.shared_fault(warp, lane, at, Access::Read, fault);
                                }
                                if t.strong
                                    && let Some(clock) = &mut common.order.shared
                                {
                                    clock.take_up(warp.number, at);
                                }
                            }
                            at += 4;
                        }
                    }
                }
            }
            Space::Local => {
                for lane in lanes(mask) {
                    let address = addresses[lane];
                    if self.misaligned(warp, lane, address, total, Access::Read) {
                        continue;
                    }
                    if !warp.owns_local(address, total) {
                        self.local_out_of_bounds(warp, lane, address, total, Access::Read);
                        continue;
                    }
                    for (element, value) in values.iter_mut().enumerate() {
                        let at = address + u64::from(t.bytes) * element as u64;
                        let (v, written) = warp.local.get(lane, at, t.bytes);
                        value[lane] = v;
                        if !written && let Some(origin) = warp.stored_origin.get(&at) {
                            warp.local_origin = Some(*origin);
                        }
                        ok &= !(u32::from(!written) << lane);
                    }
                }
            }
            Space::Param => {
                for lane in lanes(mask) {
                    let address = addresses[lane];
                    if self.misaligned(warp, lane, address, total, Access::Read) {
                        continue;
                    }
                    let end = address.saturating_add(u64::from(total));
                    if end > self.m.params.len() as u64 {
                        self.local_out_of_bounds(warp, lane, address, total, Access::Read);
                        continue;
                    }
                    for (element, value) in values.iter_mut().enumerate() {
                        let at = address as usize + t.bytes as usize * element;
                        let mut bytes = [0; 8];
                        bytes[..t.bytes as usize]
                            .copy_from_slice(&self.m.params[at..at + t.bytes as usize]);
                        value[lane] = u64::from_le_bytes(bytes);
                    }
                }
            }
            Space::Global | Space::Generic | Space::Const => {
                if t.space != Space::Const {
                    self.count_global(addresses, mask, total, false);
                }
                for lane in lanes(mask) {
                    let address = addresses[lane];
                    if self.misaligned(warp, lane, address, total, Access::Read) {
                        continue;
                    }
                    let Some(allocation) = self.locate(address, u64::from(total)) else {
                        self.out_of_bounds(warp, lane, address, total, Access::Read);
                        continue;
                    };
                    let mut access = GlobalAccess {
                        allocation,
                        address,
                        bytes: t.bytes.min(4),
                        who: warp.actor(lane),
                        order: &common.order,
                        site: warp.site(lane),
                        strong: t.strong,
                    };
                    let cached = t.cached || t.space == Space::Const;
                    for value in values.iter_mut() {
                        for half in 0..t.bytes.div_ceil(4) {
                            value[lane] |=
                                u64::from(self.global_read(access, cached)) << (32 * half);
                            access.address += u64::from(access.bytes);
                        }
                    }
                    if t.strong && t.space != Space::Const {
                        self.take_up(common, warp, address);
                    }
                }
            }
        }
        ok
    }

    fn local_out_of_bounds(
        &mut self,
        warp: &Warp,
        lane: usize,
        address: u64,
        bytes: u32,
        access: Access,
    ) {
        self.report_access(
            warp.site(lane),
            FindingKind::OutOfBounds,
            access,
            address,
            || {
                let word = format!("{access:?}").to_lowercase();
                let place = Some(("local memory or parameters".to_owned(), address as i64));
                (
                    format!("{bytes}-byte {word} outside the thread's own memory"),
                    place,
                )
            },
        );
    }

    /// Executes a store. `written`: the lanes whose values had been written.
    pub fn store(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        t: Transfer,
        s: &[Reg; 4],
        mask: u32,
        written: u32,
    ) {
        let addresses = warp.regs.addresses(&self.m.constants, t.addr);
        let mut one = [[0u64; 32]; 1];
        let mut four;
        let values: &mut [Lanes64] = if t.lanes == 1 {
            &mut one
        } else {
            four = [[0u64; 32]; 4];
            &mut four[..t.lanes]
        };
        for (value, reg) in values.iter_mut().zip(s) {
            *value = warp.regs.any(&self.m.constants, *reg);
        }
        if t.space == Space::Generic {
            for (space, part, addresses) in split_generic(&addresses, mask) {
                if part != 0 {
                    self.scatter(
                        common,
                        warp,
                        Transfer { space, ..t },
                        &addresses,
                        part,
                        values,
                        written,
                    );
                }
            }
        } else {
            self.scatter(common, warp, t, &addresses, mask, values, written);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn scatter(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        t: Transfer,
        addresses: &Lanes64,
        mask: u32,
        values: &[Lanes64],
        written: u32,
    ) {
        let total = t.total();
        match t.space {
            Space::Shared | Space::Cluster => self.count_shared(addresses, mask, total),
            Space::Global => self.count_global(addresses, mask, total, true),
            _ => {}
        }
        if t.release {
            self.fence(common, warp, mask);
        }
        for lane in lanes(mask) {
            let address = addresses[lane];
            if self.misaligned(warp, lane, address, total, Access::Write) {
                continue;
            }
            match t.space {
                Space::Shared | Space::Cluster => {
                    let address = warp.shared(address, t.space == Space::Cluster);
                    if !self.has_shared(common, warp, lane, address, total, Access::Write) {
                        continue;
                    }
                    for (element, value) in values.iter().enumerate() {
                        let at = address + u64::from(t.bytes) * element as u64;
                        for half in 0..t.bytes.div_ceil(4) {
                            let word = (value[lane] >> (32 * half)) as u32;
                            self.shared_write(
                                common,
                                warp,
                                lane,
                                at + 4 * u64::from(half),
                                t.bytes.min(4),
                                word,
                                t.strong,
                            );
                        }
                    }
                }
                Space::Local => {
                    if !warp.owns_local(address, total) {
                        self.local_out_of_bounds(warp, lane, address, total, Access::Write);
                        continue;
                    }
                    for (element, value) in values.iter().enumerate() {
                        let at = address + u64::from(t.bytes) * element as u64;
                        if written >> lane & 1 == 0 {
                            let meta = &self.m.code.meta[warp.pc as usize];
                            let origin = warp.source_origin(meta, warp.pc, mask);
                            warp.stored_origin.insert(at, origin);
                        }
                        warp.local
                            .put(lane, at, t.bytes, value[lane], written >> lane & 1 == 1);
                    }
                }
                _ => {
                    let Some(allocation) = self.locate(address, u64::from(total)) else {
                        self.out_of_bounds(warp, lane, address, total, Access::Write);
                        continue;
                    };
                    let mut access = GlobalAccess {
                        allocation,
                        address,
                        bytes: t.bytes.min(4),
                        who: warp.actor(lane),
                        order: &common.order,
                        site: warp.site(lane),
                        strong: t.strong,
                    };
                    for value in values {
                        for half in 0..t.bytes.div_ceil(4) {
                            self.global_write(access, (value[lane] >> (32 * half)) as u32);
                            access.address += u64::from(access.bytes);
                        }
                    }
                    if t.strong {
                        self.leave(common, warp, address);
                    }
                }
            }
        }
    }

    /// Stores one word or less to shared memory, checked for races.
    #[allow(clippy::too_many_arguments)]
    pub fn shared_write(
        &mut self,
        common: &mut Common,
        warp: &Warp,
        lane: usize,
        address: u64,
        bytes: u32,
        value: u32,
        atomic: bool,
    ) {
        let value = if bytes == 4 {
            value
        } else {
            value & ((1 << (8 * bytes)) - 1)
        };
        if self.m.check {
            let actor = warp.actor(lane);
            let fault = common.shared.note_write(
                address,
                bytes,
                value,
                actor,
                &common.order,
                atomic,
                false,
            );
            if let Some(fault) = fault {
                self.shared_fault(warp, lane, address, Access::Write, fault);
            }
            if atomic && let Some(clock) = &mut common.order.shared {
                clock.leave(warp.number, address);
            }
        }
        common.shared.put(address, bytes, value);
    }
}
