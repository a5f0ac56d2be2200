//! Occupancy.

use std::ffi::{c_int, c_uint};

use crate::{
    driver::{Driver, in_context},
    ffi::Out,
    handles::Handle,
    status::Status,
};

impl Driver {
    /// Resident blocks per SM.
    pub fn blocks_per_sm(
        &self,
        function: Handle,
        threads: u32,
        dynamic_shared: u32,
    ) -> Result<u32, Status> {
        let facts = self.function_facts(function)?;
        let shared = facts.kernel.static_shared.saturating_add(dynamic_shared);
        let chip = &self.settings.chip;
        if threads > facts.max_threads(chip) || shared > chip.shared_per_block_optin {
            return Ok(0);
        }
        Ok(chip.blocks_per_sm_for(threads, facts.registers, shared))
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: Out<c_int>,
    function: Handle,
    threads: c_int,
    dynamic_shared: usize,
) -> Status {
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks,
        function,
        threads,
        dynamic_shared,
        0,
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: Out<c_int>,
    function: Handle,
    threads: c_int,
    dynamic_shared: usize,
    _flags: c_uint,
) -> Status {
    in_context(|driver| {
        let threads = u32::try_from(threads)
            .ok()
            .filter(|threads| *threads > 0)
            .ok_or(Status::InvalidValue)?;
        let shared = u32::try_from(dynamic_shared).map_err(|_| Status::InvalidValue)?;
        blocks.set(driver.blocks_per_sm(function, threads, shared)? as c_int)
    })
}

/// The function that gives the dynamic shared memory of a block size.
type SharedOf = Option<extern "C" fn(c_int) -> usize>;

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: Out<c_int>,
    block: Out<c_int>,
    function: Handle,
    shared_of: SharedOf,
    dynamic_shared: usize,
    limit: c_int,
) -> Status {
    cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid,
        block,
        function,
        shared_of,
        dynamic_shared,
        limit,
        0,
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: Out<c_int>,
    block: Out<c_int>,
    function: Handle,
    shared_of: SharedOf,
    dynamic_shared: usize,
    limit: c_int,
    _flags: c_uint,
) -> Status {
    in_context(|driver| {
        let most = driver
            .function_facts(function)?
            .max_threads(&driver.settings.chip);
        let limit = u32::try_from(limit)
            .ok()
            .filter(|limit| *limit > 0)
            .map_or(most, |limit| limit.min(most));
        // (resident threads, threads per block, blocks per SM): of equals the largest block.
        let mut best = (0, 0, 0);
        for threads in (1..=limit.div_ceil(32)).map(|warps| (warps * 32).min(limit)) {
            let shared = shared_of.map_or(dynamic_shared, |shared_of| shared_of(threads as c_int));
            let shared = u32::try_from(shared).map_err(|_| Status::InvalidValue)?;
            let blocks = driver.blocks_per_sm(function, threads, shared)?;
            best = best.max((blocks * threads, threads, blocks));
        }
        let (_, threads, blocks) = best;
        grid.set((blocks * driver.settings.chip.sms) as c_int)?;
        block.set(threads as c_int)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: Out<usize>,
    function: Handle,
    blocks: c_int,
    threads: c_int,
) -> Status {
    in_context(|driver| {
        let blocks = u32::try_from(blocks)
            .ok()
            .filter(|blocks| *blocks > 0)
            .ok_or(Status::InvalidValue)?;
        let threads = u32::try_from(threads).map_err(|_| Status::InvalidValue)?;
        let static_shared = driver.function_facts(function)?.kernel.static_shared;
        if driver.blocks_per_sm(function, threads, 0)? < blocks {
            return bytes.set(0);
        }
        let chip = &driver.settings.chip;
        // Shared memory is handed out in units of 128 bytes, after the system's own part.
        let each = (chip.shared_per_sm / blocks) / 128 * 128;
        let each = each
            .saturating_sub(chip.shared_reserved_per_block)
            .min(chip.shared_per_block_optin);
        bytes.set(each.saturating_sub(static_shared) as usize)
    })
}
