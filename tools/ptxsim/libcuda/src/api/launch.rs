//! Kernel launches.

use std::ffi::{c_uint, c_void};

use crate::{
    attributes::{MAX_BLOCK, MAX_CLUSTER, MAX_GRID},
    driver::Driver,
    ffi::{Arguments, HostAddress, In},
    handles::Handle,
    queue::submit,
    status::Status,
    work::{KernelLaunch, Work},
};

/// `CU_LAUNCH_PARAM_BUFFER_POINTER`, `_BUFFER_SIZE` and `_END`: keys of the list that can stand for the arguments.
const PARAM_BUFFER: usize = 1;
const PARAM_BUFFER_SIZE: usize = 2;

/// Geometry as the driver takes it.
struct Geometry {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    cooperative: bool,
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic_shared: c_uint,
    stream: Handle,
    arguments: Arguments,
    extra: In<usize>,
) -> Status {
    let geometry = Geometry {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        dynamic_shared,
        cooperative: false,
    };
    submit(stream, |driver| {
        prepare(driver, function, &geometry, &arguments, &extra)
    })
}

/// A cooperative launch runs like any: a block that does not end gives way to others, so that a barrier of the whole grid
/// through memory works.
#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchCooperativeKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic_shared: c_uint,
    stream: Handle,
    arguments: Arguments,
) -> Status {
    let geometry = Geometry {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        dynamic_shared,
        cooperative: true,
    };
    submit(stream, |driver| {
        prepare(driver, function, &geometry, &arguments, &In::null())
    })
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfiguration {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    dynamic_shared: c_uint,
    stream: Handle,
    attributes: *const c_void,
    attribute_count: c_uint,
}

/// `CUlaunchAttribute`: number, padding, and a union of 64 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct LaunchAttribute {
    id: c_uint,
    padding: u32,
    value: [u64; 8],
}

const ATTRIBUTE_IGNORE: c_uint = 0;
const ATTRIBUTE_COOPERATIVE: c_uint = 2;
const ATTRIBUTE_CLUSTER_DIMENSION: c_uint = 4;
const ATTRIBUTE_PRIORITY: c_uint = 8;

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernelEx(
    configuration: In<LaunchConfiguration>,
    function: Handle,
    arguments: Arguments,
    extra: In<usize>,
) -> Status {
    let configuration = match configuration.get() {
        Ok(configuration) => configuration,
        Err(status) => return status,
    };
    submit(configuration.stream, |driver| {
        let attributes: In<LaunchAttribute> = In::from_address(configuration.attributes.cast());
        let mut cooperative = false;
        for attribute in attributes.slice(configuration.attribute_count as usize)? {
            match attribute.id {
                ATTRIBUTE_IGNORE | ATTRIBUTE_PRIORITY => {}
                ATTRIBUTE_COOPERATIVE => cooperative = attribute.value[0] as u32 != 0,
                ATTRIBUTE_CLUSTER_DIMENSION => {
                    let [x, y, z] = [
                        attribute.value[0] as u32,
                        (attribute.value[0] >> 32) as u32,
                        attribute.value[1] as u32,
                    ];
                    let declared = driver.function_facts(function)?.kernel.cluster;
                    if [x, y, z] != declared.unwrap_or([1, 1, 1]) {
                        let why = format!(
                            "clusters of ({x},{y},{z}) blocks that the kernel does not declare are not simulated"
                        );
                        return Err(driver.refuse("cuLaunchKernelEx", why, Status::NotSupported));
                    }
                }
                other => {
                    let why = format!("launch attribute {other} is not simulated");
                    return Err(driver.refuse("cuLaunchKernelEx", why, Status::NotSupported));
                }
            }
        }
        let geometry = Geometry {
            grid: configuration.grid,
            block: configuration.block,
            dynamic_shared: configuration.dynamic_shared,
            cooperative,
        };
        prepare(driver, function, &geometry, &arguments, &extra)
    })
}

