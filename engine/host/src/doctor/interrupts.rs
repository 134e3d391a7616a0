//! Interrupts: which of them reach the measuring CPUs, and which may.

use std::collections::BTreeMap;

use super::{
    Check, HostSnapshot, Needs, Seen, Texts, check, count, found, noted, per_second, pings_hit,
    rate_level, unknown,
};
use crate::files::Files;
use tare_driver::sys::affinity::format_cpus;
use tare_units::CpuList;

/// So many interrupts between CPUs are worth a note: a tick of 1,000 a second, and as many again.
const LOCAL_NOTE_PER_S: f64 = 2_000.0;
const NAMED: usize = 3;
/// Moves interrupts (a glob of the shell) to the other CPUs, and keeps where they were.
const STEER: &str = "systemctl stop irqbalance; grep -H . /proc/irq/{irqs}/smp_affinity_list > \
                     irqs.saved; for i in /proc/irq/{irqs}/smp_affinity_list; do echo {others} > \
                     $i; done";
const STEER_BACK: &str = "while IFS=: read -r file cpus; do echo $cpus > $file; done < \
                          irqs.saved; systemctl start irqbalance";

pub(super) const CHECKS: [Check; 4] = [
    check("irqs", Needs::Nothing, of_devices).texts(Texts {
        effect: "each takes some 2 to 10 µs from a worker that spins there{hit}",
        show: "cat /proc/interrupts; sleep 1; cat /proc/interrupts",
        mend: "systemctl stop irqbalance; echo {others} > /proc/irq/{irq}/smp_affinity_list",
        undo: "echo {before} > /proc/irq/{irq}/smp_affinity_list; systemctl start irqbalance",
    }),
    check("irq-affinity", Needs::Nothing, affinities).texts(Texts {
        effect: "any of them may come to a measuring CPU at any time, for 2 to 10 µs each",
        show: "grep . /proc/irq/*/smp_affinity_list",
        mend: STEER,
        undo: STEER_BACK,
    }),
    check("device-irqs", Needs::Card, of_the_card).texts(Texts {
        effect: "on a measuring CPU each packet's interrupt and softirq take the worker's own time \
                 (some 2 to 10 µs); on another core they run beside it, and packets cross between \
                 caches",
        show: "ls /sys/class/net/{device}/device/msi_irqs; grep . /proc/irq/*/smp_affinity_list",
        mend: STEER,
        undo: STEER_BACK,
    }),
    check("local-interrupts", Needs::Nothing, local).texts(Texts {
        effect: "each takes some 1 to 3 µs from a worker that spins there{hit}",
        show: "grep -E 'CPU|LOC|RES|CAL|TLB|IPI' /proc/interrupts",
        mend: "keep other work off: --cpus, or boot with isolcpus={cpus} nohz_full={cpus} \
               rcu_nocbs={cpus}",
        undo: "",
    }),
];

#[derive(Debug)]
struct Line {
    /// The number of an interrupt, or the name of a kind that is the CPU's own (`LOC`, `RES`).
    name: String,
    source: String,
    counts: BTreeMap<u32, u64>,
}

impl Line {
    /// `CPUs` are those that have a column, which are the ones that are online.
    fn parse(line: &str, cpus: &[u32]) -> Option<Self> {
        let (name, rest) = line.split_once(':')?;
        let mut words = rest.split_ascii_whitespace();
        let counts: BTreeMap<u32, u64> =
            cpus.iter().map_while(|cpu| Some((*cpu, words.next()?.parse().ok()?))).collect();
        // `ERR` and `MIS` have one count for all CPUs.
        let is_per_cpu = counts.len() == cpus.len();
        let source = words.collect::<Vec<_>>().join(" ");
        is_per_cpu.then(|| Self { name: name.trim().to_owned(), source, counts })
    }

    /// Whether a device raises it, and not a CPU's own timer or another CPU.
    fn is_of_device(&self) -> bool {
        let is_numbered = self.name.bytes().all(|b| b.is_ascii_digit());
        // Arm numbers the timers of its CPUs, too.
        is_numbered && !self.source.contains("arch_timer")
    }

    fn on(&self, cpus: &[u32]) -> u64 {
        cpus.iter().filter_map(|cpu| self.counts.get(cpu)).sum()
    }
}

/// All of `/proc/interrupts`; empty where it cannot be read.
#[derive(Debug, Default)]
pub(super) struct Interrupts(Vec<Line>);

impl Interrupts {
    pub(super) fn read(files: &Files) -> Self {
        let text = files.text("/proc/interrupts").unwrap_or_default();
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default().split_ascii_whitespace();
        let cpus: Vec<u32> =
            header.filter_map(|word| word.strip_prefix("CPU")?.parse().ok()).collect();
        Self(lines.filter_map(|line| Line::parse(line, &cpus)).collect())
    }
}

