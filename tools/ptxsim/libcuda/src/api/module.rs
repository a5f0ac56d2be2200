//! Modules from PTX, their functions and variables.

use std::{
    ffi::{c_int, c_uint},
    fs,
    sync::Arc,
};

use ptxsim::{
    Loaded, Module,
    exec::{fail::Fail, usage::RegisterCounts},
};

use crate::{
    attributes::FunctionFacts,
    driver::{Driver, Function, LoadedModule, in_context},
    ffi::{HostAddress, In, Out, Text},
    handles::Handle,
    queue::{Goal, wait_for},
    status::Status,
};

/// `CU_JIT_*` options that are answered; others change nothing that is simulated.
const ERROR_LOG: c_uint = 5;
const ERROR_LOG_SIZE: c_uint = 6;
const INFO_LOG_SIZE: c_uint = 4;

/// Newest PTX ISA that the posed-as drivers take.
const NEWEST_PTX: (u32, u32) = (8, 7);
const OLD_DRIVER_NEWEST_PTX: (u32, u32) = (7, 4);

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadData(module: Out<Handle>, image: In<u8>) -> Status {
    in_context(|driver| load_image(driver, &module, &image).map_err(|(status, _)| status))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadDataEx(
    module: Out<Handle>,
    image: In<u8>,
    count: c_uint,
    options: In<c_uint>,
    values: Out<usize>,
) -> Status {
    in_context(|driver| {
        let options = options.slice(count as usize)?;
        let loaded = load_image(driver, &module, &image);
        let log = loaded.as_ref().err().map_or("", |(_, log)| log);
        write_log(log, options, &values)?;
        loaded.map_err(|(status, _)| status)
    })
}

/// Puts the log into the caller's buffer and its length into the value of the size option, as the driver does.
fn write_log(log: &str, options: &[c_uint], values: &Out<usize>) -> Result<(), Status> {
    let at = |wanted| options.iter().position(|option| *option == wanted);
    if let (Some(buffer), Some(size)) = (at(ERROR_LOG), at(ERROR_LOG_SIZE)) {
        let room = (values.get_at(size)? & 0xffff_ffff).saturating_sub(1);
        let kept = &log.as_bytes()[..log.len().min(room)];
        if room > 0 {
            HostAddress::from_number(values.get_at(buffer)?).write(&[kept, &[0]].concat())?;
        }
        values.set_at(size, kept.len())?;
    }
    if let Some(size) = at(INFO_LOG_SIZE) {
        values.set_at(size, 0)?;
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoad(module: Out<Handle>, path: Text) -> Status {
    in_context(|driver| {
        let path = path.get()?;
        let bytes = fs::read(&path)
            .map_err(|error| driver.refuse("cuModuleLoad", error, Status::FileNotFound))?;
        load_bytes(driver, &module, &bytes, &path).map_err(|(status, _)| status)
    })
}

/// Status and JIT log.
type Refusal = (Status, String);

fn load_image(driver: &mut Driver, module: &Out<Handle>, image: &In<u8>) -> Result<(), Refusal> {
    let quiet = |status| (status, String::new());
    // An ELF file or a fat binary begins with bytes that PTX cannot have, and holds NULs.
    let magic = image.slice(4).map_err(quiet)?;
    if magic == b"\x7fELF" || magic == 0xba55_ed50_u32.to_le_bytes() {
        let why = "a binary for a real GPU; the stand-in runs PTX";
        return Err(quiet(driver.refuse(
            "cuModuleLoadData",
            why,
            Status::NoBinaryForGpu,
        )));
    }
    let bytes = image.until(|byte| byte == 0).map_err(quiet)?;
    load_bytes(driver, module, &bytes, "PTX")
}

fn load_bytes(
    driver: &mut Driver,
    module: &Out<Handle>,
    bytes: &[u8],
    name: &str,
) -> Result<(), Refusal> {
    let mut refuse =
        |status: Status, log: String| (driver.refuse("cuModuleLoadData", &log, status), log);
    let Ok(ptx) = std::str::from_utf8(bytes) else {
        return Err(refuse(
            Status::InvalidPtx,
            "ptxas fatal: the PTX is not UTF-8".into(),
        ));
    };
    // Findings name the source's file: the handle that a program gave PTX in memory says nothing.
    let name = source_name(ptx).unwrap_or_else(|| name.to_owned());
    if driver.settings.fail.contains(&Fail::PtxRejected) {
        let log = format!(
            "ptxas application ptx input, line 1; fatal   : {name} refused, as asked for by --fail"
        );
        return Err((
            driver.refuse("cuModuleLoadData", &log, Status::InvalidPtx),
            log,
        ));
    }
    let newest = match driver.settings.fail.contains(&Fail::OldDriver) {
        true => OLD_DRIVER_NEWEST_PTX,
        false => NEWEST_PTX,
    };
    if let Some((major, minor)) = declared_version(ptx)
        && (major, minor) > newest
    {
        let log = format!(
            "ptxas application ptx input; fatal   : Unsupported .version {major}.{minor}; current version is '{}.{}'",
            newest.0, newest.1
        );
        return Err((
            driver.refuse("cuModuleLoadData", &log, Status::UnsupportedPtxVersion),
            log,
        ));
    }
    let parsed = Module::parse(&name, ptx).map_err(|error| {
        let log = format!("ptxas application ptx input, {error}");
        (
            driver.refuse("cuModuleLoadData", &log, Status::InvalidPtx),
            log,
        )
    })?;
    let (major, minor) = driver.settings.chip.compute_capability;
    if !parsed.runs_on((major, minor)) {
        let target = parsed.target();
        let log =
            format!("ptxas fatal   : the PTX is for {target}, the device is sm_{major}{minor}");
        return Err((
            driver.refuse("cuModuleLoadData", &log, Status::InvalidPtx),
            log,
        ));
    }
    let loaded = Loaded::new(Arc::new(parsed), &driver.memory).map_err(|error| {
        (
            driver.refuse("cuModuleLoadData", error, Status::OutOfMemory),
            String::new(),
        )
    })?;
    let handle = driver.modules.add(LoadedModule {
        loaded,
        registers: RegisterCounts::of(ptx),
    });
    module.set(handle).map_err(|status| (status, String::new()))
}

/// `gemm.ptx` for a text whose first `.file` is `gemm.cu`.
fn source_name(ptx: &str) -> Option<String> {
    let line = ptx
        .lines()
        .find(|line| line.trim_start().starts_with(".file"))?;
    let path = line.split('"').nth(1)?;
    let name = path.rsplit('/').next()?;
    Some(format!("{}.ptx", name.strip_suffix(".cu").unwrap_or(name)))
}

fn declared_version(ptx: &str) -> Option<(u32, u32)> {
    let rest = ptx
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(".version"))?;
    let (major, minor) = rest.split_whitespace().next()?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> Status {
    wait_for(|_| Ok(Goal::Everything), |driver| driver.unload(module))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) -> Status {
    in_context(|driver| {
        let name = name.get()?;
        let loaded = driver.modules.get(module)?;
        loaded
            .loaded
            .module()
            .kernel(&name)
            .ok_or(Status::NotFound)?;
        let chip = &driver.settings.chip;
        let known = driver
            .functions
            .iter()
            .find(|(_, known)| known.module == module && known.name == name);
        let handle = match known {
            Some((handle, _)) => handle,
            None => {
                let registers = loaded.registers.on(&name, chip);
                driver.functions.add(Function {
                    module,
                    name,
                    registers,
                    max_dynamic_shared: chip.shared_per_block,
                })
            }
        };
        function.set(handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetGlobal_v2(
    address: Out<u64>,
    bytes: Out<usize>,
    module: Handle,
    name: Text,
) -> Status {
    in_context(|driver| {
        let name = name.get()?;
        let loaded = &driver.modules.get(module)?.loaded;
        let global = loaded
            .module()
            .globals()
            .find(|global| global.name == name)
            .ok_or(Status::NotFound)?;
        address.set_if_wanted(loaded.global_address(&name).ok_or(Status::NotFound)?);
        bytes.set_if_wanted(global.size as usize);
        Ok(())
    })
}

/// Modules are loaded whole.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetLoadingMode(mode: Out<c_uint>) -> Status {
    in_context(|_| mode.set(1))
}

impl Driver {
    /// What the attributes of a function depend on.
    pub fn function_facts(&self, function: Handle) -> Result<FunctionFacts<'_>, Status> {
        let function = self.functions.get(function)?;
        let module = self.modules.get(function.module)?.loaded.module();
        let kernel = module.kernel(&function.name).ok_or(Status::InvalidHandle)?;
        let (major, minor) = module.version();
        Ok(FunctionFacts {
            kernel,
            ptx_version: major * 10 + minor,
            registers: function.registers.unwrap_or(kernel.register_estimate),
            max_dynamic_shared: function.max_dynamic_shared,
        })
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetAttribute(
    value: Out<c_int>,
    attribute: c_int,
    function: Handle,
) -> Status {
    in_context(|driver| {
        let facts = driver.function_facts(function)?;
        value.set(
            facts
                .get(&driver.settings.chip, attribute)
                .ok_or(Status::InvalidValue)?,
        )
    })
}

/// Dynamic shared memory is checked and kept; the carve-out is a hint; a kernel's clusters are
/// those that it declares.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: Handle, attribute: c_int, value: c_int) -> Status {
    in_context(|driver| {
        let most = driver.settings.chip.shared_per_block_optin;
        let static_shared = driver.function_facts(function)?.kernel.static_shared;
        let function = driver.functions.get_mut(function)?;
        match (attribute, u32::try_from(value)) {
            (8, Ok(bytes)) if bytes + static_shared <= most => {
                function.max_dynamic_shared = bytes;
                Ok(())
            }
            (8, _) => {
                let call = format!("cuFuncSetAttribute of {}", function.name);
                let why = format!(
                    "{value} bytes of dynamic and {static_shared} of static shared memory; {most} at most"
                );
                Err(driver.refuse(&call, why, Status::InvalidValue))
            }
            (9, _) if (-1..=100).contains(&value) => Ok(()),
            (10..=15, _) => Err(driver.unsupported("cuFuncSetAttribute for clusters")),
            _ => Err(Status::InvalidValue),
        }
    })
}

/// The preference for L1 or shared memory changes no result.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(function: Handle, _config: c_uint) -> Status {
    in_context(|driver| driver.functions.get(function).map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetModule(module: Out<Handle>, function: Handle) -> Status {
    in_context(|driver| module.set(driver.functions.get(function)?.module))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_ptx_are_read() {
        let ptx = "// c\n.version 8.0\n.target sm_80\n\t.file\t1 \"gemm.cu\"\n";
        assert_eq!(declared_version(ptx), Some((8, 0)));
        assert_eq!(source_name(ptx).as_deref(), Some("gemm.ptx"));
        assert_eq!(source_name(".version 8.0"), None);
    }
}
