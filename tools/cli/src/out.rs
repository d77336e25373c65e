// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Printing that cannot fail in the middle of something: std's macros panic when the reader has
//! gone (`| head`) or the disk is full, and a guest would go down with its process.
//!
//! These take their place in the whole program; [`finish`] says at the end what could not be
//! written.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

use crate::exit::Exit;

/// Why standard output takes no more.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Writes to standard output, unless that failed before.
pub(crate) fn print(text: Arguments<'_>) {
    write(|out| out.write_fmt(text));
}

/// Writes to standard error; if that fails, there is nobody to tell.
pub(crate) fn print_error(text: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

fn write(write: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) {
    if FAILED.get().is_none()
        && let Err(error) = write(&mut io::stdout().lock())
    {
        // Another thread's error is as good.
        let _ = FAILED.set(error);
    }
}

/// How the program ends: not well, if what it had to print was lost.
pub(crate) fn finish(exit: Exit) -> Exit {
    write(|out| out.flush());
    match FAILED.get() {
        // Whoever reads has seen enough.
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("error: Could not write to standard output: {error}");
            exit.or_worse(Exit::Unwritten)
        }
        _ => exit,
    }
}

macro_rules! print {
    ($($text:tt)*) => { $crate::out::print(format_args!($($text)*)) };
}

macro_rules! println {
    () => { print!("\n") };
    ($($text:tt)*) => { print!("{}\n", format_args!($($text)*)) };
}

macro_rules! eprint {
    ($($text:tt)*) => { $crate::out::print_error(format_args!($($text)*)) };
}

macro_rules! eprintln {
    ($($text:tt)*) => { eprint!("{}\n", format_args!($($text)*)) };
}
