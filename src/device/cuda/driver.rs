//! The driver: whether there is one, which GPUs it has, and its errors in words.

use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, result, sys};

use crate::device::DeviceError;
use crate::device::facts::{Clocks, Facts};

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
    /// Bytes of its L2 cache.
    pub l2: usize,
    /// The highest clocks that the driver names, of multiprocessors and memory, in MHz.
    pub clocks: [u32; 2],
}

impl Gpu {
    /// Whether it runs code for compute capability 9.0 and no other.
    pub fn is_sm_90a(&self) -> bool {
        self.capability == (9, 0)
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
        CU_DEVICE_ATTRIBUTE_CLOCK_RATE as CLOCK,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE as L2,
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as SHARED,
        CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE as MEMORY_CLOCK,
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
        l2: usize::try_from(attribute(L2)?).unwrap_or(0),
        // The driver counts in kHz, and newer ones may tell none.
        clocks: [CLOCK, MEMORY_CLOCK].map(|a| {
            let khz = attribute(a).unwrap_or(0);
            u32::try_from(khz / 1000).unwrap_or(0)
        }),
    })
}

/// The driver of this machine: the CUDA version that it offers, and its own version where Linux tells it.
pub fn name() -> Result<String, DeviceError> {
    let cuda = format!("CUDA {}", version_text(driver_version()?));
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    Ok(match module_version(&text) {
        Some(own) => format!("{cuda}, {own}"),
        None => cuda,
    })
}

/// The version in what the kernel module of the driver says: the first word that is numbers between points.
fn module_version(text: &str) -> Option<&str> {
    let is_version =
        |word: &&str| word.contains('.') && word.split('.').all(|n| n.parse::<u32>().is_ok());
    text.lines().next()?.split_whitespace().find(is_version)
}

/// What a GPU tells about itself.
pub(super) fn facts(gpu: &Gpu) -> Facts {
    let [multiprocessor, memory] = gpu.clocks;
    Facts {
        name: gpu.name.clone(),
        driver: name().ok(),
        clocks: (multiprocessor > 0).then_some(Clocks {
            multiprocessor,
            memory,
            nominal: true,
        }),
        multiprocessors: u32::try_from(gpu.multiprocessors).ok(),
        tuned: None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_kernel_module_is_found() {
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12.2.0\n";
        assert_eq!(module_version(text), Some("550.54.15"));
        let open =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build\n";
        assert_eq!(module_version(open), Some("570.124.06"));
        assert_eq!(module_version(""), None);
    }
}
