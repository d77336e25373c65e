// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The seven checks of the model, full size or scaled:
//! `cargo run --release -p lab --example model_checks -- [eighth]`

use lab::checks::table;
use lab::paper::experiments::Options;
use lab::paper::model::Model;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let eighth = std::env::args().nth(1).is_some_and(|arg| arg == "eighth");
    let model = if eighth { Model::eighth() } else { Model::full(&Options::default()) };
    let began = std::time::Instant::now();
    print!("{}", table(&model.checks(&())?));
    println!("{:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}
