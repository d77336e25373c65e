// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading what a C program hands in.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

use super::types::{
    precopy_destination, precopy_dirty_log, precopy_guest, precopy_observer,
    precopy_receiver_options, precopy_source_options,
};
use crate::failure::Failure;

/// Longest text that is taken, in bytes.
const TEXT_BYTES_MAX: usize = 4096;
/// Largest struct that a later version of the header may have, in bytes.
const STRUCT_BYTES_MAX: usize = 4096;

/// A struct of the C API whose first field is its size.
///
/// # Safety
/// It must be `repr(C)`, begin with a `usize`, and be valid if all its bytes are 0, or any number
/// of them at its end.
pub(super) unsafe trait Sized_: Copy {
    /// Its name.
    const NAME: &'static str;
    /// Its size in the first version of the API.
    const FIRST_BYTES: usize;
}

macro_rules! sized {
    ($($name:ident: $bytes:literal),* $(,)?) => {$(
        // SAFETY: the type is repr(C) with `size: usize` first; integers, raw pointers and
        // optional functions may all be 0.
        unsafe impl Sized_ for $name {
            const NAME: &'static str = stringify!($name);
            const FIRST_BYTES: usize = $bytes;
        }
        const _: () = assert!(size_of::<$name>() >= $bytes);
        const _: () = assert!(std::mem::offset_of!($name, size) == 0);
    )*};
}

// As of version 1. A struct may grow at its end; these stay.
sized! {
    precopy_destination: 40,
    precopy_dirty_log: 48,
    precopy_guest: 64,
    precopy_observer: 32,
    precopy_receiver_options: 64,
    precopy_source_options: 184,
}

/// Copies a struct. Fields that the caller's header does not have are 0; fields that this library
/// does not know must be.
///
/// # Safety
/// `pointer` is null or points to as many readable bytes as the `usize` there says.
pub(super) unsafe fn sized<T: Sized_>(pointer: *const T) -> Result<T, Failure> {
    let name = T::NAME;
    if pointer.is_null() {
        return Err(Failure::argument(format!("The {name} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("The {name} is not aligned")));
    }
    // SAFETY: the caller vouches for the size, which is the first field.
    let size = unsafe { pointer.cast::<usize>().read() };
    if size < T::FIRST_BYTES || size > STRUCT_BYTES_MAX {
        let least = T::FIRST_BYTES;
        return Err(Failure::argument(format!(
            "{name}.size is {size}, and at least {least}: set it to sizeof({name})"
        )));
    }
    let known = size.min(size_of::<T>());
    for at in known..size {
        // SAFETY: `size` bytes are readable.
        let place = unsafe { pointer.cast::<u8>().add(at) };
        // SAFETY: as above.
        let byte = unsafe { place.read() };
        if byte != 0 {
            return Err(Failure::argument(format!(
                "This {name} sets a field, {at} bytes in, that this library does not know: it is \
                 older than the program's header"
            )));
        }
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are readable, as the caller vouches, and fit the value.
    unsafe { pointer.cast::<u8>().copy_to_nonoverlapping(value.as_mut_ptr().cast(), known) };
    // SAFETY: what was copied is the caller's, the rest is 0, which the type may be.
    Ok(unsafe { value.assume_init() })
}

/// The same, if there is one.
///
/// # Safety
/// As for [`sized`].
pub(super) unsafe fn optional<T: Sized_>(pointer: *const T) -> Result<Option<T>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller vouches for it.
    unsafe { sized(pointer) }.map(Some)
}

/// Copies a text.
///
/// # Safety
/// `pointer` is null or points to a text that ends in 0.
pub(super) unsafe fn text(pointer: *const c_char, name: &str) -> Result<Option<String>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller vouches for the final 0.
    let text = unsafe { CStr::from_ptr(pointer) };
    if text.count_bytes() > TEXT_BYTES_MAX {
        return Err(Failure::argument(format!("{name} is longer than {TEXT_BYTES_MAX} bytes")));
    }
    match text.to_str() {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(error) => Err(Failure::argument(format!("{name} is not UTF-8: {error}"))),
    }
}

/// The same of a text that must be there.
///
/// # Safety
/// As for [`text`].
pub(super) unsafe fn needed(pointer: *const c_char, name: &str) -> Result<String, Failure> {
    // SAFETY: the caller vouches for it.
    let text = unsafe { text(pointer, name) }?;
    match text {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(Failure::argument(format!("{name} is NULL or empty"))),
    }
}

/// A place for an answer that must be there, cleared.
///
/// # Safety
/// `pointer` is null or may be written.
pub(super) unsafe fn clear<T>(pointer: *mut *mut T, name: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(format!("{name} is NULL")));
    }
    // SAFETY: the caller vouches for it.
    unsafe { pointer.write(std::ptr::null_mut()) };
    Ok(())
}

/// Writes an answer, if there is a place for it.
///
/// # Safety
/// `pointer` is null or may be written.
pub(super) unsafe fn put<T>(pointer: *mut T, value: T) {
    if !pointer.is_null() {
        // SAFETY: the caller vouches for it.
        unsafe { pointer.write(value) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C, align(8))]
    struct Buffer([u8; 256]);

    fn read(size: usize, set: &[usize]) -> Result<precopy_observer, Failure> {
        let mut buffer = Buffer([0; 256]);
        buffer.0[..8].copy_from_slice(&size.to_ne_bytes());
        for at in set {
            buffer.0[*at] = 1;
        }
        // SAFETY: the buffer is longer than any size that is taken here.
        unsafe { sized(std::ptr::from_ref(&buffer).cast()) }
    }

    #[test]
    fn structs_may_grow_and_nothing_is_overlooked() {
        let now = size_of::<precopy_observer>();
        assert_eq!(read(now, &[8]).unwrap().user.addr(), 1);
        assert!(read(now + 64, &[8]).unwrap().progress.is_none(), "a later header's, unused");
        let newer = read(now + 64, &[now + 3]).unwrap_err();
        assert!(newer.message.to_string_lossy().contains("35 bytes in"), "{newer:?}");
        assert!(read(now - 1, &[]).is_err() && read(0, &[]).is_err());
        assert!(read(usize::MAX, &[]).is_err());
        // SAFETY: null is allowed.
        assert!(unsafe { sized::<precopy_guest>(std::ptr::null()) }.is_err());
    }

    #[test]
    fn texts_are_checked() {
        let read = |bytes: &[u8]| {
            // SAFETY: each ends in 0.
            unsafe { needed(bytes.as_ptr().cast(), "it") }
        };
        assert_eq!(read(b"abc\0").unwrap(), "abc");
        assert!(read(b"\0").is_err() && read(b"a\xff\0").is_err());
        assert!(read(&[[b'x'; TEXT_BYTES_MAX + 1].as_slice(), b"\0"].concat()).is_err());
    }
}
