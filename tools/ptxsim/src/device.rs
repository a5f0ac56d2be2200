//! A GPU through its driver, as far as running one kernel on some buffers goes. The driver's library is opened when a
//! [`Device`] is; where there is none, that is an error like any other.

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, result, sys};
use thiserror::Error;

/// Why a GPU cannot do what is asked.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// No driver is installed.
    #[error(
        "no CUDA driver: libcuda cannot be opened; install NVIDIA's driver, or leave out --gpu"
    )]
    NoDriver,
    /// A call of the driver failed.
    #[error("{what}: {error}")]
    Driver {
        /// What was attempted.
        what: String,
        /// The driver's name and text of the error.
        error: String,
    },
}

/// The first GPU of the machine (of those that `CUDA_VISIBLE_DEVICES` leaves), its primary context bound to this thread.
pub struct Device {
    context: Arc<CudaContext>,
}

/// Device memory; freed when dropped.
pub struct DeviceBuffer {
    /// Keeps the context alive that the memory belongs to.
    _context: Arc<CudaContext>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

/// A loaded module; unloaded when dropped.
pub struct DeviceModule {
    _context: Arc<CudaContext>,
    handle: sys::CUmodule,
}

/// Geometry and arguments of a launch.
pub struct DeviceLaunch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads per block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Arguments, packed at the kernel's offsets.
    pub params: Vec<u8>,
}

/// Says what was attempted when a call fails.
fn at<T>(what: impl FnOnce() -> String, result: Result<T, DriverError>) -> Result<T, DeviceError> {
    result.map_err(|error| {
        let name = error.error_name().map(|name| name.to_string_lossy());
        let text = error.error_string().map(|text| text.to_string_lossy());
        let error = match (name, text) {
            (Ok(name), Ok(text)) => format!("{name} ({text})"),
            _ => format!("{:?}", error.0),
        };
        DeviceError::Driver {
            what: what(),
            error,
        }
    })
}

