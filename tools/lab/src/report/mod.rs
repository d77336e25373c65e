// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reports: CSV, JSON and one self-contained HTML file.
