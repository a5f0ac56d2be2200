//! Device properties, allocation and copies.

use std::{ffi::c_void, ptr, sync::Arc};

use cudarc::driver::{CudaContext, CudaSlice, result, sys};

use crate::{Failure, Outcome, ensure};

/// What an engine asks a device before it plans.
pub fn device(context: &Arc<CudaContext>) -> Outcome {
    use sys::CUdevice_attribute_enum as Attribute;
    ensure!(CudaContext::device_count()? >= 1, "no device is counted");
    let mut version = 0;
    // SAFETY: the pointer is to a live integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    ensure!(version >= 12_000, "driver version {version}");
    let name = context.name()?;
    let (major, minor) = context.compute_capability()?;
    ensure!(
        name.contains("NVIDIA") && major >= 8,
        "{name}, compute capability {major}.{minor}"
    );
    let (free, total) = context.mem_get_info()?;
    ensure!(
        free <= total && total == context.total_mem()?,
        "{free} of {total} bytes are free"
    );
    let sms = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let warp = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?;
    let shared =
        context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
    ensure!(
        sms > 0 && warp == 32 && shared > 48 << 10,
        "{sms} SMs, warps of {warp}, {shared} bytes of shared memory"
    );
    ensure!(
        context.uuid()?.bytes.iter().any(|byte| *byte != 0),
        "the UUID is empty"
    );
    Ok(())
}

/// Calls `cuMemGetInfo` by the address that the driver gives for its plain name.
fn mem_get_info_by_address() -> Result<usize, Failure> {
    type MemGetInfo = unsafe extern "C" fn(*mut usize, *mut usize) -> sys::CUresult;
    let mut address: *mut c_void = ptr::null_mut();
    let mut found = sys::CUdriverProcAddressQueryResult_enum::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    let (mut free, mut total) = (0, 0);
    // SAFETY: the name ends with a NUL, the pointers are to live values, and the function found has the type of the second
    // version of cuMemGetInfo.
    unsafe {
        sys::cuGetProcAddress_v2(
            c"cuMemGetInfo".as_ptr(),
            &mut address,
            12_000,
            0,
            &mut found,
        )
        .result()?;
        ensure!(!address.is_null(), "cuMemGetInfo was not found");
        let mem_get_info = std::mem::transmute::<*mut c_void, MemGetInfo>(address);
        mem_get_info(&mut free, &mut total).result()?;
    }
    Ok(free)
}

/// Every direction, in odd lengths, and fills.
pub fn copies(context: &Arc<CudaContext>) -> Outcome {
    let stream = context.new_stream()?;
    let host: Vec<u32> = (0..1237).map(|i| i * i).collect();
    let first = stream.clone_htod(&host)?;
    let mut second = stream.alloc_zeros::<u32>(1237)?;
    ensure!(
        stream.clone_dtoh(&second)? == vec![0; 1237],
        "fresh memory is not zero"
    );
    stream.memcpy_dtod(&first, &mut second)?;
    ensure!(
        stream.clone_dtoh(&second)? == host,
        "a copy on the device changed the values"
    );
    stream.memcpy_dtod(&first.slice(0..5), &mut second.slice_mut(1000..1005))?;
    stream.memset_zeros(&mut second.slice_mut(7..9))?;
    let got = stream.clone_dtoh(&second)?;
    ensure!(
        got[1000..1005] == host[..5] && got[7..9] == [0, 0] && got[9] == 81,
        "slices went elsewhere"
    );
    let bytes: CudaSlice<u8> = stream.clone_htod(&[1, 2, 3])?;
    ensure!(stream.clone_dtoh(&bytes)? == [1, 2, 3], "three bytes");

    // The synchronous forms, and fills of 1, 2 and 4 bytes.
    // SAFETY: the allocation has 64 bytes, every range lies in it, and it is freed once.
    let words = unsafe {
        let address = result::malloc_sync(64)?;
        sys::cuMemsetD8_v2(address, 0xab, 64).result()?;
        sys::cuMemsetD16_v2(address + 8, 0x1234, 2).result()?;
        sys::cuMemsetD32_v2(address + 16, 7, 3).result()?;
        let mut words = [0_u32; 16];
        result::memcpy_dtoh_sync(&mut words, address)?;
        result::free_sync(address)?;
        words
    };
    ensure!(
        words[..8]
            == [
                0xabab_abab,
                0xabab_abab,
                0x1234_1234,
                0xabab_abab,
                7,
                7,
                7,
                0xabab_abab
            ],
        "{words:x?}"
    );
    Ok(())
}

/// Staging through pinned memory.
pub fn pinned(context: &Arc<CudaContext>) -> Outcome {
    let stream = context.new_stream()?;
    // SAFETY: the memory is written in full before it is read.
    let (mut feed, mut fetch) = unsafe {
        (
            context.alloc_pinned::<f32>(333)?,
            context.alloc_pinned_with_flags::<f32>(333, 0)?,
        )
    };
    for (index, value) in feed.as_mut_slice()?.iter_mut().enumerate() {
        *value = index as f32 / 3.0;
    }
    let device = stream.clone_htod(&feed)?;
    stream.memcpy_dtoh(&device, &mut fetch)?;
    stream.synchronize()?;
    ensure!(
        fetch.as_slice()? == feed.as_slice()?,
        "staging changed the values"
    );
    Ok(())
}

/// The default pool, its release threshold, and a pool of our own.
pub fn pools(context: &Arc<CudaContext>) -> Outcome {
    let stream = context.new_stream()?;
    let mut pool = ptr::null_mut();
    let threshold = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's own, the pointers are to live values of the attribute's type, and the allocation
    // is used and freed on the stream it was made on.
    let kept = unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()).result()?;
        let mut keep = u64::MAX;
        sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut keep).cast()).result()?;
        let mut kept = 0_u64;
        sys::cuMemPoolGetAttribute(pool, threshold, (&raw mut kept).cast()).result()?;
        let mut address = 0;
        sys::cuMemAllocFromPoolAsync(&mut address, 4096, pool, stream.cu_stream()).result()?;
        sys::cuMemsetD8Async(address, 1, 4096, stream.cu_stream()).result()?;
        sys::cuMemFreeAsync(address, stream.cu_stream()).result()?;
        sys::cuMemPoolTrimTo(pool, 0).result()?;
        kept
    };
    stream.synchronize()?;
    ensure!(kept == u64::MAX, "the release threshold is {kept}");
    Ok(())
}

/// Reads pinned memory without waiting for the copy into it: a bug that a fast GPU hides, and `--late` shows.
pub fn missing_wait() -> Outcome {
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let device = stream.clone_htod(&[7_u32; 100])?;
    // SAFETY: the memory is read as zeros or as what was copied, and freed once, after the stream is done with it.
    let got = unsafe {
        let pinned = result::malloc_host(400, 0)?.cast::<u32>();
        pinned.write_bytes(0, 100);
        let fetch = std::slice::from_raw_parts_mut(pinned, 100);
        stream.memcpy_dtoh(&device, fetch)?;
        let got = fetch[99];
        stream.synchronize()?;
        ensure!(fetch[99] == 7, "the copy was never made");
        result::free_host(pinned.cast())?;
        got
    };
    ensure!(got == 7, "the copy had not been made yet: {got}");
    Ok(())
}
