//! What the stand-in refuses when it is told to: each scenario goes with the `--fail` of its name.

use std::{ptr, sync::Arc};

use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, PushKernelArg, sys,
};

use crate::{
    Failure, Outcome, ensure,
    errors::{expect, load_with_log},
    kernels, module,
};

/// `--fail no-device`
pub fn no_device() -> Outcome {
    expect(
        CudaContext::new(0),
        sys::CUresult::CUDA_ERROR_NO_DEVICE,
        "a context without a device",
    )
}

/// `--fail old-driver`
pub fn old_driver() -> Outcome {
    let _context = CudaContext::new(0)?;
    let mut version = 0;
    // SAFETY: the pointer is to a live integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    ensure!(version == 11_040, "driver version {version}");
    let (code, log) = load_with_log(kernels::ptx("reduce"))?;
    ensure!(
        code == sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
        "{code:?}"
    );
    ensure!(log.contains("Unsupported .version 8.0"), "{log}");
    Ok(())
}

/// `--fail ptx-rejected`
pub fn ptx_rejected() -> Outcome {
    let _context = CudaContext::new(0)?;
    let (code, log) = load_with_log(kernels::ptx("reduce"))?;
    ensure!(
        code == sys::CUresult::CUDA_ERROR_INVALID_PTX && log.contains("reduce.ptx refused"),
        "{code:?}: {log}"
    );
    Ok(())
}

/// `--fail oom-at=3`
pub fn out_of_memory_at() -> Outcome {
    let context = CudaContext::new(0)?;
    let stream = context.default_stream();
    let allocate = || stream.alloc_zeros::<u8>(100);
    let _kept = (allocate()?, allocate()?);
    expect(
        allocate(),
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        "the third allocation",
    )?;
    allocate()?;
    Ok(())
}

/// `--fail oom-bytes=1000000`
pub fn out_of_memory_bytes() -> Outcome {
    let context = CudaContext::new(0)?;
    let stream = context.default_stream();
    ensure!(
        context.total_mem()? == 1_000_000,
        "{} bytes",
        context.total_mem()?
    );
    let kept = stream.alloc_zeros::<u8>(600_000)?;
    let allocated = stream.alloc_zeros::<u8>(600_000);
    expect(
        allocated,
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        "more than the limit",
    )?;
    drop(kept);
    stream.alloc_zeros::<u8>(600_000)?;
    Ok(())
}

struct Sum {
    stream: Arc<CudaStream>,
    function: CudaFunction,
    x: CudaSlice<f32>,
    total: CudaSlice<f32>,
}

impl Sum {
    fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        let stream = context.new_stream()?;
        let function = module(context, "reduce")?.load_function("reduce_atomic_f32")?;
        let (x, total) = (stream.clone_htod(&[1.0_f32; 64])?, stream.alloc_zeros(1)?);
        Ok(Self {
            stream,
            function,
            x,
            total,
        })
    }

    fn launch(&mut self) -> Result<(), DriverError> {
        let (config, n) = (kernels::geometry(1, 64), 64_i32);
        let mut launch = self.stream.launch_builder(&self.function);
        // SAFETY: the arguments are those of the kernel's signature; any grid covers the input.
        unsafe {
            launch
                .arg(&self.x)
                .arg(&mut self.total)
                .arg(&n)
                .launch(config)
        }
        .map(|_| ())
    }
}

/// `--fail launch-fails=reduce_atomic_f32:2`
pub fn launch_fails() -> Outcome {
    let context = CudaContext::new(0)?;
    let mut sum = Sum::new(&context)?;
    sum.launch()?;
    expect(
        sum.launch(),
        sys::CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
        "the second launch",
    )?;
    sum.launch()?;
    let total = sum.stream.clone_dtoh(&sum.total)?;
    ensure!(total == [128.0], "two launches of three gave {total:?}");
    Ok(())
}

/// `--fail async-error=reduce_atomic_f32:2`
pub fn async_error() -> Outcome {
    let illegal = sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    let context = CudaContext::new(0)?;
    let mut sum = Sum::new(&context)?;
    sum.launch()?;
    sum.stream.synchronize()?;
    sum.launch()?;
    sum.launch()?;
    expect(
        sum.stream.synchronize(),
        illegal,
        "synchronising after the second launch",
    )?;
    expect(sum.launch(), illegal, "a launch after the error was told")?;
    expect(context.synchronize(), illegal, "the error stays")?;
    // The context is lost: nothing can be freed in it.
    std::mem::forget((sum, context));
    Ok(())
}

/// A kernel that runs too long is stopped, with `--instruction-limit 20`.
pub fn endless() -> Outcome {
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let function = module(&context, "divergent")?.load_function("collatz")?;
    let (start, mut steps, n, limit) = (
        stream.clone_htod(&[27_u32])?,
        stream.alloc_zeros::<i32>(1)?,
        1_i32,
        1000_i32,
    );
    let mut launch = stream.launch_builder(&function);
    // SAFETY: the arguments are those of the kernel's signature, which guards the tail.
    unsafe {
        launch
            .arg(&start)
            .arg(&mut steps)
            .arg(&n)
            .arg(&limit)
            .launch(kernels::geometry(1, 32))
    }?;
    expect(
        stream.synchronize(),
        sys::CUresult::CUDA_ERROR_LAUNCH_FAILED,
        "a stopped kernel",
    )?;
    std::mem::forget((start, steps, function, stream, context));
    Ok(())
}

/// A launch in clusters that the kernel does not declare, which the stand-in refuses whatever it is told.
pub fn clusters() -> Outcome {
    let context = CudaContext::new(0)?;
    let sum = Sum::new(&context)?;
    let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
    value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: 2, y: 1, z: 1 };
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value,
    };
    let config = sys::CUlaunchConfig {
        gridDimX: 2,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 64,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: sum.stream.cu_stream(),
        attrs: &mut attribute,
        numAttrs: 1,
    };
    // SAFETY: configuration and attribute live through the call; the launch is refused before arguments are read.
    let code = unsafe {
        sys::cuLaunchKernelEx(
            &config,
            sum.function.cu_function(),
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    match code {
        sys::CUresult::CUDA_ERROR_NOT_SUPPORTED => Ok(()),
        code => Err(Failure::from(format!("{code:?}"))),
    }
}
