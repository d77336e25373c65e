// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy policies`: all that a strategy is composed of, and the guards.

use precopy::policy::order::PageOrder;
use precopy::policy::rate::RatePolicy;
use precopy::policy::throttle::ThrottlePolicy;
use precopy::policy::{Catalogue, GUARD_PARAMETERS, Info, ParameterInfo, nearest, policy_groups};
use serde_json::{Value, json};

use crate::args::PoliciesArgs;
use crate::exit::{Exit, usage};

/// Columns of the list: names, then rules.
const NAME_WIDTH: usize = 18;
const RULE_WIDTH: usize = 78;

/// One thing that can be chosen by name.
struct Entry {
    /// What kind of thing: its key in JSON.
    kind: &'static str,
    group: &'static str,
    name: &'static str,
    rule: &'static str,
    source: &'static str,
    parameters: &'static [ParameterInfo],
}

impl Entry {
    fn new<T: ?Sized>(kind: &'static str, group: &'static str, info: &Info<T>) -> Self {
        let Info { name, rule, source, parameters, .. } = *info;
        Self { kind, group, name, rule, source, parameters }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "group": self.group,
            "rule": self.rule,
            "source": self.source,
            "parameters": parameters(self.parameters),
        })
    }
}

/// Everything there is, group by group.
fn entries() -> Vec<Entry> {
    let stops = policy_groups().iter().flat_map(|group| {
        group.policies.iter().map(|info| Entry::new("policies", group.title, info))
    });
    let orders = <dyn PageOrder>::all().iter();
    let rates = <dyn RatePolicy>::all().iter();
    let throttles = <dyn ThrottlePolicy>::all().iter();
    stops
        .chain(orders.map(|info| Entry::new("orders", "Page orders", info)))
        .chain(rates.map(|info| Entry::new("rates", "Rates", info)))
        .chain(throttles.map(|info| Entry::new("throttles", "Throttles", info)))
        .collect()
}

/// Runs the command.
pub(crate) fn run(args: &PoliciesArgs) -> anyhow::Result<Exit> {
    let mut entries = entries();
    for name in &args.names {
        if !entries.iter().any(|entry| entry.name == name) {
            let meant = nearest(name, entries.iter().map(|entry| entry.name));
            let meant = meant.map_or_else(String::new, |name| format!(" Did you mean {name:?}?"));
            return Err(usage(format!(
                "There is nothing called {name:?}.{meant} `precopy policies` lists what there is."
            )));
        }
    }
    entries.retain(|entry| args.names.is_empty() || args.names.iter().any(|n| n == entry.name));
    if args.json {
        let mut all = serde_json::Map::new();
        for kind in ["policies", "orders", "rates", "throttles"] {
            let list = entries.iter().filter(|entry| entry.kind == kind).map(Entry::json);
            all.insert(kind.to_owned(), list.collect());
        }
        all.insert("guards".to_owned(), parameters(GUARD_PARAMETERS).into());
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else if args.names.is_empty() {
        list(&entries);
    } else {
        entries.iter().for_each(details);
    }
    Ok(Exit::Done)
}

/// All of them, one after the other: name and rule.
fn list(entries: &[Entry]) {
    for group in entries.chunk_by(|one, next| one.group == next.group) {
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
        "\nUse: --policy NAME or --policy NAME:parameter=value,parameter=value\n\
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

fn print(parameters: &[ParameterInfo]) {
    for parameter in parameters {
        println!("    {}={}", parameter.name, parameter.default);
        for line in wrapped(parameter.doc, RULE_WIDTH) {
            println!("        {line}");
        }
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
