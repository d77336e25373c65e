// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy policies`: the stop policies, page orders, rates and throttles, and the guards.

use precopy::policy::order::orders;
use precopy::policy::rate::rates;
use precopy::policy::throttle::throttles;
use precopy::policy::{
    Catalogue, GUARD_PARAMETERS, Info, ParameterInfo, PolicyError, PolicySpec, policy_groups,
};
use serde_json::{Value, json};

use crate::args::PoliciesArgs;
use crate::exit::Exit;

/// Columns of the list: names, then rules.
const NAME_WIDTH: usize = 18;
const RULE_WIDTH: usize = 78;

/// Everything that can be chosen by name, whatever it is.
struct Entry {
    /// Its kind in the JSON list.
    kind: &'static str,
    group: &'static str,
    name: &'static str,
    rule: &'static str,
    source: &'static str,
    parameters: &'static [ParameterInfo],
}

fn entries() -> Vec<Entry> {
    fn of<T: Catalogue + ?Sized>(
        kind: &'static str,
        group: &'static str,
        all: &'static [Info<T>],
    ) -> impl Iterator<Item = Entry> {
        all.iter().map(move |info| Entry {
            kind,
            group,
            name: info.name,
            rule: info.rule,
            source: info.source,
            parameters: info.parameters,
        })
    }
    let stop = policy_groups();
    let stop = stop.iter().flat_map(|group| of("policies", group.title, group.policies));
    stop.chain(of("orders", "Which page next (address unless told otherwise)", orders()))
        .chain(of("rates", "How fast while the guest runs (as fast as it goes)", rates()))
        .chain(of("throttles", "How hard to throttle the guest (not at all)", throttles()))
        .collect()
}

/// Runs the command.
pub(crate) fn run(args: &PoliciesArgs) -> anyhow::Result<Exit> {
    let all = entries();
    let unknown = args.names.iter().find(|name| all.iter().all(|entry| entry.name != **name));
    if let Some(name) = unknown {
        // What there is instead, and what is meant perhaps.
        let known: Result<_, PolicyError> = PolicySpec::new(name, []);
        known?;
    }
    let wanted =
        |entry: &&Entry| args.names.is_empty() || args.names.iter().any(|name| name == entry.name);
    if args.json {
        let of = |kind| {
            let list = all.iter().filter(wanted).filter(|entry| entry.kind == kind);
            list.map(described).collect::<Vec<_>>()
        };
        let all = json!({
            "policies": of("policies"),
            "orders": of("orders"),
            "rates": of("rates"),
            "throttles": of("throttles"),
            "guards": parameters(GUARD_PARAMETERS),
        });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(Exit::Done);
    }
    if args.names.is_empty() {
        list(&all);
    } else {
        all.iter().filter(wanted).for_each(details);
    }
    Ok(Exit::Done)
}

/// All of them, one after the other: name and rule.
fn list(all: &[Entry]) {
    for group in all.chunk_by(|one, next| one.group == next.group) {
        println!("{}:", group[0].group);
        for entry in group {
            let mut name = entry.name;
            for line in wrapped(entry.rule, RULE_WIDTH) {
                println!("  {name:<NAME_WIDTH$}{line}");
                name = "";
            }
        }
        println!();
    }
    println!(
        "Guards, obeyed by every policy (--max-rounds, --max-time, --max-data, --no-progress, \
         --on-limit):"
    );
    print(GUARD_PARAMETERS);
    println!(
        "\nUse: --policy NAME or --policy NAME:parameter=value,parameter=value; a page order, a\n\
         rate and a throttle may follow: --policy qemu:downtime_ms=50+cold-first+auto-converge\n\
         `precopy policies NAME` shows its parameters and where its rule comes from."
    );
}

fn details(entry: &Entry) {
    println!("{}", entry.name);
    for line in wrapped(entry.rule, RULE_WIDTH) {
        println!("    {line}");
    }
    println!("    from: {}", entry.source);
    print(entry.parameters);
    println!();
}

fn described(entry: &Entry) -> Value {
    json!({
        "name": entry.name,
        "group": entry.group,
        "rule": entry.rule,
        "source": entry.source,
        "parameters": parameters(entry.parameters),
    })
}

fn print(parameters: &[ParameterInfo]) {
    for parameter in parameters {
        println!("    {}={}  {}", parameter.name, parameter.default, parameter.doc);
        println!("        {}", parameter.kind);
    }
}

/// The words of `text` in lines of at most `width` characters, unless a word is longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn parameters(list: &[ParameterInfo]) -> Vec<Value> {
    let one = |parameter: &ParameterInfo| {
        json!({
            "name": parameter.name,
            "values": parameter.kind.to_string(),
            "default": parameter.default,
            "doc": parameter.doc,
        })
    };
    list.iter().map(one).collect()
}
