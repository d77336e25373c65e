// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Gives the shared library its soname, by which programs find it once it is installed.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libprecopy.so.0");
}
