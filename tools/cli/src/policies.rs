// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy policies`: the stop policies and the guards.

use precopy::policy::{
    GUARD_PARAMETERS, ParameterInfo, PolicyError, PolicyInfo, PolicySpec, policy_groups,
};
use serde_json::{Value, json};

use crate::args::PoliciesArgs;
use crate::exit::Exit;

/// Columns of the list: names, then rules.
const NAME_WIDTH: usize = 18;
const RULE_WIDTH: usize = 78;

/// Runs the command.
pub(crate) fn run(args: &PoliciesArgs) -> anyhow::Result<Exit> {
    let named: Result<Vec<_>, PolicyError> =
        args.names.iter().map(|name| Ok(PolicySpec::new(name, [])?.info())).collect();
    let named = named?;
    let wanted = |info: &PolicyInfo| named.is_empty() || named.contains(&info);
    if args.json {
        let list: Vec<_> = policy_groups()
            .iter()
            .flat_map(|group| group.policies.iter().map(|info| (group.title, info)))
            .filter(|(_, info)| wanted(info))
            .map(|(title, info)| {
                json!({
                    "name": info.name,
                    "group": title,
                    "rule": info.rule,
                    "source": info.source,
                    "parameters": parameters(info.parameters),
                })
            })
            .collect();
        let all = json!({ "policies": list, "guards": parameters(GUARD_PARAMETERS) });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(Exit::Done);
    }
    if named.is_empty() {
        list();
    } else {
        named.iter().for_each(|info| details(info));
    }
    Ok(Exit::Done)
}

/// All policies, one after the other: name and rule.
fn list() {
    for group in policy_groups() {
        println!("{}:", group.title);
        for info in group.policies {
            let mut name = info.name;
            for line in wrapped(info.rule, RULE_WIDTH) {
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
         `precopy policies NAME` shows a policy's parameters and where its rule comes from."
    );
}

fn details(info: &PolicyInfo) {
    println!("{}", info.name);
    for line in wrapped(info.rule, RULE_WIDTH) {
        println!("    {line}");
    }
    println!("    from: {}", info.source);
    print(info.parameters);
    println!();
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