/// Checks a launch against the kernel and the chip, and packs its arguments.
fn prepare(
    driver: &mut Driver,
    function: Handle,
    geometry: &Geometry,
    arguments: &Arguments,
    extra: &In<usize>,
) -> Result<Work, Status> {
    if let Err((why, status)) = check(driver, function, geometry) {
        let name = driver.functions.get(function)?.name.clone();
        return Err(driver.refuse(&format!("launch of {name}"), why, status));
    }
    let kernel = driver.function_facts(function)?.kernel;
    let mut params = vec![0; kernel.param_bytes as usize];
    if !extra.is_null() {
        let buffer = parameter_buffer(extra)?;
        if buffer.len() > params.len() {
            return Err(Status::InvalidValue);
        }
        params[..buffer.len()].copy_from_slice(&buffer);
    } else if arguments.is_null() && !kernel.params.is_empty() {
        return Err(Status::InvalidValue);
    } else {
        for (index, param) in kernel.params.iter().enumerate() {
            let argument = arguments.copy(index, param.size as usize)?;
            params[param.offset as usize..][..argument.len()].copy_from_slice(&argument);
        }
    }
    let Geometry {
        grid,
        block,
        dynamic_shared,
        ..
    } = *geometry;
    Ok(Work::Kernel(KernelLaunch {
        function,
        grid,
        block,
        dynamic_shared,
        params,
        nth: 0,
    }))
}

fn check(driver: &Driver, function: Handle, geometry: &Geometry) -> Result<(), (String, Status)> {
    let invalid = |why: String| Err((why, Status::InvalidValue));
    let facts = driver
        .function_facts(function)
        .map_err(|status| ("no such function".into(), status))?;
    let (chip, kernel) = (&driver.settings.chip, facts.kernel);
    let Geometry {
        grid,
        block,
        dynamic_shared,
        cooperative,
    } = *geometry;
    let outside = |dims: [u32; 3], most: [u32; 3]| {
        dims.iter()
            .zip(most)
            .any(|(dim, most)| *dim == 0 || *dim > most)
    };
    if outside(grid, MAX_GRID) {
        return invalid(format!("grid {grid:?}, from 1 to {MAX_GRID:?}"));
    }
    if outside(block, MAX_BLOCK) {
        return invalid(format!("block {block:?}, from 1 to {MAX_BLOCK:?}"));
    }
    let cluster = kernel.cluster.unwrap_or([1, 1, 1]);
    let divides = |axis: usize| cluster[axis] > 0 && grid[axis].is_multiple_of(cluster[axis]);
    if !(0..3).all(divides) || cluster.iter().product::<u32>() > MAX_CLUSTER {
        let why = format!("grid {grid:?} in clusters of {cluster:?}, {MAX_CLUSTER} blocks at most");
        return Err((why, Status::InvalidClusterSize));
    }
    let threads = block.iter().product::<u32>();
    let declared = kernel
        .max_ntid
        .or(kernel.required_ntid)
        .map(|ntid| ntid.iter().product::<u32>());
    if let Some(most) = declared.filter(|most| threads > *most) {
        return invalid(format!(
            "{threads} threads per block, its launch bounds allow {most}"
        ));
    }
    if threads > facts.max_threads(chip) {
        let why = format!(
            "{threads} threads of {} registers per block",
            facts.registers
        );
        return Err((why, Status::LaunchOutOfResources));
    }
    if dynamic_shared > facts.max_dynamic_shared {
        return invalid(format!(
            "{dynamic_shared} bytes of dynamic shared memory, {} allowed; more must be opted in to",
            facts.max_dynamic_shared
        ));
    }
    let shared = kernel.static_shared + dynamic_shared;
    if shared > chip.shared_per_block_optin {
        return invalid(format!(
            "{shared} bytes of shared memory, the chip has {}",
            chip.shared_per_block_optin
        ));
    }
    if cooperative {
        let resident = driver
            .blocks_per_sm(function, threads, dynamic_shared)
            .map_err(|s| (String::new(), s))?;
        let blocks = grid.iter().map(|dim| u64::from(*dim)).product::<u64>();
        let most = u64::from(resident) * u64::from(chip.sms);
        if blocks > most {
            let why = format!("{blocks} cooperative blocks, {most} can be resident");
            return Err((why, Status::CooperativeLaunchTooLarge));
        }
    }
    Ok(())
}

/// The packed arguments of the `extra` list.
fn parameter_buffer(extra: &In<usize>) -> Result<Vec<u8>, Status> {
    let list = extra.until(|word| word == 0)?;
    let (mut address, mut bytes) = (None, None);
    for pair in list.chunks_exact(2) {
        match pair[0] {
            PARAM_BUFFER => address = Some(HostAddress::from_number(pair[1])),
            PARAM_BUFFER_SIZE => {
                let size = HostAddress::from_number(pair[1]).read(size_of::<usize>())?;
                bytes = size.try_into().ok().map(usize::from_ne_bytes);
            }
            _ => return Err(Status::InvalidValue),
        }
    }
    match (address, bytes) {
        (Some(address), Some(bytes)) => address.read(bytes),
        _ => Err(Status::InvalidValue),
    }
}
