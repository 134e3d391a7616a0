//! `tare compare`: its flags, and the plan they become. What is measured stands behind `--`, and is
//! parsed as the command that measures it by itself, once for each arm.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser};
use tare_engine::compare::plan::{ArmPlan, ComparePlan};
use tare_engine::measurement::Measurement;
use tare_engine::run::plan::Stop;
use tare_host::hooks::HookSpec;
use tare_stats::assertion::{Assertion, evaluate_comparison};
use tare_units::Nanos;
use tare_units::error::{Error, Result};

use super::measure::{Measuring, asked, check_outputs, present};
use super::options::{Percentiles, ResultArgs, SEED_BITS, random_seed};
use super::{demand, diff, refuse, usage};
use crate::exit::Exit;
use crate::redact::{self, Redactor};

const BLOCK_DURATION: &str = "500ms";
const WARMUP: Nanos = Nanos::from_millis(100);
const OPEN_LOOP_WARMUP: Nanos = Nanos::from_millis(10);
/// Quantiles over which a verdict is given where `--percentiles` does not say otherwise, per cent.
const QUANTILES: [f64; 2] = [50.0, 99.0];
const BY_DEFAULT: [&str; 2] = ["loopback", "veth"];
const MEASURED: [&str; 3] = ["lat", "bw", "http"];

const ARMS: &str = "The arms";
const BLOCKS: &str = "The blocks";

/// Flags that belong before `--`, by their ids, and what to write there instead.
const BELONGS_BEFORE: [(&str, &str); 11] = [
    ("duration", "--block-duration TIME"),
    ("count", "--block-duration TIME"),
    ("bytes", "--block-duration TIME"),
    ("seed", "--seed N"),
    ("percentiles", "--percentiles LIST"),
    ("assertions", "--assert 'NAME.p99.delta<30us'"),
    ("strict", "--strict"),
    ("label", "--label TEXT"),
    ("format", "--format NAME"),
    ("output", "-o FILE"),
    ("quiet", "--quiet"),
];

const EXAMPLES: &str = "\
Examples:
  tare compare                                  what a veth pair adds to loopback (as root; else loopback twice)
  tare compare host=node-2 pod=10.1.2.3:7117    round trips to a host and to a pod on it
  tare compare host=node-2 runc=10.1.2.3 kata=10.1.2.4 -- lat --size 1:256K:*64 -o table.md
                                                one row per size, one column per path, differences with intervals
  tare compare host=node-2 pod=10.1.2.3 -- bw --size 64,4K,256K
  tare compare web=http://node-2:8080/ nodeport=http://node-2:30080/ -- http -c 100 --stages 1000,3000,5000
  tare compare plain=node-2 tuned=node-2 --before tuned='sysctl -w net.core.busy_poll=50' \\
    --after tuned='sysctl -w net.core.busy_poll=0' -- lat
                                                one machine, with a knob turned and turned back for each visit
  tare compare a=loopback b=loopback --arm-options b='--server-delay 5us' -- lat
                                                a known difference: is it found?
  tare compare host=node-2 kata=10.1.2.4 --assert 'kata.p99.delta<30us' -- lat && echo cheap enough
  tare compare --baseline-file before.json after.json
                                                two saved comparisons, made days apart

Exit codes: 0 measured, 1 could not measure (an arm was given up), 2 usage, 3 an assertion failed,
4 disturbed (--strict), 5 cannot tell, 130 interrupted (what was measured is printed).";

