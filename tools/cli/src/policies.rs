// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy policies`: the stop policies and the guards.

use precopy::policy::{GUARD_PARAMETERS, ParameterInfo, policies};
use serde_json::{Value, json};

use crate::args::PoliciesArgs;
use crate::exit::Exit;

/// Runs the command.
pub(crate) fn run(args: &PoliciesArgs) -> anyhow::Result<Exit> {
    if args.json {
        let list = policies().iter().map(|policy| {
            json!({
                "name": policy.name,
                "rule": policy.rule,
                "source": policy.source,
                "parameters": parameters(policy.parameters),
            })
        });
        let list: Vec<_> = list.collect();
        let all = json!({ "policies": list, "guards": parameters(GUARD_PARAMETERS) });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(Exit::Done);
    }
    for policy in policies() {
        println!("{}\n    {}\n    from: {}", policy.name, policy.rule, policy.source);
        print(policy.parameters);
        println!();
    }
    println!(
        "guards, obeyed by every policy (--max-rounds, --max-time, --max-data, --no-progress, \
         --on-limit)"
    );
    print(GUARD_PARAMETERS);
    println!("\nUse: --policy NAME or --policy NAME:parameter=value,parameter=value");
    Ok(Exit::Done)
}

fn print(parameters: &[ParameterInfo]) {
    for parameter in parameters {
        println!("    {}={}  {}", parameter.name, parameter.default, parameter.doc);
        println!("        {}", parameter.kind);
    }
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
