// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which handles there are. A C program holds addresses; what it hands in is looked up before
//! anything is done with it. A thread that uses an object keeps it alive while another frees it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The live objects of one kind, by address.
#[derive(Debug)]
pub(crate) struct Registry<T> {
    live: Mutex<BTreeMap<usize, Arc<T>>>,
}

impl<T> Registry<T> {
    /// No objects.
    pub(crate) const fn new() -> Self {
        Self { live: Mutex::new(BTreeMap::new()) }
    }

    /// Adds an object. Its address stays valid until it is removed.
    pub(crate) fn add(&self, object: Arc<T>) -> *const T {
        let pointer = Arc::as_ptr(&object);
        self.live().insert(pointer.addr(), object);
        pointer
    }

    /// The object at an address, if there is one.
    pub(crate) fn get(&self, address: usize) -> Option<Arc<T>> {
        self.live().get(&address).map(Arc::clone)
    }

    /// Removes the object at an address. It ends once nobody uses it any more.
    pub(crate) fn remove(&self, address: usize) -> Option<Arc<T>> {
        self.live().remove(&address)
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<T>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_known_until_it_is_removed() {
        let registry = Registry::new();
        let address = registry.add(Arc::new(7)).addr();
        assert_eq!(registry.get(address).as_deref(), Some(&7));
        assert!(registry.get(address + 1).is_none() && registry.get(0).is_none());
        assert!(registry.remove(address).is_some());
        assert!(registry.remove(address).is_none(), "freed twice");
        assert!(registry.get(address).is_none(), "used after it was freed");
    }
}