/// Compare paths: the same measurement over each, in blocks, and the differences with their
/// intervals
///
/// In each block all arms are visited in a random order and then in the reverse one, each time on
/// fresh connections. What differs from block to block is then no difference between arms, and an
/// A/A arm (the first one, visited once more) shows how small a difference this experiment can
/// tell. The first arm is what the others are compared with.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(mut_arg("assertions", |arg| {
    arg.help("Fail with exit code 3 unless this holds: 'kata.p99.delta<30us' (repeatable)").long_help(
        "Fail with exit code 3 unless this holds: 'kata.p99.delta<30us', 'runc.bandwidth.ratio>0.95' (repeatable)\n\n\
         ARM.MEASURE.delta or ARM.MEASURE.ratio, where MEASURE is p50, p99.9 …, bandwidth or goodput: the difference to \
         the baseline, or the ratio. With --baseline-file instead ARM.MEASURE.change, how far the arm has moved, or \
         ARM.MEASURE.cost, how far its difference to the baseline has. size=4K, connections=8, rate=1000 and stage=2 \
         select steps: 'size=64:runc.p50.delta<5us'.\n\nIt holds or fails only if the whole interval does; otherwise the \
         exit code is 5: cannot tell.",
    )
}))]
pub(crate) struct CompareArgs {
    /// The paths, each a name and a target; the first is the baseline [default: loopback veth]
    ///
    /// Targets are those of what is measured: HOST, HOST:PORT, and URLs of http. `loopback` is a
    /// server within this process, `veth` the same in a network namespace made for the run (needs
    /// root); they need no name.
    #[arg(value_name = "NAME=TARGET")]
    arms: Vec<String>,
    /// Compare with this arm instead of the first
    #[arg(long, value_name = "NAME", help_heading = ARMS)]
    baseline: Option<String>,
    /// Run this shell command before each visit to an arm: NAME='sysctl -w …' (one for each arm)
    #[arg(long, value_name = "NAME=COMMAND", value_parser = named, help_heading = ARMS)]
    before: Vec<Named>,
    /// Run this one after each visit, on every exit: it undoes what --before changed
    ///
    /// It is run after a --before that failed, too. What a killed run left undone is named at the
    /// next start.
    #[arg(long, value_name = "NAME=COMMAND", value_parser = named, help_heading = ARMS)]
    after: Vec<Named>,
    /// Record those commands in full: the result then holds any secret in them
    ///
    /// Otherwise it has their first word and the beginning of their SHA-256, which tells whether
    /// two results ran the same. It also confirms a right guess: a secret that can be guessed
    /// belongs in a file that the command reads.
    #[arg(long, help_heading = ARMS)]
    record_hooks: bool,
    /// Rest so long after each of those commands
    #[arg(long, value_name = "TIME", default_value = "0", help_heading = ARMS)]
    settle: Nanos,
    /// Give one arm options of its own, of what stands behind --: NAME='--nodelay'
    #[arg(long, value_name = "NAME=OPTIONS", value_parser = named, help_heading = ARMS)]
    arm_options: Vec<Named>,
    /// Compare two saved results instead: this one, made before, with the one named as argument
    ///
    /// Nothing is measured. --assert 'kata.p99.change<5us' demands how far an arm has moved, and
    /// 'kata.p99.cost<5us' how far its difference to the baseline has.
    #[arg(long, value_name = "OLD.json", help_heading = ARMS)]
    #[arg(conflicts_with_all = ["baseline", "before", "after", "record_hooks", "settle", "arm_options", "blocks", "block_duration", "seed"])]
    #[arg(conflicts_with_all = ["percentiles", "strict", "label"])]
    baseline_file: Option<PathBuf>,

    /// Visit all arms that often, twice each time: 6 or more; small differences take more
    #[arg(long, value_name = "N", default_value = "12", help_heading = BLOCKS)]
    blocks: u32,
    /// Measure each step of a visit for that long
    #[arg(long, value_name = "TIME", default_value = BLOCK_DURATION, help_heading = BLOCKS)]
    block_duration: Nanos,
    /// Repeat the order of an earlier run's visits: its report names its seed
    #[arg(long, value_name = "N", help_heading = BLOCKS)]
    #[arg(value_parser = clap::value_parser!(u64).range(..1 << SEED_BITS))]
    seed: Option<u64>,
    /// Give verdicts over these quantiles of round trips or requests [default: 50,99]
    #[arg(long, value_name = "LIST", help_heading = "The result")]
    percentiles: Option<Percentiles>,
    #[command(flatten)]
    result: ResultArgs,

    /// What each visit measures: lat, bw or http, with its options [default: lat]
    #[arg(last = true, value_name = "lat|bw|http OPTIONS")]
    measured: Vec<String>,
}

type Named = (String, String);

fn named(text: &str) -> Result<Named> {
    match text.split_once('=') {
        Some((name, rest)) if is_name(name) && !rest.is_empty() => Ok((name.into(), rest.into())),
        _ => refuse("it begins with the name of an arm", "write it as NAME='…'"),
    }
}