/// How many of each line came to the measuring CPUs within the look, most first.
fn grown(host: &HostSnapshot, is_wanted: fn(&Line) -> bool) -> Vec<(&Line, u64)> {
    let (before, after) = (&host.sample.interrupts_before.0, &host.sample.interrupts.0);
    let mut grown: Vec<(&Line, u64)> = after
        .iter()
        .filter(|line| is_wanted(line))
        .map(|line| {
            let old = before.iter().find(|old| old.name == line.name);
            let old = old.map_or(0, |old| old.on(&host.cpus));
            (line, line.on(&host.cpus).saturating_sub(old))
        })
        .filter(|&(_, count)| count > 0)
        .collect();
    grown.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    grown
}

/// The rate of all of them together, and the first ones with theirs.
fn rates(host: &HostSnapshot, grown: &[(&Line, u64)]) -> (f64, String) {
    let span = host.sample.span;
    let named = grown.iter().take(NAMED).map(|(line, count)| {
        let device = line.source.rsplit(' ').next().filter(|_| line.is_of_device());
        let device = device.map_or_else(String::new, |device| format!(" {device}"));
        format!("{}{device} {:.0}/s", line.name, per_second(*count, span))
    });
    let all = grown.iter().map(|(_, count)| count).sum();
    (per_second(all, span), named.collect::<Vec<_>>().join(", "))
}

fn of_devices(host: &HostSnapshot) -> Seen {
    if host.sample.interrupts.0.is_empty() {
        return unknown("/proc/interrupts shows none").with("hit", "");
    }
    let grown = grown(host, Line::is_of_device);
    let (rate, named) = rates(host, &grown);
    let on = host.cpus_text();
    let busiest = grown.first().map_or("N", |(line, _)| line.name.as_str());
    let before = affinity(&host.files, busiest).unwrap_or_else(|| "OTHER_CPUS".to_owned());
    let (what, hit) = if grown.is_empty() {
        (format!("no device interrupted {on}"), String::new())
    } else {
        let what = format!("devices interrupted {on} {rate:.0} times a second: {named}");
        (what, format!(": {}", pings_hit(rate)))
    };
    found(rate_level(rate), what)
        .figure(rate, "per s")
        .with("hit", hit)
        .with("irq", busiest)
        .with("before", before)
}

fn affinities(host: &HostSnapshot) -> Seen {
    let numbers = host.files.names("/proc/irq").into_iter();
    let known: Vec<Vec<u32>> = numbers
        .filter(|name| name.parse::<u32>().is_ok())
        .filter_map(|number| affinity(&host.files, &number)?.parse().ok())
        .map(|CpuList(cpus)| cpus)
        .collect();
    if known.is_empty() {
        return unknown("/proc/irq shows no interrupt's affinity");
    }
    let is_measuring = |cpus: &&Vec<u32>| cpus.iter().any(|cpu| host.cpus.contains(cpu));
    let (all, on) = (known.len(), host.cpus_text());
    let allowed = known.iter().filter(is_measuring).count();
    noted(allowed > 0, format!("{allowed} of {all} interrupts may be taken by {on}"))
        .figure(count(allowed as u64), "interrupts")
        .with("irqs", "*")
}

fn of_the_card(host: &HostSnapshot) -> Seen {
    let name = host.link.name();
    // Of a virtio device they are its PCI device's.
    let numbers = ["msi_irqs", "../msi_irqs"]
        .iter()
        .map(|below| host.files.names(format!("/sys/class/net/{name}/device/{below}")))
        .find(|names| !names.is_empty())
        .unwrap_or_default();
    let mut cpus: Vec<u32> = numbers
        .iter()
        .filter_map(|number| affinity(&host.files, number)?.parse().ok())
        .flat_map(|CpuList(cpus)| cpus)
        .collect();
    cpus.sort_unstable();
    cpus.dedup();
    if cpus.is_empty() {
        return unknown(format!("nothing tells which CPUs take the interrupts of {name}"));
    }
    let is_shared = host.cpus.iter().any(|cpu| cpus.contains(cpu));
    let glob = match &numbers[..] {
        [only] => only.clone(),
        // Bash and zsh take the braces.
        several => format!("{{{}}}", several.join(",")),
    };
    let (number, cpus) = (numbers.len(), format_cpus(&cpus));
    noted(is_shared, format!("the {number} interrupts of {name} go to CPU {cpus}"))
        .figure(count(number as u64), "interrupts")
        .with("irqs", glob)
}

fn local(host: &HostSnapshot) -> Seen {
    let grown = grown(host, |line| !line.is_of_device());
    if grown.is_empty() {
        return unknown("/proc/interrupts counts no timer ticks and no calls between CPUs")
            .with("hit", "");
    }
    let (rate, named) = rates(host, &grown);
    let what = format!(
        "the kernel interrupted {} {rate:.0} times a second: {named} (LOC is the timer, RES, CAL \
         and TLB are other CPUs)",
        host.cpus_text()
    );
    noted(rate >= LOCAL_NOTE_PER_S, what)
        .figure(rate, "per s")
        .with("hit", format!(": {}", pings_hit(rate)))
}

fn affinity(files: &Files, number: &str) -> Option<String> {
    files.word(format!("/proc/irq/{number}/smp_affinity_list"))
}
