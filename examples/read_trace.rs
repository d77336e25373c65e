// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads a trace of dirty pages from its beginning to its end, and says how fast that was:
//! `cargo run --release --example read_trace -- FILE [TIMES]`.

use std::time::Instant;

use precopy::trace::{TickSource, Trace, TraceFile, TraceTick};
use precopy::units::Tick;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which trace? FILE [TIMES]")?;
    let times: u32 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let mut source = TraceFile::new(&path).open()?;
    let mut tick = TraceTick::default();
    let (mut ticks, mut runs, mut pages) = (0_u64, 0, 0);
    let began = Instant::now();
    for _ in 0..times {
        source.seek(Tick::ZERO)?;
        while source.next_tick(&mut tick)? {
            ticks += 1;
            runs += tick.runs.len();
            pages += tick.pages();
        }
    }
    let per_s = |count: f64| count / began.elapsed().as_secs_f64() / 1e6;
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let [ticks, runs, pages] = [ticks as f64, runs as f64, pages as f64].map(per_s);
    println!("{path}: {pages:.2} M page events/s, {runs:.2} M runs/s, {ticks:.4} M ticks/s");
    Ok(())
}
