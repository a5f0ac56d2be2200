//! Memory on the GPU and pinned memory on the host.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys};

use super::driver::{Doing, failed};
use crate::device::DeviceError;

/// Bytes to which everything inside an allocation is aligned.
pub(super) const ALIGN: usize = 256;

/// One allocation of device memory, freed when dropped.
pub(super) struct Block {
    context: Arc<CudaContext>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Block {
    /// Uninitialised memory; `what` names it in the error.
    pub fn new(context: &Arc<CudaContext>, bytes: usize, what: &str) -> Result<Self, DeviceError> {
        context.bind_to_thread().doing("the GPU does not answer")?;
        // The driver refuses an allocation of nothing.
        // SAFETY: a plain allocation; this value owns it and frees it once.
        let address = unsafe { result::malloc_sync(bytes.max(ALIGN)) }.map_err(|error| {
            let DriverError(code) = error;
            if code != sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                return failed(&format!("{what}: no memory from the GPU"), error);
            }
            let free = context.mem_get_info().map_or(0, |(free, _)| free);
            DeviceError::Failed(format!(
                "{what} needs {} MB of GPU memory and {} MB are free: take a smaller batch, or a GPU that is not shared",
                bytes.div_ceil(1 << 20),
                free >> 20
            ))
        })?;
        Ok(Block {
            context: Arc::clone(context),
            address,
            bytes,
        })
    }

    /// The device address of byte `offset`.
    pub fn at(&self, offset: usize) -> sys::CUdeviceptr {
        assert!(
            offset <= self.bytes,
            "byte {offset} of a block of {} bytes",
            self.bytes
        );
        self.address + offset as u64
    }

    /// Zeros in a range of bytes.
    pub fn clear(
        &self,
        stream: &CudaStream,
        offset: usize,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        assert!(offset + bytes <= self.bytes);
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the range lies inside the allocation, which outlives the stream's work: whoever drops a block synchronises first.
        unsafe { result::memset_d8_async(self.at(offset), 0, bytes, stream.cu_stream()) }
            .doing("GPU memory could not be cleared")
    }

    /// Copies to the device; the host may reuse `data` at once.
    pub fn write<T: bytemuck::Pod>(
        &self,
        stream: &CudaStream,
        offset: usize,
        data: &[T],
    ) -> Result<(), DeviceError> {
        assert!(offset + size_of_val(data) <= self.bytes);
        if data.is_empty() {
            return Ok(());
        }
        // SAFETY: the range lies inside the allocation; `data` is pageable, so the driver has taken it when the call returns, and the
        // wait covers drivers that do not promise that.
        unsafe { result::memcpy_htod_async(self.at(offset), data, stream.cu_stream()) }
            .and_then(|()| stream.synchronize())
            .doing("data could not be copied to the GPU")
    }

    /// Copies to the host, after everything before it on the stream.
    pub fn read<T: bytemuck::Pod>(
        &self,
        stream: &CudaStream,
        offset: usize,
        count: usize,
    ) -> Result<Vec<T>, DeviceError> {
        assert!(offset + count * size_of::<T>() <= self.bytes);
        let mut data = vec![T::zeroed(); count];
        if count > 0 {
            // SAFETY: the range lies inside the allocation, and `data` lives until the stream has been waited for.
            unsafe { result::memcpy_dtoh_async(&mut data, self.at(offset), stream.cu_stream()) }
                .and_then(|()| stream.synchronize())
                .doing("the GPU failed, or data could not be copied from it")?;
        }
        Ok(data)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.context.record_err(self.context.bind_to_thread());
        // SAFETY: the address came from `malloc_sync` and is freed once. Freeing waits for work on the device that may use it.
        self.context
            .record_err(unsafe { result::free_sync(self.address) });
    }
}

/// Pinned host memory that the GPU copies from while the host goes on.
pub(super) struct Staging {
    context: Arc<CudaContext>,
    pointer: *mut u8,
    bytes: usize,
    /// Recorded after the last copy out of it.
    taken: CudaEvent,
    in_use: bool,
}

// SAFETY: the pointer is to memory that this value alone owns; it has no tie to a thread.
unsafe impl Send for Staging {}

impl Staging {
    pub fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, DeviceError> {
        context.bind_to_thread().doing("the GPU does not answer")?;
        // Plain pinned memory, not write-combined: the host may read it too.
        // SAFETY: a plain allocation; this value owns it and frees it once.
        let pointer = unsafe { result::malloc_host(bytes.max(1), 0) }
            .doing("no pinned host memory for feeds")?;
        Ok(Staging {
            pointer: pointer.cast(),
            bytes,
            taken: context.new_event(None).doing("the GPU makes no event")?,
            in_use: false,
            context: Arc::clone(context),
        })
    }

    /// Its bytes, once the GPU has taken what was there.
    pub fn bytes(&mut self) -> Result<&mut [u8], DeviceError> {
        if std::mem::take(&mut self.in_use) {
            self.taken.synchronize().doing("the GPU failed")?;
        }
        // SAFETY: `pointer` owns `bytes` bytes, zeroed or written by us before they are read (the caller writes what it sends), and no
        // copy is under way: its event has been waited for.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) })
    }

    /// Starts a copy of a range of bytes to `to` on the device.
    pub fn send(
        &mut self,
        stream: &CudaStream,
        offset: usize,
        bytes: usize,
        to: sys::CUdeviceptr,
    ) -> Result<(), DeviceError> {
        assert!(offset + bytes <= self.bytes);
        // SAFETY: the source lies inside this pinned allocation, which is not written or freed before the event that `sent` records
        // has passed; the caller gives a device range of as many bytes.
        let source = unsafe { std::slice::from_raw_parts(self.pointer.add(offset), bytes) };
        // SAFETY: as above.
        unsafe { result::memcpy_htod_async(to, source, stream.cu_stream()) }
            .doing("feeds could not be copied to the GPU")
    }

    /// Marks the end of this run's copies.
    pub fn sent(&mut self, stream: &CudaStream) -> Result<(), DeviceError> {
        self.in_use = true;
        self.taken.record(stream).doing("the GPU records no event")
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.in_use {
            self.context.record_err(self.taken.synchronize());
        }
        // SAFETY: the pointer came from `malloc_host` and is freed once, after the last copy out of it.
        self.context
            .record_err(unsafe { result::free_host(self.pointer.cast()) });
    }
}
