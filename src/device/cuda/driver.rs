//! The driver: whether there is one, which GPUs it has, and its errors in words.

use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, result, sys};

use crate::device::DeviceError;
use crate::program::gpu::Limits;

/// The oldest driver that loads the PTX this crate ships (ISA 8.0), as `cuDriverGetVersion` counts: CUDA 12.0.
pub const OLDEST_DRIVER: i32 = 12000;
/// The oldest architecture it is compiled for: compute capability 8.0.
pub const OLDEST_CAPABILITY: (i32, i32) = (8, 0);

/// What can be told about one GPU.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// Its number, as in `--device cuda:N`.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub capability: (i32, i32),
    /// Its memory in bytes.
    pub memory: usize,
    /// Its multiprocessors.
    pub multiprocessors: i32,
    /// Bytes of shared memory that a block can have.
    pub shared: usize,
}

impl Gpu {
    /// What its kernels can use.
    pub fn limits(&self) -> Limits {
        Limits {
            shared: self.shared,
            sm_90a: self.capability == (9, 0),
        }
    }
}

/// A driver's answer in words.
pub(super) fn failed(doing: &str, error: DriverError) -> DeviceError {
    let name = error
        .error_name()
        .map_or("an unknown error".into(), |s| s.to_string_lossy());
    let text = error
        .error_string()
        .map_or("".into(), |s| s.to_string_lossy());
    DeviceError::Failed(format!("{doing}: {name} ({text})"))
}

/// Adds what was being done to a driver's error.
pub(super) trait Doing<T> {
    fn doing(self, what: &str) -> Result<T, DeviceError>;
}

impl<T> Doing<T> for Result<T, DriverError> {
    fn doing(self, what: &str) -> Result<T, DeviceError> {
        self.map_err(|error| failed(what, error))
    }
}

/// Starts the driver, once.
///
/// # Errors
/// No driver, one too old, or no GPU that it may use.
fn start() -> Result<(), DeviceError> {
    // SAFETY: looks whether a library of that name can be opened; nothing of it is called.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::Failed(
            "no CUDA driver (libcuda) is installed: use --device cpu, or install NVIDIA's driver"
                .into(),
        ));
    }
    match result::init() {
        Ok(()) => {}
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => {
            return Err(DeviceError::Failed(
                "the CUDA driver finds no GPU: use --device cpu, or look at CUDA_VISIBLE_DEVICES"
                    .into(),
            ));
        }
        Err(error) => return Err(failed("the CUDA driver does not start", error)),
    }
    let version = driver_version()?;
    if version < OLDEST_DRIVER {
        return Err(DeviceError::Failed(format!(
            "the CUDA driver is of CUDA {}, and the kernels need {} or newer: update NVIDIA's driver, or use --device cpu",
            version_text(version),
            version_text(OLDEST_DRIVER)
        )));
    }
    Ok(())
}

fn driver_version() -> Result<i32, DeviceError> {
    let mut version = 0;
    // SAFETY: the driver writes one number through a pointer to a local that outlives the call.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .doing("the CUDA driver does not tell its version")?;
    Ok(version)
}

/// `12000` as `12.0`.
pub fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// The driver's CUDA version and its GPUs.
///
/// # Errors
/// Why there are none.
pub fn survey() -> Result<(i32, Vec<Gpu>), DeviceError> {
    start()?;
    let count = CudaContext::device_count().doing("the CUDA driver does not count its GPUs")?;
    let gpus = (0..count).map(describe).collect::<Result<_, _>>()?;
    Ok((driver_version()?, gpus))
}

fn describe(ordinal: i32) -> Result<Gpu, DeviceError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as SHARED,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
    };
    let doing = format!("GPU {ordinal} does not tell what it is");
    let device = result::device::get(ordinal).doing(&doing)?;
    // SAFETY: `device` was just handed out by the driver.
    let attribute = |a| unsafe { result::device::get_attribute(device, a) }.doing(&doing);
    Ok(Gpu {
        ordinal: ordinal as usize,
        name: result::device::get_name(device).doing(&doing)?,
        capability: (attribute(MAJOR)?, attribute(MINOR)?),
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }.doing(&doing)?,
        multiprocessors: attribute(MULTIPROCESSORS)?,
        shared: usize::try_from(attribute(SHARED)?).unwrap_or(0),
    })
}

/// Opens one GPU.
///
/// # Errors
/// No driver, one too old, no such GPU, or one too old.
pub(super) fn open(ordinal: usize) -> Result<(Arc<CudaContext>, Gpu), DeviceError> {
    let (_, gpus) = survey()?;
    let Some(gpu) = gpus.get(ordinal) else {
        return Err(DeviceError::Failed(format!(
            "there is no GPU {ordinal}: the driver has {}, numbered from 0",
            gpus.len()
        )));
    };
    if gpu.capability < OLDEST_CAPABILITY {
        let ((major, minor), (a, b)) = (gpu.capability, OLDEST_CAPABILITY);
        return Err(DeviceError::Failed(format!(
            "GPU {ordinal} ({}) has compute capability {major}.{minor}, and the kernels need {a}.{b} (2020) or newer: use --device cpu",
            gpu.name
        )));
    }
    let context =
        CudaContext::new(ordinal).doing(&format!("GPU {ordinal} ({}) does not open", gpu.name))?;
    // SAFETY: tracking orders the uses of a `CudaSlice` over several streams; this device has one stream and no such slices.
    unsafe { context.disable_event_tracking() };
    Ok((context, gpu.clone()))
}
