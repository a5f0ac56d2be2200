//! Opaque handles: numbers that are checked, so that a stale or foreign one is an error and not a crash.

use std::collections::BTreeMap;

use crate::status::Status;

/// What a C caller holds for an object.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle(usize);

impl Handle {
    /// No object.
    pub const NULL: Self = Self::number(0);

    /// The handle of that number.
    pub const fn number(number: usize) -> Self {
        Self(number)
    }

    /// The handle of a part of this object, such as a node of a graph.
    pub fn node(self, position: usize) -> Self {
        Self(self.0 + ((position + 1) << 40))
    }

    /// Whether this is no object.
    pub fn is_null(self) -> bool {
        self == Self::NULL
    }
}

/// Objects of one kind. Every kind counts from another start, so that a handle of one kind is none of another.
#[derive(Debug)]
pub struct Registry<T> {
    next: usize,
    live: BTreeMap<Handle, T>,
}

impl<T> Registry<T> {
    /// An empty registry of the `kind`-th kind.
    pub fn new(kind: usize) -> Self {
        Self {
            next: (kind << 32) + 0x10,
            live: BTreeMap::new(),
        }
    }

    /// Adds an object.
    pub fn add(&mut self, object: T) -> Handle {
        // Steps of 16, as if these were addresses of objects.
        self.next += 0x10;
        let handle = Handle::number(self.next);
        self.live.insert(handle, object);
        handle
    }

    /// Puts an object under a handle of the caller's choosing.
    pub fn put(&mut self, handle: Handle, object: T) {
        self.live.insert(handle, object);
    }

    /// The object.
    pub fn get(&self, handle: Handle) -> Result<&T, Status> {
        self.live.get(&handle).ok_or(Status::InvalidHandle)
    }

    /// The object, to change.
    pub fn get_mut(&mut self, handle: Handle) -> Result<&mut T, Status> {
        self.live.get_mut(&handle).ok_or(Status::InvalidHandle)
    }

    /// Takes the object away; its handle is never used again.
    pub fn remove(&mut self, handle: Handle) -> Result<T, Status> {
        self.live.remove(&handle).ok_or(Status::InvalidHandle)
    }

    /// Keeps the objects that a test accepts.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.live.retain(|_, object| keep(object));
    }

    /// All objects with their handles.
    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.live.iter().map(|(handle, object)| (*handle, object))
    }

    /// All objects, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut T)> {
        self.live
            .iter_mut()
            .map(|(handle, object)| (*handle, object))
    }

    /// Takes all objects away.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.live).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_and_foreign_handles_are_refused() {
        let (mut a, mut b) = (Registry::new(1), Registry::new(2));
        let (x, y) = (a.add("x"), b.add("y"));
        assert_eq!(a.get(x), Ok(&"x"));
        assert_eq!(a.get(y), Err(Status::InvalidHandle));
        assert_eq!(a.remove(x), Ok("x"));
        assert_eq!(a.get(x), Err(Status::InvalidHandle));
        assert_ne!(a.add("z"), x);
    }
}
