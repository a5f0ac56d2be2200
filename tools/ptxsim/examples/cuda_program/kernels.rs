//! Launches of every form, function attributes, variables and events.

use std::{ffi::c_void, ptr, sync::Arc};

use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg, sys};

use crate::{Outcome, ensure, errors::expect, module};

/// The committed PTX by file name.
pub fn ptx(name: &str) -> &'static str {
    match name {
        "gemm_f32" => include_str!("../../tests/kernels/ptx/gemm_f32.ptx"),
        "cluster" => include_str!("../../tests/kernels/ptx/cluster.ptx"),
        "gemm_bf16" => include_str!("../../tests/kernels/ptx/gemm_bf16.ptx"),
        "gemm_tf32" => include_str!("../../tests/kernels/ptx/gemm_tf32.ptx"),
        "reduce" => include_str!("../../tests/kernels/ptx/reduce.ptx"),
        "tables" => include_str!("../../tests/kernels/ptx/tables.ptx"),
        "divergent" => include_str!("../../tests/kernels/ptx/divergent.ptx"),
        "planted_memory" => include_str!("../../tests/kernels/ptx/planted_memory.ptx"),
        _ => unreachable!("no embedded PTX {name}"),
    }
}

/// Grid and block of a one-dimensional launch.
pub fn geometry(grid: u32, block: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (grid, 1, 1),
        block_dim: (block, 1, 1),
        shared_mem_bytes: 0,
    }
}

/// A matrix product on the cores and on the tensor cores, with dynamic shared memory.
pub fn launches(context: &Arc<CudaContext>) -> Outcome {
    let stream = context.new_stream()?;
    let (m, n, k) = (67_i32, 70_i32, 45_i32);
    // Small whole numbers: exact in tf32 and in every order of summation.
    let a: Vec<f32> = (0..m * k).map(|i| (i % 7 - 3) as f32).collect();
    let b: Vec<f32> = (0..k * n).map(|i| (i % 5 - 2) as f32).collect();
    let mut want = vec![0.0_f32; (m * n) as usize];
    for (index, c) in want.iter_mut().enumerate() {
        let (row, column) = (index / n as usize, index % n as usize);
        *c = (0..k as usize)
            .map(|d| a[row * k as usize + d] * b[d * n as usize + column])
            .sum();
    }
    let (a, b) = (stream.clone_htod(&a)?, stream.clone_htod(&b)?);
    for (name, block, shared) in [
        ("gemm_f32", (16, 16, 1), 0),
        ("gemm_tf32", (128, 1, 1), 19_456),
    ] {
        let function = module(context, name)?.load_function(name)?;
        let mut c = stream.alloc_zeros::<f32>(want.len())?;
        let config = LaunchConfig {
            grid_dim: (2, 2, 1),
            block_dim: block,
            shared_mem_bytes: shared,
        };
        // SAFETY: the arguments are those of the kernel's signature, and the grid covers c and no more.
        unsafe {
            stream
                .launch_builder(&function)
                .arg(&a)
                .arg(&b)
                .arg(&mut c)
                .arg(&m)
                .arg(&n)
                .arg(&k)
                .launch(config)
        }?;
        ensure!(stream.clone_dtoh(&c)? == want, "{name} gave other numbers");
    }
    Ok(())
}

/// A kernel whose blocks work in clusters of four, where the GPU has clusters (compute capability 9.0).
pub fn clusters(context: &Arc<CudaContext>) -> Outcome {
    use sys::{CUdevice_attribute as Device, CUfunction_attribute_enum as Function};
    let (major, minor) = context.compute_capability()?;
    let has = context.attribute(Device::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH)?;
    ensure!((has != 0) == (major >= 9), "CLUSTER_LAUNCH is {has}");
    if (major, minor) != (9, 0) {
        return Ok(());
    }
    let stream = context.new_stream()?;
    let function = module(context, "cluster")?.load_function("row_sums")?;
    let width = Function::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH;
    let width = function.get_attribute(width)?;
    ensure!(width == 4, "REQUIRED_CLUSTER_WIDTH is {width}");
    let x = stream.clone_htod(&[1.0_f32; 512])?;
    let mut y = stream.alloc_zeros::<f32>(512)?;
    let mut launch = |grid: u32| {
        // SAFETY: the arguments are those of the kernel's signature; a block has 64 elements.
        let launched = unsafe {
            (stream.launch_builder(&function).arg(&x).arg(&mut y)).launch(geometry(grid, 64))
        };
        launched.map(|_| ())
    };
    launch(8)?;
    let refused = sys::CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE;
    expect(launch(6), refused, "a grid that clusters do not divide")?;
    let want = (0..512).map(|i| if matches!(i % 256, 0 | 255) { 2.0 } else { 3.0 });
    ensure!(
        stream.clone_dtoh(&y)? == want.collect::<Vec<f32>>(),
        "blocks of a cluster that read each other's memory gave other numbers"
    );
    Ok(())
}

