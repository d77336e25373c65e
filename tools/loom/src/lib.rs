// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Models of the library's lock-free code for loom, the model checker. A package of its own, so
//! that the flag that loom needs rebuilds the library and nothing else: `tools/ci/loom.sh`.
//! Without that flag there is nothing here.

#[cfg(loom)]
#[cfg(test)]
mod tests;
