// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy policies`: the stop policies, page orders, rates and throttles, and the guards.

use precopy::policy::order::orders;
use precopy::policy::rate::rates;
use precopy::policy::throttle::throttles;
use precopy::policy::{Catalogue, GUARD_PARAMETERS, Info, ParameterInfo, policies};
use serde_json::{Value, json};

use crate::args::PoliciesArgs;
use crate::exit::Exit;

/// Runs the command.
pub(crate) fn run(args: &PoliciesArgs) -> anyhow::Result<Exit> {
    if args.json {
        let all = json!({
            "policies": described(policies()),
            "orders": described(orders()),
            "rates": described(rates()),
            "throttles": described(throttles()),
            "guards": parameters(GUARD_PARAMETERS),
        });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(Exit::Done);
    }
    println!("When to stop\n");
    list(policies());
    println!("Which page next [address]\n");
    list(orders());
    println!("How fast while the guest runs [as the link and --bandwidth-cap allow]\n");
    list(rates());
    println!("How hard to throttle the guest [not at all]\n");
    list(throttles());
    println!(
        "guards, obeyed by every policy (--max-rounds, --max-time, --max-data, --no-progress, \
         --on-limit)"
    );
    print(GUARD_PARAMETERS);
    println!(
        "\nUse: --policy NAME or --policy NAME:parameter=value,parameter=value; a page order, a \
         rate and a throttle may follow: --policy qemu:downtime_ms=50+cold-first+auto-converge"
    );
    Ok(Exit::Done)
}

fn list<T: Catalogue + ?Sized>(all: &[Info<T>]) {
    for one in all {
        println!("{}\n    {}\n    from: {}", one.name, one.rule, one.source);
        print(one.parameters);
        println!();
    }
}

fn described<T: Catalogue + ?Sized>(all: &[Info<T>]) -> Vec<Value> {
    let one = |info: &Info<T>| {
        json!({
            "name": info.name,
            "rule": info.rule,
            "source": info.source,
            "parameters": parameters(info.parameters),
        })
    };
    all.iter().map(one).collect()
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