impl Device {
    /// Opens the driver and the first GPU.
    pub fn open() -> Result<Device, DeviceError> {
        // SAFETY: opens a library of that name and closes it again; its initialisers are those of a driver.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoDriver);
        }
        let context = at(|| "the first GPU".into(), CudaContext::new(0))?;
        at(|| "the first GPU".into(), context.bind_to_thread())?;
        Ok(Device { context })
    }

    /// Name of the GPU.
    pub fn name(&self) -> Result<String, DeviceError> {
        at(|| "the GPU's name".into(), self.context.name())
    }

    /// The newest CUDA version that the driver knows, such as `12.8`.
    pub fn driver_version(&self) -> Result<String, DeviceError> {
        let mut version = 0;
        // SAFETY: writes one integer, which lives through the call.
        let code = unsafe { sys::cuDriverGetVersion(&mut version) };
        at(|| "the driver's version".into(), code.result())?;
        Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
    }

    /// Allocates at least `bytes` bytes and fills them.
    pub fn buffer(&self, label: &str, content: &[u8]) -> Result<DeviceBuffer, DeviceError> {
        let bytes = content.len();
        // SAFETY: yields memory of that size (the driver refuses zero), which `DeviceBuffer` owns.
        let allocated = unsafe { result::malloc_sync(bytes.max(1)) };
        let address = at(|| format!("buffer {label} of {bytes} bytes"), allocated)?;
        let buffer = DeviceBuffer {
            _context: Arc::clone(&self.context),
            address,
            bytes,
        };
        if bytes > 0 {
            // SAFETY: the memory was allocated above with at least `bytes` bytes, and `content` has exactly as many.
            let copied = unsafe { result::memcpy_htod_sync(address, content) };
            at(|| format!("the content of {label}"), copied)?;
        }
        Ok(buffer)
    }

    /// Loads PTX; an error has the driver's log.
    pub fn load(&self, ptx: &str) -> Result<DeviceModule, DeviceError> {
        use sys::CUjit_option_enum::{CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
        let refused = |error: String| DeviceError::Driver {
            what: "the PTX".into(),
            error,
        };
        let text = CString::new(ptx).map_err(|_| refused("it has a NUL byte".into()))?;
        let mut log = vec![0u8; 8192];
        let mut options = [CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values: [*mut c_void; 2] = [
            log.as_mut_ptr().cast(),
            ptr::without_provenance_mut(log.len()),
        ];
        let mut handle = ptr::null_mut();
        // SAFETY: the text ends with a NUL; options and values are arrays of two that live through the call, and the
        // log has the size given (the driver takes sizes as pointers).
        let code = unsafe {
            sys::cuModuleLoadDataEx(
                &mut handle,
                text.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(&log[..end]).trim().to_owned();
        match at(|| "the PTX".into(), code.result()) {
            Ok(()) => Ok(DeviceModule {
                _context: Arc::clone(&self.context),
                handle,
            }),
            Err(DeviceError::Driver { error, .. }) if !log.is_empty() => {
                Err(refused(format!("{error}: {log}")))
            }
            Err(error) => Err(error),
        }
    }

    /// Runs a kernel to its end. Every pointer among the arguments must be into a buffer of this device that lives, or
    /// the driver reports an illegal address, after which the context is of no more use.
    pub fn launch(
        &self,
        module: &DeviceModule,
        kernel: &str,
        launch: &DeviceLaunch,
    ) -> Result<(), DeviceError> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let what = || format!("kernel {kernel}");
        let name = CString::new(kernel).map_err(|_| DeviceError::Driver {
            what: what(),
            error: "its name has a NUL byte".into(),
        })?;
        // SAFETY: the module is loaded as long as `module` lives, and the function is not used longer.
        let function = at(what, unsafe {
            result::module::get_function(module.handle, name)
        })?;
        if launch.dynamic_shared > 48 << 10 {
            // SAFETY: `function` comes from a module that is loaded.
            let opted_in = unsafe {
                result::function::set_function_attribute(
                    function,
                    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    i32::try_from(launch.dynamic_shared).unwrap_or(i32::MAX),
                )
            };
            at(
                || format!("{} bytes of dynamic shared memory", launch.dynamic_shared),
                opted_in,
            )?;
        }
        // The arguments go as one packed buffer, whose size the driver checks. The list's keys are those of the header
        // (CU_LAUNCH_PARAM_BUFFER_POINTER, _SIZE and _END).
        let mut params = launch.params.clone();
        let mut size = params.len();
        let mut extra: [*mut c_void; 5] = [
            ptr::without_provenance_mut(1),
            params.as_mut_ptr().cast(),
            ptr::without_provenance_mut(2),
            (&raw mut size).cast(),
            ptr::null_mut(),
        ];
        let extra = if params.is_empty() {
            ptr::null_mut()
        } else {
            extra.as_mut_ptr()
        };
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        let (shared, stream) = (launch.dynamic_shared, ptr::null_mut());
        // SAFETY: `extra` is a list that ends with a null key, of a buffer and its size, both of which live through the
        // call; the driver copies the buffer before it returns. The null stream exists in every context.
        let launched = unsafe {
            sys::cuLaunchKernel(
                function,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                shared,
                stream,
                ptr::null_mut(),
                extra,
            )
        }
        .result();
        at(|| format!("the launch of {kernel}"), launched)?;
        at(|| format!("running {kernel}"), self.context.synchronize())
    }
}

impl DeviceBuffer {
    /// The device address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The content.
    pub fn read(&self) -> Result<Vec<u8>, DeviceError> {
        let mut content = vec![0u8; self.bytes];
        if self.bytes > 0 {
            // SAFETY: the memory has at least `self.bytes` bytes, and `content` exactly as many.
            let copied = unsafe { result::memcpy_dtoh_sync(&mut content, self.address) };
            at(|| "reading a buffer".into(), copied)?;
        }
        Ok(content)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `Device::buffer`, freed here only; launches have ended, as `Device::launch` waits.
        // A failure means that the context is lost, and the memory with it.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

impl Drop for DeviceModule {
    fn drop(&mut self) {
        // SAFETY: loaded by `Device::load`, unloaded here only; no launch of its kernels runs. A failure means that
        // the context is lost, and the module with it.
        let _ = unsafe { result::module::unload(self.handle) };
    }
}