/// cuLaunchKernel with a packed buffer, a cooperative launch, and the extended form.
pub fn raw_launches(context: &Arc<CudaContext>) -> Outcome {
    let stream = context.new_stream()?;
    let function = module(context, "reduce")?.load_function("reduce_atomic_f32")?;
    let x = stream.clone_htod(&vec![1.0_f32; 1000])?;
    let mut total = stream.alloc_zeros::<f32>(1)?;
    let n = 1000_i32;
    // SAFETY: the arguments are those of the kernel's signature; any grid covers the input.
    unsafe {
        stream
            .launch_builder(&function)
            .arg(&x)
            .arg(&mut total)
            .arg(&n)
            .launch_cooperative(geometry(2, 256))
    }?;
    ensure!(
        stream.clone_dtoh(&total)? == [1000.0],
        "a cooperative launch"
    );

    let address = |slice: &cudarc::driver::CudaSlice<f32>| {
        use cudarc::driver::DevicePtr;
        slice.device_ptr(&stream).0
    };
    let (x_address, total_address) = (address(&x), address(&total));
    let mut packed = [0_u8; 20];
    packed[..8].copy_from_slice(&x_address.to_ne_bytes());
    packed[8..16].copy_from_slice(&total_address.to_ne_bytes());
    packed[16..].copy_from_slice(&n.to_ne_bytes());
    let mut size = packed.len();
    // Keys 1 and 2 are the buffer's address and size; 0 ends the list.
    let mut extra: [*mut c_void; 5] = [
        ptr::without_provenance_mut(1),
        packed.as_mut_ptr().cast(),
        ptr::without_provenance_mut(2),
        (&raw mut size).cast(),
        ptr::null_mut(),
    ];
    // SAFETY: `extra` describes a buffer laid out as the kernel's parameters; it and what it points to live through the
    // call, and the stream is of the current context.
    unsafe {
        sys::cuLaunchKernel(
            function.cu_function(),
            3,
            1,
            1,
            64,
            1,
            1,
            0,
            stream.cu_stream(),
            ptr::null_mut(),
            extra.as_mut_ptr(),
        )
        .result()?;
    }
    ensure!(
        stream.clone_dtoh(&total)? == [2000.0],
        "a launch with a packed buffer"
    );

    let mut arguments: [*mut c_void; 3] = [
        (&raw const x_address).cast_mut().cast(),
        (&raw const total_address).cast_mut().cast(),
        (&raw const n).cast_mut().cast(),
    ];
    let config = sys::CUlaunchConfig {
        gridDimX: 2,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 96,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: stream.cu_stream(),
        attrs: ptr::null_mut(),
        numAttrs: 0,
    };
    // SAFETY: the arguments point to values of the kernel's parameter types, which live through the call.
    unsafe {
        sys::cuLaunchKernelEx(
            &config,
            function.cu_function(),
            arguments.as_mut_ptr(),
            ptr::null_mut(),
        )
        .result()?;
    }
    ensure!(stream.clone_dtoh(&total)? == [3000.0], "an extended launch");
    Ok(())
}

/// Attributes and occupancy of a kernel whose registers and shared memory are known.
pub fn attributes(context: &Arc<CudaContext>) -> Outcome {
    let function = module(context, "gemm_bf16")?.load_function("gemm_bf16")?;
    let (registers, shared) = (function.num_regs()?, function.shared_size_bytes()?);
    ensure!((32..=255).contains(&registers), "{registers} registers");
    ensure!(shared == 29_184, "{shared} bytes of shared memory");
    ensure!(function.max_threads_per_block()? == 128, "launch bounds");
    ensure!(function.ptx_version()? == 80, "PTX ISA version");
    let blocks = function.occupancy_max_active_blocks_per_multiprocessor(128, 0, None)?;
    ensure!((1..=16).contains(&blocks), "{blocks} blocks per SM");
    let dynamic = module(context, "gemm_tf32")?.load_function("gemm_tf32")?;
    let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    dynamic.set_attribute(most, 64 << 10)?;
    ensure!(
        dynamic.get_attribute(most)? == 64 << 10,
        "opting in to shared memory"
    );
    Ok(())
}

