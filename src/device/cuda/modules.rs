//! The kernels: PTX that is part of the binary, loaded once per device.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, result, sys};

use super::driver::{Doing, failed};
use crate::device::DeviceError;
use crate::program::gpu::GpuLaunch;

macro_rules! modules {
    ($($name:literal),* $(,)?) => {
        /// The PTX files of this build by name: `kernels/ptx/<name>.ptx`, made from `kernels/<name>.cu` by `kernelc`.
        pub const PTX: &[(&str, &str)] = &[$(
            ($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/ptx/", $name, ".ptx")))
        ),*];
    };
}

modules![
    "batch_norm",
    "binary",
    "conv2d",
    "conv2d_bf16",
    "conv2d_tf32",
    "conv2d_window_bf16",
    "data_init",
    "decoder",
    "dwconv",
    "guard",
    "kl_balance",
    "langevin",
    "latent",
    "layout",
    "loss",
    "mala",
    "mbconv",
    "mbconv_bf16",
    "mbconv_sm90a",
    "mbconv_up_bf16",
    "noise",
    "optim",
    "peaks",
    "reduce",
    "resample",
    "spectral",
    "squeeze_excite",
    "state",
    "unary",
    "weight_norm",
];

/// The PTX of a module.
pub fn ptx(module: &str) -> Option<&'static str> {
    PTX.iter()
        .find(|(name, _)| *name == module)
        .map(|(_, text)| *text)
}

/// The most shared memory a kernel may use without asking.
const PLAIN_SHARED: u32 = 48 << 10;

/// Loaded modules and their kernels.
pub(super) struct Modules {
    context: Arc<CudaContext>,
    loaded: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<String, sys::CUfunction>,
    /// Dynamic shared memory granted to a kernel so far.
    granted: HashMap<String, u32>,
}

// SAFETY: handles of the driver, valid on any thread that has the context bound; all calls here bind it first.
unsafe impl Send for Modules {}

impl Modules {
    pub fn new(context: &Arc<CudaContext>) -> Self {
        Modules {
            context: Arc::clone(context),
            loaded: HashMap::new(),
            functions: HashMap::new(),
            granted: HashMap::new(),
        }
    }

    /// The kernel of a launch, with leave to use the shared memory that the launch asks for.
    pub fn function(&mut self, launch: &GpuLaunch) -> Result<sys::CUfunction, DeviceError> {
        let function = match self.functions.get(&launch.function) {
            Some(function) => *function,
            None => self.find(launch)?,
        };
        let granted = self
            .granted
            .entry(launch.function.clone())
            .or_insert(PLAIN_SHARED);
        if launch.shared > *granted {
            let attribute =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: `function` belongs to a module that stays loaded as long as this value lives.
            unsafe {
                result::function::set_function_attribute(function, attribute, launch.shared as i32)
            }
            .doing(&format!(
                "kernel `{}` is refused {} bytes of shared memory",
                launch.function, launch.shared
            ))?;
            *granted = launch.shared;
        }
        Ok(function)
    }

    fn find(&mut self, launch: &GpuLaunch) -> Result<sys::CUfunction, DeviceError> {
        let module = match self.loaded.get(launch.module) {
            Some(module) => *module,
            None => {
                let module = load(&self.context, launch.module)?;
                self.loaded.insert(launch.module, module);
                module
            }
        };
        let name = CString::new(launch.function.as_str()).expect("kernel names have no zero byte");
        // SAFETY: `module` is loaded.
        let function = unsafe { result::module::get_function(module, name) }.doing(&format!(
            "kernel `{}` is not in module `{}`",
            launch.function, launch.module
        ))?;
        self.functions.insert(launch.function.clone(), function);
        Ok(function)
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        self.context.record_err(self.context.bind_to_thread());
        for module in self.loaded.values() {
            // SAFETY: loaded once and unloaded once; the device drops its programs, which use the kernels, before this.
            self.context
                .record_err(unsafe { result::module::unload(*module) });
        }
    }
}

/// Hands a module's PTX to the driver's JIT; a refusal comes with the JIT's log.
fn load(context: &Arc<CudaContext>, name: &'static str) -> Result<sys::CUmodule, DeviceError> {
    let Some(text) = ptx(name) else {
        return Err(DeviceError::Failed(format!(
            "this build has no kernels/ptx/{name}.ptx"
        )));
    };
    context.bind_to_thread().doing("the GPU does not answer")?;
    let text = CString::new(text).expect("PTX has no zero byte");
    let mut log = vec![0u8; 16 << 10];
    let mut options = [
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values: [*mut c_void; 2] = [
        log.as_mut_ptr().cast(),
        std::ptr::without_provenance_mut(log.len() - 1),
    ];
    let mut module = std::ptr::null_mut();
    // SAFETY: `text` ends with a zero byte; two options stand with two values, the buffer with one byte less than its length, so that
    // the log ends with a zero byte; all of them outlive the call.
    let answer = unsafe {
        sys::cuModuleLoadDataEx(
            &mut module,
            text.as_ptr().cast(),
            options.len() as u32,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    answer.result().map_err(|error: DriverError| {
        let log = CStr::from_bytes_until_nul(&log).map_or("".into(), CStr::to_string_lossy);
        let log = log.trim();
        let log = if log.is_empty() {
            "the JIT wrote no log"
        } else {
            log
        };
        let DeviceError::Failed(text) =
            failed(&format!("the driver refuses module `{name}`"), error)
        else {
            unreachable!("a driver's error is a failure");
        };
        DeviceError::Failed(format!("{text}: {log}"))
    })?;
    Ok(module)
}
