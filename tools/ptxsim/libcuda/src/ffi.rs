//! Pointers that come from a C caller.
//!
//! The exported functions take these instead of raw pointers. They are `repr(transparent)`, so the C signatures are the
//! driver's own, and only a caller from outside makes them. That caller promises what `cuda.h` asks of every pointer
//! argument: it is null, or valid for the type for as long as the call lasts (a handle's memory, where it is kept, for as
//! long as the driver keeps it). Every `unsafe` block below rests on that promise.

use std::{
    ffi::{CStr, c_char},
    ptr::with_exposed_provenance_mut,
    slice,
};

use crate::status::Status;

/// Where a result goes. Null is an invalid value.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the result.
    pub fn set(&self, value: T) -> Result<(), Status> {
        match self.set_if_wanted(value) {
            true => Ok(()),
            false => Err(Status::InvalidValue),
        }
    }

    /// Writes the result unless the caller passed null; false if so.
    pub fn set_if_wanted(&self, value: T) -> bool {
        if self.0.is_null() {
            return false;
        }
        // SAFETY: not null, so valid for a write by the caller's promise; `write` drops nothing there.
        unsafe { self.0.write(value) };
        true
    }

    /// Writes the first elements of an array.
    pub fn set_all(&self, values: impl IntoIterator<Item = T>) -> Result<(), Status> {
        if self.0.is_null() {
            return Err(Status::InvalidValue);
        }
        for (index, value) in values.into_iter().enumerate() {
            // SAFETY: the caller promises an array as long as the count that came with it, to which callers of this
            // method cut `values`.
            unsafe { self.0.add(index).write(value) };
        }
        Ok(())
    }

    /// Whether the caller passed null.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// The address, for a result whose width depends on the question.
    pub fn address(&self) -> HostAddress {
        HostAddress(self.0.expose_provenance())
    }

    /// Writes element `index` of an array that has it.
    pub fn set_at(&self, index: usize, value: T) -> Result<(), Status> {
        if self.0.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: not null, so an array with that element by the caller's promise.
        unsafe { self.0.add(index).write(value) };
        Ok(())
    }
}

impl<T: Copy> Out<T> {
    /// Reads element `index` of an array that has it.
    pub fn get_at(&self, index: usize) -> Result<T, Status> {
        if self.0.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: not null, so an initialised array with that element by the caller's promise.
        Ok(unsafe { self.0.add(index).read() })
    }

    /// Reads what the caller put there.
    pub fn get(&self) -> Result<T, Status> {
        if self.0.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: not null, so valid and initialised by the caller's promise.
        Ok(unsafe { self.0.read() })
    }
}

/// A value, or an array of values, to read.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// No value.
    pub fn null() -> Self {
        Self(std::ptr::null())
    }

    /// An address that stands in a structure the caller passed; the same promise covers it.
    pub fn from_address(address: *const T) -> Self {
        Self(address)
    }

    /// Reads the value; null is an invalid value.
    pub fn get(&self) -> Result<T, Status> {
        self.slice(1)?.first().copied().ok_or(Status::InvalidValue)
    }

    /// The first `count` values. Null is an invalid value unless none are asked for.
    pub fn slice(&self, count: usize) -> Result<&[T], Status> {
        if count == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: not null, so an array of at least `count` by the caller's promise; the slice lives no longer than
        // the argument, that is the call.
        Ok(unsafe { slice::from_raw_parts(self.0, count) })
    }

    /// Whether the caller passed null.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// The values up to one that ends the list.
    pub fn until(&self, last: impl Fn(T) -> bool) -> Result<Vec<T>, Status> {
        if self.0.is_null() {
            return Err(Status::InvalidValue);
        }
        let mut values = Vec::new();
        loop {
            // SAFETY: the list has an ending value by the caller's promise, and it has not been seen yet.
            let value = unsafe { self.0.add(values.len()).read() };
            if last(value) {
                return Ok(values);
            }
            values.push(value);
        }
    }
}

/// A NUL-terminated string.
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    /// An address that stands in a structure the caller passed; the same promise covers it.
    pub fn from_address(address: *const c_char) -> Self {
        Self(address)
    }

    /// The string as UTF-8; null is an invalid value.
    pub fn get(&self) -> Result<String, Status> {
        if self.0.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: not null, so NUL-terminated by the caller's promise.
        Ok(unsafe { CStr::from_ptr(self.0) }
            .to_string_lossy()
            .into_owned())
    }
}

/// A host address that a copy reads or writes, now or when a graph replays it. The caller keeps it valid until then.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostAddress(usize);

impl HostAddress {
    /// The address as a number.
    pub fn number(self) -> usize {
        self.0
    }

    /// From a number, as unified addressing passes host pointers.
    pub fn from_number(number: usize) -> Self {
        Self(number)
    }

    fn pointer(self) -> *mut u8 {
        with_exposed_provenance_mut(self.0)
    }

    /// Copies the bytes there.
    pub fn read(self, count: usize) -> Result<Vec<u8>, Status> {
        In(self.pointer().cast_const())
            .slice(count)
            .map(<[u8]>::to_vec)
    }

    /// Copies bytes there.
    pub fn write(self, bytes: &[u8]) -> Result<(), Status> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.0 == 0 {
            return Err(Status::InvalidValue);
        }
        // SAFETY: not null, so valid for a write of that many bytes by the caller's promise; `bytes` is memory of this
        // library, which the caller cannot name, so they do not overlap.
        unsafe {
            self.pointer()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
        Ok(())
    }
}

/// A function to call on the host, with the pointer it takes.
#[derive(Debug, Clone, Copy)]
pub struct HostCall {
    /// The function.
    pub function: extern "C" fn(HostAddress),
    /// Its argument.
    pub argument: HostAddress,
}

impl HostCall {
    /// Calls it.
    pub fn run(self) {
        (self.function)(self.argument);
    }
}

/// A kernel's argument list: an array of pointers to the arguments.
#[repr(transparent)]
pub struct Arguments(*const *const u8);

impl Arguments {
    /// Whether the caller passed null.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Copies argument `index`, of `size` bytes.
    pub fn copy(&self, index: usize, size: usize) -> Result<Vec<u8>, Status> {
        if self.0.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: not null, so an array with a pointer for each of the kernel's parameters by the caller's promise;
        // `index` is below their number.
        let argument = unsafe { self.0.add(index).read() };
        In(argument).slice(size).map(<[u8]>::to_vec)
    }
}
