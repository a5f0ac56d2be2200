//! Errors that a driver finds in what it is asked.

use std::{
    ffi::{CString, c_void},
    ptr,
    sync::Arc,
};

use cudarc::{
    driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg, result, sys},
    nvrtc::Ptx,
};

use crate::{Outcome, ensure, kernels, module};

/// Fails unless a call was refused with this code.
pub fn expect<T>(got: Result<T, DriverError>, code: sys::CUresult, what: &str) -> Outcome {
    match got {
        Err(error) if error.0 == code => Ok(()),
        Err(error) => Err(format!("{what}: {error:?} and not {code:?}").into()),
        Ok(_) => Err(format!("{what}: no error").into()),
    }
}

/// Wrong names, geometry and sizes; none of them breaks the context.
pub fn errors(context: &Arc<CudaContext>) -> Outcome {
    use sys::CUresult::*;
    let stream = context.new_stream()?;
    expect(
        CudaContext::new(1000),
        CUDA_ERROR_INVALID_DEVICE,
        "a device that is not there",
    )?;
    let reduce = module(context, "reduce")?;
    expect(
        reduce.load_function("no_such_kernel"),
        CUDA_ERROR_NOT_FOUND,
        "a kernel that is not there",
    )?;
    expect(
        stream.alloc_zeros::<u8>(1 << 50),
        CUDA_ERROR_OUT_OF_MEMORY,
        "a petabyte",
    )?;
    // SAFETY: freeing what was never allocated is refused.
    let freed = unsafe { result::free_sync(0x1234_5600) };
    expect(freed, CUDA_ERROR_INVALID_VALUE, "freeing a foreign address")?;

    let function = module(context, "gemm_f32")?.load_function("gemm_f32")?;
    let (x, n) = (stream.alloc_zeros::<f32>(1)?, 0_i32);
    let launch = |grid, block, shared| {
        let config = LaunchConfig {
            grid_dim: grid,
            block_dim: block,
            shared_mem_bytes: shared,
        };
        // SAFETY: with a size of zero the kernel accesses nothing; the launches are refused anyway.
        unsafe {
            stream
                .launch_builder(&function)
                .arg(&x)
                .arg(&x)
                .arg(&x)
                .arg(&n)
                .arg(&n)
                .arg(&n)
                .launch(config)
        }
    };
    expect(
        launch((1, 1, 1), (32, 32, 1), 0),
        CUDA_ERROR_INVALID_VALUE,
        "a block beyond the launch bounds",
    )?;
    expect(
        launch((1, 1, 1), (0, 1, 1), 0),
        CUDA_ERROR_INVALID_VALUE,
        "a block of no threads",
    )?;
    expect(
        launch((1, 65_536, 1), (16, 16, 1), 0),
        CUDA_ERROR_INVALID_VALUE,
        "a grid too high",
    )?;
    expect(
        launch((1, 1, 1), (16, 16, 1), 60 << 10),
        CUDA_ERROR_INVALID_VALUE,
        "shared memory not opted in to",
    )?;
    launch((1, 1, 1), (16, 16, 1), 0)?;
    stream.synchronize()?;

    let error = DriverError(CUDA_ERROR_ILLEGAL_ADDRESS);
    let (name, text) = (error.error_name()?, error.error_string()?);
    ensure!(name == c"CUDA_ERROR_ILLEGAL_ADDRESS", "{name:?}");
    ensure!(
        text == c"an illegal memory access was encountered",
        "{text:?}"
    );
    Ok(())
}

/// Loads PTX with a buffer for the JIT's log; result and log.
pub fn load_with_log(ptx: &str) -> Result<(sys::CUresult, String), Box<dyn std::error::Error>> {
    use sys::CUjit_option_enum::{CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    let text = CString::new(ptx)?;
    let mut log = vec![0_u8; 4096];
    let mut options = [CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), log.len() as *mut c_void];
    let mut handle = ptr::null_mut();
    // SAFETY: the text ends with a NUL; options and values are arrays of two that live through the call, and the buffer has
    // the size given.
    let code = unsafe {
        sys::cuModuleLoadDataEx(
            &mut handle,
            text.as_ptr().cast(),
            2,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    if code == sys::CUresult::CUDA_SUCCESS {
        // SAFETY: the module was loaded just now and nothing has come from it.
        unsafe { sys::cuModuleUnload(handle) }.result()?;
    }
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    Ok((code, String::from_utf8_lossy(&log[..end]).into_owned()))
}

/// PTX that does not parse is refused with a log that names the line.
pub fn jit_log(context: &Arc<CudaContext>) -> Outcome {
    context.bind_to_thread()?;
    let broken = kernels::ptx("gemm_f32").replacen("fma.rn.f32", "fma.of.my.own", 1);
    let line = broken
        .lines()
        .position(|line| line.contains("fma.of.my.own"))
        .ok_or("nothing was broken")?
        + 1;
    let (code, log) = load_with_log(&broken)?;
    ensure!(code == sys::CUresult::CUDA_ERROR_INVALID_PTX, "{code:?}");
    ensure!(
        log.contains(&line.to_string()),
        "line {line} is not in the log: {log}"
    );
    let (code, log) = load_with_log(kernels::ptx("gemm_f32"))?;
    ensure!(
        code == sys::CUresult::CUDA_SUCCESS && log.is_empty(),
        "{code:?}: {log}"
    );
    let loaded = context.load_module(Ptx::from_src("not PTX at all"));
    expect(
        loaded,
        sys::CUresult::CUDA_ERROR_INVALID_PTX,
        "text that is no PTX",
    )
}