/// An arm's name: what an assertion can name, and a file.
fn is_name(text: &str) -> bool {
    let mut letters = text.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && text.len() <= 40
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

#[derive(Debug)]
struct Arm {
    name: String,
    command: Measuring,
    options: Option<String>,
    hooks: HookSpec,
}

#[derive(Debug, Parser)]
#[command(name = "tare", subcommand_required = true, disable_help_subcommand = true)]
struct Measured {
    #[command(subcommand)]
    command: Measuring,
}

pub(super) fn run(args: &CompareArgs, typed: &Redactor) -> Result<Exit> {
    if let Some(before) = &args.baseline_file {
        return diff::run(before, &args.changed_file()?, &args.result);
    }
    let arms = args.arms()?;
    if matches!(arms[0].command, Measuring::Bw(_)) {
        check_outputs(&args.result.output)?;
        let message = "--percentiles are of latencies, and bw measures none";
        let advice = "leave it out: the verdict is over the bandwidth";
        demand(args.percentiles.is_none(), message, advice)?;
    }
    let lasts = args.block_duration > Nanos::ZERO;
    demand(lasts, "--block-duration must be above zero", "write it as 500ms")?;
    let assertions = args.result.assertions.iter().map(|expr| Assertion::parse_comparison(expr));
    let assertions = assertions.collect::<Result<Vec<_>>>()?;
    let asked_for = args.percentiles.as_ref();
    let mut quantiles = asked_for.map_or_else(|| QUANTILES.to_vec(), |list| list.0.clone());
    // An assertion is over a cell, and so has its share in the error of all of them.
    for percent in assertions.iter().filter_map(Assertion::percentile) {
        if !quantiles.contains(&percent) {
            quantiles.push(percent);
        }
    }
    quantiles.sort_by(f64::total_cmp);
    let seed = args.seed.unwrap_or_else(random_seed);
    let arms = arms.into_iter().map(|arm| args.plan_of(arm, seed, &quantiles, typed));
    let plan = ComparePlan {
        arms: arms.collect::<Result<_>>()?,
        by_default: args.arms.is_empty(),
        blocks: args.blocks,
        block_duration: args.block_duration,
        settle: args.settle,
        quantiles: quantiles.clone(),
        seed,
    };
    let names: Vec<&str> = plan.arms.iter().map(|arm| arm.name.as_str()).collect();
    // All arms measure the same.
    let asked = asked(&plan.arms[0].measurement);
    assertions.iter().try_for_each(|a| a.check_comparison(&asked, names[0], &names[1..]))?;
    present(
        &args.result,
        quantiles,
        |interrupt, observer| tare_engine::compare::run(&plan, interrupt, observer),
        |report| evaluate_comparison(&assertions, report),
    )
}

impl CompareArgs {
    /// The arms, the baseline first, each with what is measured over it.
    fn arms(&self) -> Result<Vec<Arm>> {
        if let Some(kind) = self.arms.iter().find(|arm| MEASURED.contains(&arm.as_str())) {
            return refuse(
                format!("'{kind}' stands among the arms"),
                format!("write what each visit measures behind --: tare compare … -- {kind} …"),
            );
        }
        let named = if self.arms.is_empty() {
            BY_DEFAULT.map(|name| (name, name)).to_vec()
        } else {
            self.arms.iter().map(|text| name_and_target(text)).collect::<Result<_>>()?
        };
        if let [(only, _)] = named.as_slice() {
            return refuse(
                format!("{only} alone is compared with nothing"),
                format!("name a second path: tare compare {only}=… other=HOST:PORT -- lat"),
            );
        }
        let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
        let lists = [
            ("--before", &self.before),
            ("--after", &self.after),
            ("--arm-options", &self.arm_options),
        ];
        let of_lists = lists
            .into_iter()
            .flat_map(|(flag, list)| list.iter().map(move |(name, _)| (flag, name)));
        for (flag, name) in self.baseline.iter().map(|name| ("--baseline", name)).chain(of_lists) {
            let message = format!("{flag}: no arm is called {name}");
            let advice = format!("the arms are {}", names.join(", "));
            demand(names.contains(&name.as_str()), message, advice)?;
        }
        let mut arms = Vec::new();
        for (name, target) in named {
            let [before, after, options] = lists.map(|(flag, list)| one(list, name, flag));
            let options = options?;
            arms.push(Arm {
                name: name.to_owned(),
                command: self.command(name, target, options.as_deref())?,
                options,
                hooks: HookSpec { before: before?, after: after? },
            });
        }
        // The order of the others stays as it was typed.
        arms.sort_by_key(|arm| self.baseline.as_ref() != Some(&arm.name));
        Ok(arms)
    }

    /// The options behind `--`, and an arm's own, as the command that they belong to would parse
    /// them.
    fn command(&self, name: &str, target: &str, own: Option<&str>) -> Result<Measuring> {
        let (kind, options) = match self.measured.split_first() {
            None => ("lat", &[][..]),
            Some((kind, options)) => (kind.as_str(), options),
        };
        let message = format!("'{}' cannot be compared", kind.escape_debug());
        let advice = "write what each visit measures behind --: tare compare … -- lat --size 64";
        demand(MEASURED.contains(&kind), message, advice)?;
        let own = shlex::split(own.unwrap_or_default()).ok_or_else(|| {
            Error::usage(format!("--arm-options {name}: a quote is not closed"))
                .remedy(format!("write it as --arm-options {name}='…'"))
        })?;
        let mut words: Vec<OsString> = vec!["tare".into(), kind.into(), target.into()];
        words.extend(options.iter().map(Into::into));
        words.extend(own.iter().map(Into::into));
        let wrong = |refused: clap::Error| {
            Error::usage(format!("arm {name}: tare {kind}: {}", usage::line(&refused)))
        };
        let matches = Measured::command().try_get_matches_from(words).map_err(wrong)?;
        if let Some((_, given)) = matches.subcommand() {
            check_place(given)?;
        }
        check_own(name, &own)?;
        let measured = Measured::from_arg_matches(&matches).map_err(wrong)?;
        Ok(measured.command)
    }

    /// The saved result that is compared with `--baseline-file`.
    fn changed_file(&self) -> Result<PathBuf> {
        match (self.arms.as_slice(), self.measured.is_empty()) {
            ([file], true) => Ok(PathBuf::from(file)),
            _ => refuse(
                "--baseline-file compares it with one other saved result",
                "write: tare compare --baseline-file before.json after.json",
            ),
        }
    }

    fn plan_of(&self, arm: Arm, seed: u64, quantiles: &[f64], typed: &Redactor) -> Result<ArmPlan> {
        let mut measurement = arm.command.plan(self.result.quiet)?;
        let by_default = match &measurement {
            // What is due in the warm-up is in the queue before what is measured: of a server that
            // is asked ten times what it can do, nothing else would be seen.
            Measurement::Http(plan) if plan.open.is_some() => OPEN_LOOP_WARMUP,
            _ => WARMUP,
        };
        let common = measurement.common_mut();
        common.stop = Stop::After(self.block_duration);
        common.warmup = arm.command.common().warmup.unwrap_or(by_default);
        common.seed = seed;
        common.command_line = Some(typed.command_line(std::env::args_os()));
        common.label.clone_from(&self.result.label);
        common.percentiles.extend(quantiles);
        let hook = |command: &Option<String>| {
            command.as_deref().map(|command| redact::hook(command, self.record_hooks))
        };
        Ok(ArmPlan {
            shown: HookSpec { before: hook(&arm.hooks.before), after: hook(&arm.hooks.after) },
            name: arm.name,
            measurement,
            options: arm.options.as_deref().map(|options| typed.options(options)),
            hooks: arm.hooks,
        })
    }
}

/// `NAME=TARGET`, or a target that is a name itself.
fn name_and_target(text: &str) -> Result<(&str, &str)> {
    let shown = text.escape_debug();
    match text.split_once('=') {
        Some((name, target)) if is_name(name) && !target.is_empty() => Ok((name, target)),
        Some((name, "")) if is_name(name) => {
            refuse(format!("{name}= has no target"), format!("write it as {name}=HOST:PORT"))
        }
        _ if is_name(text) => Ok((text, text)),
        _ if text.ends_with(".json") => refuse(
            format!("'{shown}' is a saved result, and no path"),
            "to compare two of them: tare compare --baseline-file before.json after.json",
        ),
        // What looks like a name that cannot be one.
        Some((name, target)) if !name.contains([':', '/']) => refuse(
            format!("'{}' can be no arm's name", name.escape_debug()),
            format!("names are letters, digits, - and _: NAME={target}"),
        ),
        _ => refuse(format!("'{shown}' has no name"), format!("write it as NAME='{shown}'")),
    }
}

fn one(list: &[Named], name: &str, flag: &str) -> Result<Option<String>> {
    let mut own = list.iter().filter(|named| named.0 == name);
    let first = own.next().map(|named| named.1.clone());
    let message = format!("{flag} {name} is given twice");
    demand(own.next().is_none(), message, "join the two: NAME='first; second'")?;
    Ok(first)
}

/// Checks that nothing stands behind `--` that is the whole comparison's.
fn check_place(given: &ArgMatches) -> Result<()> {
    let is_typed = |id: &str| {
        given.try_contains_id(id).unwrap_or(false)
            && given.value_source(id) == Some(ValueSource::CommandLine)
    };
    let message = "--interval: the series of a comparison has an entry for each visit";
    demand(!is_typed("interval"), message, "leave it out, or change --block-duration")?;
    for (id, instead) in BELONGS_BEFORE {
        let flag = instead.split(' ').next().unwrap_or(instead);
        let name = if id == "assertions" { "assert" } else { id };
        let message = format!("--{name}: it is said once for all visits");
        let advice =
            format!("write {instead} before --, as in: tare compare a=… b=… {flag} … -- lat");
        demand(!is_typed(id), message, advice)?;
    }
    Ok(())
}

/// Checks that an arm's own options are none that all arms must have alike.
fn check_own(arm: &str, own: &[String]) -> Result<()> {
    for flag in ["--wait", "--backend"] {
        let is_it = |word: &String| {
            word.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        let message = format!("--arm-options {arm}: {flag} is the same for all arms");
        let advice = format!("write {flag} behind --, or leave it out");
        demand(!own.iter().any(is_it), message, advice)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::command::tests::{parsed, refuses};

    fn arms(words: &str) -> Result<Vec<Arm>> {
        match parsed(&format!("compare {words}")) {
            Command::Compare(args) => args.arms(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_arm_has_its_name_its_options_and_what_is_measured() {
        for (words, names, kind) in [
            ("", "loopback veth", "lat"),
            ("a=1.2.3.4 b=1.2.3.5:99 c --baseline b -- bw -P 4", "b a c", "bw"),
            ("'a=http://n:80/?x=1' b=n:81/y -- http -c 3", "a b", "http"),
        ] {
            let arms = arms(words).unwrap();
            let found: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
            assert_eq!(found.join(" "), names, "{words}");
            for arm in arms {
                let found = match arm.command {
                    Measuring::Lat(_) => "lat",
                    Measuring::Bw(_) => "bw",
                    Measuring::Http(_) => "http",
                };
                assert_eq!(found, kind, "{words}");
            }
        }
        let arms = arms(
            "a=loopback b=loopback --before 'b=sysctl -w x=1' --after 'b=sysctl -w x=0' \
             --arm-options 'b=--server-delay 5us' -- lat --size 64,4K",
        );
        let [a, b] = <[Arm; 2]>::try_from(arms.unwrap()).unwrap();
        assert_eq!(a.hooks, HookSpec::default());
        assert_eq!(b.hooks.before.as_deref(), Some("sysctl -w x=1"));
        assert_eq!(b.hooks.after.as_deref(), Some("sysctl -w x=0"));
        assert_eq!(b.options.as_deref(), Some("--server-delay 5us"));
        let Measurement::Lat(plan) = b.command.plan(true).unwrap() else {
            panic!("it measures lat")
        };
        assert_eq!(plan.server_delay, Nanos::from_micros(5));
        assert_eq!(plan.sizes, [64, 4096]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let cases = [
            ("a=h", "alone is compared with nothing"),
            ("10.0.0.1:99 b=h", "write it as NAME='10.0.0.1:99'"),
            ("'http://n/?x=1' b=h -- http", "NAME='http://n/?x=1'"),
            ("a= b=h", "a= has no target; write it as a=HOST:PORT"),
            ("my.host=h b=h", "'my.host' can be no arm's name"),
            ("old.json new.json", "--baseline-file before.json after.json"),
            ("a=h b=h lat", "behind --: tare compare … -- lat"),
            ("a=h b=h --arm-options 'b=--wait block'", "--wait is the same for all arms"),
            ("a=h b=h -- ping", "'ping' cannot be compared"),
            ("a=h b=h -- serve", "'serve' cannot be compared"),
            ("a=h b=h --baseline c", "the arms are a, b"),
            ("a=h b=h --before c=x", "--before: no arm is called c"),
            ("a=h b=h --before a=x --before a=y", "--before a is given twice"),
            ("a=h b=h --arm-options \"a='x\"", "a quote is not closed"),
            ("a=h b=h --arm-options 'a=--sise 3'", "arm a: tare lat:"),
            ("a=h b=h -- lat -d 3s", "write --block-duration TIME before --"),
            ("a=h b=h -- lat -n 3", "write --block-duration TIME before --"),
            ("a=h b=h -- bw --bytes 1G", "write --block-duration"),
            ("a=h b=h -- http -o x.json", "write -o FILE before --"),
            ("a=h b=h -- lat --assert 'p99<1s'", "--assert: it is said once"),
            ("a=h b=h -- lat other", "'other'"),
        ];
        refuses(arms, &cases);
    }
}
