//! Capture, graphs and replay.

use std::{ffi::c_void, ptr, sync::Arc};

use cudarc::driver::{CudaContext, DriverError, PushKernelArg, result, sys};
use sys::{
    CUgraphInstantiate_flags as Flags, CUstreamCaptureMode as Mode,
    CUstreamCaptureStatus as Capturing,
};

use crate::{Outcome, ensure, kernels::geometry, module};

/// A step of several kinds of work, captured once and replayed on changed feeds.
pub fn replay(context: &Arc<CudaContext>) -> Outcome {
    // SAFETY: all work below is on one stream, or waits for events explicitly.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream()?;
    let function = module(context, "reduce")?.load_function("reduce_atomic_f32")?;
    let n = 500_i32;
    let mut feed = stream.clone_htod(&vec![0.0_f32; 500])?;
    let mut total = stream.alloc_zeros::<f32>(1)?;
    let mut results = stream.alloc_zeros::<f32>(2)?;
    stream.synchronize()?;

    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL)?;
    ensure!(
        stream.capture_status()? == Capturing::CU_STREAM_CAPTURE_STATUS_ACTIVE,
        "the stream does not capture"
    );
    stream.memset_zeros(&mut total)?;
    for _ in 0..2 {
        // SAFETY: the arguments are those of the kernel's signature; any grid covers the input.
        unsafe {
            stream
                .launch_builder(&function)
                .arg(&feed)
                .arg(&mut total)
                .arg(&n)
                .launch(geometry(2, 128))
        }?;
    }
    stream.memcpy_dtod(&total, &mut results.slice_mut(1..2))?;
    let graph = stream
        .end_capture(Flags(0))?
        .ok_or("the capture is empty")?;
    ensure!(
        stream.clone_dtoh(&results)? == [0.0, 0.0],
        "captured work was done at once"
    );

    let mut nodes = 0;
    // SAFETY: the graph is live; a null array asks for the count.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), ptr::null_mut(), &mut nodes) }.result()?;
    ensure!(nodes == 4, "{nodes} nodes");
    graph.upload()?;
    for value in [1.0_f32, 2.0, 3.0] {
        stream.memcpy_htod(&vec![value; 500], &mut feed)?;
        graph.launch()?;
        let got = stream.clone_dtoh(&results)?;
        ensure!(got == [0.0, 1000.0 * value], "a replay gave {got:?}");
    }
    Ok(())
}

extern "C" fn count(counter: *mut c_void) {
    // SAFETY: the caller passes a counter that lives until the stream has been synchronised.
    unsafe { *counter.cast::<u32>() += 1 };
}

/// A second stream joins a capture and is joined back; a host function is a node.
pub fn fork_and_join(context: &Arc<CudaContext>) -> Outcome {
    // SAFETY: the two streams wait for each other by the events below.
    unsafe { context.disable_event_tracking() };
    let main = context.new_stream()?;
    let side = context.new_stream()?;
    let (mut a, mut b) = (main.alloc_zeros::<u32>(8)?, main.alloc_zeros::<u32>(8)?);
    let mut calls = 0_u32;
    main.synchronize()?;
    main.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let forked = main.record_event(None)?;
    side.wait(&forked)?;
    // SAFETY: both allocations have 32 bytes and outlive the graph's replay; so does the counter.
    unsafe {
        result::memset_d8_async(device_address(&mut a, &main), 1, 32, main.cu_stream())?;
        result::memset_d8_async(device_address(&mut b, &side), 2, 32, side.cu_stream())?;
        sys::cuLaunchHostFunc(side.cu_stream(), Some(count), (&raw mut calls).cast()).result()?;
    }
    let joined = side.record_event(None)?;
    main.wait(&joined)?;
    let graph = main.end_capture(Flags(0))?.ok_or("the capture is empty")?;
    ensure!(
        calls == 0,
        "the host function was called during the capture"
    );
    graph.launch()?;
    graph.launch()?;
    main.synchronize()?;
    ensure!(calls == 2, "the host function was called {calls} times");
    let got = (main.clone_dtoh(&a)?[7], main.clone_dtoh(&b)?[7]);
    ensure!(got == (0x0101_0101, 0x0202_0202), "{got:x?}");
    Ok(())
}

fn device_address(
    slice: &mut cudarc::driver::CudaSlice<u32>,
    stream: &cudarc::driver::CudaStream,
) -> u64 {
    use cudarc::driver::DevicePtrMut;
    slice.device_ptr_mut(stream).0
}

fn expect<T>(got: Result<T, DriverError>, code: sys::CUresult, what: &str) -> Outcome {
    match got {
        Err(error) if error.0 == code => Ok(()),
        Err(error) => Err(format!("{what}: {error:?} and not {code:?}").into()),
        Ok(_) => Err(format!("{what}: no error").into()),
    }
}

/// What a capture forbids, and that a stream is good again afterwards.
pub fn rules(context: &Arc<CudaContext>) -> Outcome {
    use sys::CUresult::*;
    let (stream, other) = (context.new_stream()?, context.new_stream()?);
    let outside = other.record_event(None)?;
    let begin = || stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);

    begin()?;
    expect(
        stream.synchronize(),
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        "synchronising a capturing stream",
    )?;
    expect(
        stream.end_capture(Flags(0)),
        CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
        "ending a spoiled capture",
    )?;

    begin()?;
    // SAFETY: an allocation that is refused; were it made, it would leak.
    let allocated = unsafe { result::malloc_sync(16) };
    expect(
        allocated,
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        "allocating during a global capture",
    )?;
    expect(
        stream.end_capture(Flags(0)),
        CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
        "ending a spoiled capture",
    )?;

    begin()?;
    expect(
        stream.wait(&outside),
        CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
        "waiting for work outside the capture",
    )?;
    expect(
        stream.end_capture(Flags(0)),
        CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
        "ending a spoiled capture",
    )?;

    begin()?;
    let inside = stream.record_event(None)?;
    other.wait(&inside)?;
    let mut word = 0_u32;
    // SAFETY: the counter outlives the capture, which is given up.
    unsafe { sys::cuLaunchHostFunc(other.cu_stream(), Some(count), (&raw mut word).cast()) }
        .result()?;
    expect(
        other.end_capture(Flags(0)),
        CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
        "ending a capture on another stream",
    )?;
    expect(
        stream.end_capture(Flags(0)),
        CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
        "ending with a stream not joined",
    )?;

    begin()?;
    ensure!(
        stream.end_capture(Flags(0))?.is_some(),
        "an empty capture gives no graph"
    );
    stream.synchronize()?;
    ensure!(word == 0, "work of a capture that failed was done");
    Ok(())
}
