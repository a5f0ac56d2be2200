//! `cuGetProcAddress`: the functions by name, for programs that do not use `dlsym`.

use std::{
    ffi::{CStr, CString, c_int, c_uint, c_ulonglong, c_void},
    mem::MaybeUninit,
    ptr,
};

use crate::{
    driver::always,
    ffi::{Out, Text},
    status::Status,
};

/// `CU_GET_PROC_ADDRESS_SUCCESS` and `_SYMBOL_NOT_FOUND`.
const FOUND: c_uint = 0;
const NOT_FOUND: c_uint = 1;

#[unsafe(no_mangle)]
pub extern "C" fn cuGetProcAddress(
    name: Text,
    function: Out<*mut c_void>,
    _version: c_int,
    _flags: c_ulonglong,
) -> Status {
    always(|| {
        let address = newest(&name.get()?);
        function.set(address)?;
        if address.is_null() {
            Err(Status::NotFound)
        } else {
            Ok(())
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetProcAddress_v2(
    name: Text,
    function: Out<*mut c_void>,
    _version: c_int,
    _flags: c_ulonglong,
    result: Out<c_uint>,
) -> Status {
    always(|| {
        let address = newest(&name.get()?);
        function.set(address)?;
        result.set_if_wanted(if address.is_null() { NOT_FOUND } else { FOUND });
        if address.is_null() {
            Err(Status::NotFound)
        } else {
            Ok(())
        }
    })
}

/// `cuMemAlloc` means `cuMemAlloc_v2`: the plain names of the functions that have one are those of CUDA 3.
fn newest(name: &str) -> *mut c_void {
    let versioned = own_symbol(&format!("{name}_v2"));
    if versioned.is_null() {
        own_symbol(name)
    } else {
        versioned
    }
}

/// A symbol of this library, which may have been loaded where a search from the program does not see it.
fn own_symbol(name: &str) -> *mut c_void {
    let Ok(name) = CString::new(name) else {
        return ptr::null_mut();
    };
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    let own = newest as *const c_void;
    // SAFETY: `dladdr` writes `info` when it returns non-zero; the path in it lives as long as the library. The library is
    // loaded (this is its code), so `RTLD_NOLOAD` gives a handle or null, and each handle got is closed.
    unsafe {
        if libc::dladdr(own, info.as_mut_ptr()) == 0 {
            return ptr::null_mut();
        }
        let path = CStr::from_ptr(info.assume_init().dli_fname);
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if library.is_null() {
            return ptr::null_mut();
        }
        let symbol = libc::dlsym(library, name.as_ptr());
        libc::dlclose(library);
        symbol
    }
}