/// `__constant__` and `__device__` variables by name.
pub fn variables(context: &Arc<CudaContext>) -> Outcome {
    let stream = context.new_stream()?;
    let tables = module(context, "tables")?;
    let mut scale = tables.get_global("scale", &stream)?;
    ensure!(scale.len() == 32, "scale has {} bytes", scale.len());
    let doubled: Vec<u8> = [2.0_f64, 1.0, -4.0, 16.0]
        .iter()
        .flat_map(|x| x.to_ne_bytes())
        .collect();
    stream.memcpy_htod(&doubled, &mut scale)?;
    let function = tables.load_function("affine_f64")?;
    let (x, mut y, n) = (
        stream.clone_htod(&[1.0_f64; 5])?,
        stream.alloc_zeros::<f64>(5)?,
        5_i32,
    );
    // SAFETY: the arguments are those of the kernel's signature, which guards the tail.
    unsafe {
        stream
            .launch_builder(&function)
            .arg(&x)
            .arg(&mut y)
            .arg(&n)
            .launch(geometry(1, 64))
    }?;
    ensure!(
        stream.clone_dtoh(&y)? == [2.25, 0.0, -1.0, 16.25, 1.0],
        "the kernel read other tables"
    );
    let calls = stream.clone_dtoh(&tables.get_global("calls", &stream)?)?;
    ensure!(calls == 1_u32.to_ne_bytes(), "calls is {calls:?}");
    ensure!(
        tables.get_global("no_such", &stream).is_err(),
        "a variable that is not there was found"
    );
    Ok(())
}

/// Timing, and two streams in order.
pub fn events(context: &Arc<CudaContext>) -> Outcome {
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let (first, second) = (context.new_stream()?, context.new_stream()?);
    let function = module(context, "reduce")?.load_function("reduce_shuffle_f32")?;
    let (x, n) = (first.clone_htod(&vec![2.0_f32; 5000])?, 5000_i32);
    let mut partial = first.alloc_zeros::<f32>(4)?;
    let start = first.record_event(timed)?;
    // SAFETY: the arguments are those of the kernel's signature; `partial` has one element per block.
    unsafe {
        first
            .launch_builder(&function)
            .arg(&x)
            .arg(&mut partial)
            .arg(&n)
            .launch(geometry(4, 256))
    }?;
    let end = first.record_event(timed)?;
    second.wait(&end)?;
    let sum: f32 = second.clone_dtoh(&partial)?.iter().sum();
    ensure!(sum == 10_000.0, "the second stream read {sum}");
    let milliseconds = start.elapsed_ms(&end)?;
    ensure!(
        milliseconds > 0.0 && milliseconds < 60_000.0,
        "{milliseconds} ms"
    );
    ensure!(
        end.try_is_complete()?,
        "an event is not complete after its stream was read"
    );
    let untimed = first.record_event(None)?;
    ensure!(
        start.elapsed_ms(&untimed).is_err(),
        "time was taken to an event without timing"
    );
    Ok(())
}

/// Several host threads, each with a stream of its own, at once.
pub fn threads(context: &Arc<CudaContext>) -> Outcome {
    let reduce = module(context, "reduce")?;
    let work = &|number: i32| -> Result<f32, DriverError> {
        context.bind_to_thread()?;
        let stream = context.new_stream()?;
        let function = reduce.load_function("reduce_atomic_f32")?;
        let mut total = stream.alloc_zeros::<f32>(1)?;
        for _ in 0..5 {
            let (x, n) = (stream.clone_htod(&vec![number as f32; 300])?, 300_i32);
            // SAFETY: the arguments are those of the kernel's signature; any grid covers the input.
            unsafe {
                stream
                    .launch_builder(&function)
                    .arg(&x)
                    .arg(&mut total)
                    .arg(&n)
                    .launch(geometry(2, 64))
            }?;
        }
        Ok(stream.clone_dtoh(&total)?[0])
    };
    std::thread::scope(|scope| {
        let started: Vec<_> = (1..=4)
            .map(|number| (number, scope.spawn(move || work(number))))
            .collect();
        for (number, thread) in started {
            let sum = thread.join().map_err(|_| "a thread panicked")??;
            ensure!(sum == (1500 * number) as f32, "thread {number} got {sum}");
        }
        Ok(())
    })
}

/// Launches a kernel of planted_memory.cu on 95 elements, for the findings it gives on the stand-in.
pub fn planted(name: &str) -> Outcome {
    let context = CudaContext::new(0)?;
    let stream = context.default_stream();
    let function = module(&context, "planted_memory")?.load_function(name)?;
    let (x, mut y, n) = (
        stream.clone_htod(&[1.0_f32; 95])?,
        stream.alloc_zeros::<f32>(95)?,
        95_i32,
    );
    // SAFETY: not safe: this is the bug that the stand-in shows. On a GPU the access stays inside the allocation's page.
    unsafe {
        stream
            .launch_builder(&function)
            .arg(&x)
            .arg(&mut y)
            .arg(&n)
            .launch(geometry(3, 32))
    }?;
    stream.synchronize()?;
    ensure!(stream.clone_dtoh(&y)?[94] == 2.0, "the kernel did not run");
    Ok(())
}
