// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The report as one page that needs nothing but itself.

mod figures;
mod more;
mod page;
mod tables;
pub(super) mod tournament;

pub(super) use figures::{kind_name, paper_violated};

use super::data::{Mode, Report};
use super::format::{NONE, count, sig};
use super::judge::Judged;
use super::markup::{Node, el, text_el};
use page::{Page, p};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The whole page.
pub(super) fn render(report: &Report, claims: &[Judged]) -> String {
    let mut page = Page::default();
    tables::claims(&mut page, claims);
    figures::fig2(&mut page, report);
    figures::fig3(&mut page, report);
    tables::table1(&mut page);
    tables::table2(&mut page, report);
    tables::capacity(&mut page, report);
    more::contrast(&mut page, report);
    more::sensitivity(&mut page, report);
    more::policies(&mut page, report);
    more::wws(&mut page, report);
    more::traces(&mut page, report);
    more::checks(&mut page, report);
    more::predictions(&mut page, report);
    method(&mut page, report);
    document(title(report), header(report), page)
}

/// A page of these sections under this header.
fn document(title: &str, header: Node, page: Page) -> String {
    let contents =
        el("nav").with("aria-label", "Contents").children(page.contents.iter().map(
            |(anchor, title)| text_el("a", *title).with("href", format!("#section-{anchor}")),
        ));
    let main = el("main").child(header).child(contents).children(page.sections);
    let mut body = el("body").child(toolbar()).child(main);
    let charts = serde_json::json!(page.charts).to_string();
    body = body
        .child(el("div").with("id", "tip").with("role", "status").with("hidden", ""))
        .child(el("script").with("type", "application/json").with("id", "chart-list").json(&charts))
        .child(el("script").raw(SCRIPT));
    let mut out = String::from("<!DOCTYPE html>\n");
    el("html").with("lang", "en").child(document_head(title)).child(body).write(&mut out);
    out.push('\n');
    out
}

fn document_head(title: &str) -> Node {
    // The page may load nothing at all: a browser refuses what slipped in.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  img-src data:; base-uri 'none'; form-action 'none'";
    el("head")
        .child(el("meta").with("charset", "utf-8"))
        .child(el("meta").with("http-equiv", "Content-Security-Policy").with("content", policy))
        .child(
            el("meta")
                .with("name", "viewport")
                .with("content", "width=device-width, initial-scale=1"),
        )
        .child(el("link").with("rel", "icon").with("href", "data:,"))
        .child(text_el("title", title))
        .child(el("style").raw(STYLE))
}

fn title(report: &Report) -> &str {
    if report.run.title.is_empty() { "Report" } else { &report.run.title }
}

fn toolbar() -> Node {
    let button = |theme: &str, name: &str| {
        text_el("button", name)
            .with("type", "button")
            .with("data-set-theme", theme)
            .with("aria-pressed", "false")
    };
    el("div")
        .class("toolbar")
        .with("role", "group")
        .with("aria-label", "Colours")
        .child(button("auto", "Auto"))
        .child(button("light", "Light"))
        .child(button("dark", "Dark"))
}

fn header(report: &Report) -> Node {
    let run = &report.run;
    let mut header = el("header").child(text_el("h1", title(report)));
    if let Some(partial) = &run.partial {
        header = header.child(
            el("div")
                .class("partial")
                .with("role", "alert")
                .child(text_el("strong", "PARTIAL"))
                .child(text_el("span", partial.as_str())),
        );
    }
    let mode = match run.mode {
        Mode::Virtual => "virtual time",
        Mode::Live => "live, real time",
    };
    let seeds: Vec<String> = run.seeds.iter().map(u64::to_string).collect();
    let machine = &run.machine;
    let simulated = if run.simulated_s > 0.0 && run.wall_s > 0.0 {
        format!(
            "{} s for {} simulated s: {} times real time",
            sig(run.wall_s),
            sig(run.simulated_s),
            sig(run.simulated_s / run.wall_s)
        )
    } else {
        format!("{} s", sig(run.wall_s))
    };
    let facts = [
        ("Clock", mode.to_owned()),
        ("Policy", run.policy.clone()),
        ("Seeds", format!("{} ({})", seeds.join(", "), run.seeds.len())),
        ("Version", run.version.clone()),
        (
            "Machine",
            format!(
                "{} cores, {} MiB; {}",
                machine.cores,
                count(machine.memory_mib),
                machine.description
            ),
        ),
        ("Begun", run.started.clone()),
        ("Took", simulated),
        ("Command", run.command.clone()),
    ];
    let facts = facts.into_iter().map(|(name, value)| {
        let value = if value.is_empty() { NONE.to_owned() } else { value };
        el("div").child(text_el("dt", name)).child(text_el("dd", value))
    });
    header = header.child(el("dl").class("facts").children(facts));
    if !run.parameters.is_empty() {
        let rows = run.parameters.iter().map(|parameter| {
            vec![
                page::head(parameter.name.as_str()),
                page::cell(parameter.value.as_str()),
                page::cell(parameter.source.as_str()),
            ]
        });
        let table = page::table(&["Parameter", "Value", "Source"], rows);
        header = header.child(page::details("Parameters", table));
    }
    header
}

fn method(page: &mut Page, report: &Report) {
    let mut inside = vec![
        p("The guest is a model of the paper's web tier: its software as a discrete-event state \
           machine that reads and writes guest memory, driven by closed-loop users with Olio's \
           mix. In virtual time the production migration session runs on a simulated clock and \
           link, and one seed gives one result, bit for bit; live it runs with threads, mapped \
           memory, TCP connections and the machine's clock."),
        p("Percentiles: for each window of 300 s that lies in steady state, on a grid of 1 s, \
           the nearest-rank percentile of all response times that complete in it; a request \
           without a successful answer counts as infinite. A limit is violated if a percentile \
           is above it in any window. With fewer than 10 (p90) or 100 (p99) samples a window is \
           undetermined. Response time: from the actual send to the last answer, as Faban \
           measures it; in a closed loop that hides the wait before a late send."),
        p("Downtime three ways: what an open-loop prober with a request each 10 ms sees; the \
           longest time without a completion over all users; pause to first instruction at the \
           destination by the engine's clock. Recovery: resume until the last request begun \
           during the pause is complete."),
        p("Limits: the paper gives one run for its 44 s and 3 s, and one number for each cell of \
           Table 2. Its migration throughput, its switch-over cost and the exact revision of its \
           application are unknown; the pages written per operation are fitted to recordings of \
           the real application and are the main uncertainty, which the sensitivity shows. \
           Numbers are calibrated on capacity; agreement with it is no evidence, agreement of \
           the rest is."),
    ];
    inside.extend(report.remarks.iter().map(|remark| p(remark.as_str())));
    page.section("method", "Method and limits", inside);
}
