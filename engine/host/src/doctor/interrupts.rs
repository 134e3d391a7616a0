//! Interrupts: which of them reach the measuring CPUs, and which may.

use std::collections::BTreeMap;

use super::{About, Scene, per_second, pings_hit, rate_level};
use crate::files::Files;
use tare_driver::sys::affinity::format_cpus;
use tare_stats::result::{Finding, Level};
use tare_units::CpuList;

/// At so many interrupts between CPUs a second they are worth a note: a tick of 1,000 a second, and as many again.
const LOCAL_NOTE_PER_S: f64 = 2_000.0;
/// Sources that are named.
const NAMED: usize = 3;

/// A line of `/proc/interrupts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The number of an interrupt, or the name of a kind that is the CPU's own (`LOC`, `RES`).
    name: String,
    /// Who takes it.
    source: String,
    /// Counts since boot.
    counts: BTreeMap<u32, u64>,
}

impl Line {
    /// Whether a device raises it, and not a CPU's own timer or another CPU.
    fn is_of_device(&self) -> bool {
        let numbered = self.name.bytes().all(|b| b.is_ascii_digit());
        // Arm numbers the timers of its CPUs, too.
        numbered && !self.source.contains("arch_timer")
    }
}

/// All of `/proc/interrupts`; empty where it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Interrupts(Vec<Line>);

impl Interrupts {
    pub(super) fn read(files: &Files) -> Self {
        let text = files.text("/proc/interrupts").unwrap_or_default();
        let mut lines = text.lines();
        // Only CPUs that are online have a column.
        let cpus: Vec<u32> = lines
            .next()
            .unwrap_or_default()
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix("CPU")?.parse().ok())
            .collect();
        Self(
            lines
                .filter_map(|line| {
                    let (name, rest) = line.split_once(':')?;
                    let counts: BTreeMap<u32, u64> = cpus
                        .iter()
                        .zip(rest.split_ascii_whitespace())
                        .map_while(|(cpu, word)| Some((*cpu, word.parse().ok()?)))
                        .collect();
                    // `ERR` and `MIS` have one count for all CPUs.
                    (counts.len() == cpus.len()).then(|| Line {
                        name: name.trim().to_owned(),
                        source: rest
                            .split_ascii_whitespace()
                            .skip(cpus.len())
                            .collect::<Vec<_>>()
                            .join(" "),
                        counts,
                    })
                })
                .collect(),
        )
    }

    /// How many of each line came to `cpus` since an earlier reading, most first; lines without any left out.
    fn since<'a>(&'a self, earlier: &Self, cpus: &[u32]) -> Vec<(&'a Line, u64)> {
        let on = |line: &Line| -> u64 { cpus.iter().filter_map(|cpu| line.counts.get(cpu)).sum() };
        let mut grown: Vec<(&Line, u64)> = self
            .0
            .iter()
            .filter_map(|line| {
                let before = earlier.0.iter().find(|old| old.name == line.name);
                let count = on(line).saturating_sub(before.map_or(0, on));
                (count > 0).then_some((line, count))
            })
            .collect();
        grown.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        grown
    }
}

/// Interrupts of devices that came to the measuring CPUs within the look.
pub(super) fn irqs(scene: &Scene<'_>) -> Finding {
    let (before, after) = (&scene.look.before.interrupts, &scene.look.after.interrupts);
    let about = About::new(
        "irqs",
        "each takes some 2 to 10 µs from a worker that spins there",
        "cat /proc/interrupts; sleep 1; cat /proc/interrupts",
    );
    let on = scene.cpus_text();
    if after.0.is_empty() {
        return about.unknown("/proc/interrupts shows none");
    }
    let mut grown = after.since(before, scene.cpus);
    grown.retain(|(line, _)| line.is_of_device());
    let count = grown.iter().map(|(_, count)| count).sum();
    let rate = per_second(count, scene.look.span);
    let named: Vec<String> = grown
        .iter()
        .take(NAMED)
        .map(|(line, count)| {
            let source = line.source.rsplit(' ').next().unwrap_or_default();
            let rate = per_second(*count, scene.look.span);
            format!("{} {source} {rate:.0}/s", line.name)
        })
        .collect();
    let what = if grown.is_empty() {
        format!("no device interrupted {on}")
    } else {
        format!("devices interrupted {on} {rate:.0} times a second: {}", named.join(", "))
    };
    let busiest = grown.first().map_or("N", |(line, _)| line.name.as_str());
    let others = scene.other_cpus_text();
    let mut finding = about.finds(rate_level(rate), what).figure(rate, "per s");
    if rate > 0.0 {
        finding.effect += &format!(": {}", pings_hit(rate));
    }
    finding
        .mend(format!(
            "systemctl stop irqbalance; echo {others} > /proc/irq/{busiest}/smp_affinity_list"
        ))
        .undo(format!(
            "echo {} > /proc/irq/{busiest}/smp_affinity_list; systemctl start irqbalance",
            affinity(scene.files, busiest).unwrap_or_else(|| "OTHER_CPUS".to_owned())
        ))
}

/// Interrupts of devices that may come to the measuring CPUs at any time.
pub(super) fn irq_affinity(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "irq-affinity",
        "any of them may come to a measuring CPU at any time, for 2 to 10 µs each",
        "grep . /proc/irq/*/smp_affinity_list",
    );
    let numbers: Vec<String> = scene
        .files
        .names("/proc/irq")
        .into_iter()
        .filter(|name| name.parse::<u32>().is_ok())
        .collect();
    let known: Vec<(&String, Vec<u32>)> = numbers
        .iter()
        .filter_map(|number| {
            let CpuList(cpus) = affinity(scene.files, number)?.parse().ok()?;
            Some((number, cpus))
        })
        .collect();
    if known.is_empty() {
        return about.unknown("/proc/irq shows no interrupt's affinity");
    }
    let allowed =
        known.iter().filter(|(_, cpus)| cpus.iter().any(|cpu| scene.cpus.contains(cpu))).count();
    let level = if allowed == 0 { Level::Ok } else { Level::Note };
    let what =
        format!("{allowed} of {} interrupts may be taken by {}", known.len(), scene.cpus_text());
    let finding = about.finds(level, what).figure(count_as_f64(allowed), "interrupts");
    steer(scene, finding, "*")
}

/// Mends by moving interrupts (a glob of the shell) to the other CPUs, with where they were kept for the way back.
fn steer(scene: &Scene<'_>, finding: Finding, interrupts: &str) -> Finding {
    let others = scene.other_cpus_text();
    let files = format!("/proc/irq/{interrupts}/smp_affinity_list");
    finding
        .mend(format!(
            "systemctl stop irqbalance; grep -H . {files} > irqs.saved; for i in {files}; do echo {others} > $i; done"
        ))
        .undo(
            "while IFS=: read -r file cpus; do echo $cpus > $file; done < irqs.saved; systemctl start irqbalance",
        )
}

/// The interrupts of the route's device: which CPUs take them.
pub(super) fn device_irqs(scene: &Scene<'_>) -> Finding {
    let name = scene.link.name();
    let about = About::new(
        "device-irqs",
        "on a measuring CPU each packet's interrupt and softirq take the worker's own time (some 2 to 10 µs); on another \
         core they run beside it, and packets cross between caches",
        format!("ls /sys/class/net/{name}/device/msi_irqs; grep . /proc/irq/*/smp_affinity_list"),
    );
    if let Some(nothing) = scene.link.nothing_to_examine() {
        return about.nothing(nothing);
    }
    let directory = format!("/sys/class/net/{name}/device");
    // Of a virtio device they are its PCI device's.
    let numbers = ["msi_irqs", "../msi_irqs"]
        .iter()
        .map(|below| scene.files.names(format!("{directory}/{below}")))
        .find(|names| !names.is_empty())
        .unwrap_or_default();
    let mut cpus: Vec<u32> = numbers
        .iter()
        .filter_map(|number| affinity(scene.files, number))
        .filter_map(|list| list.parse().ok())
        .flat_map(|CpuList(cpus)| cpus)
        .collect();
    cpus.sort_unstable();
    cpus.dedup();
    if cpus.is_empty() {
        let what = format!("nothing tells which CPUs take the interrupts of {name}");
        return about.unknown(what);
    }
    let shared = scene.cpus.iter().any(|cpu| cpus.contains(cpu));
    let level = if shared { Level::Note } else { Level::Ok };
    let what =
        format!("the {} interrupts of {name} go to CPU {}", numbers.len(), format_cpus(&cpus));
    let finding = about.finds(level, what).figure(count_as_f64(numbers.len()), "interrupts");
    let glob = match &numbers[..] {
        [only] => only.clone(),
        // Bash and zsh take the braces.
        several => format!("{{{}}}", several.join(",")),
    };
    steer(scene, finding, &glob)
}

/// The timer tick, and calls from other CPUs.
pub(super) fn local(scene: &Scene<'_>) -> Finding {
    let (before, after) = (&scene.look.before.interrupts, &scene.look.after.interrupts);
    let about = About::new(
        "local-interrupts",
        "each takes some 1 to 3 µs from a worker that spins there",
        "grep -E 'CPU|LOC|RES|CAL|TLB|IPI' /proc/interrupts",
    );
    let mut grown = after.since(before, scene.cpus);
    grown.retain(|(line, _)| !line.is_of_device());
    if grown.is_empty() {
        let what = "/proc/interrupts counts no timer ticks and no calls between CPUs";
        return about.unknown(what);
    }
    let count = grown.iter().map(|(_, count)| count).sum();
    let rate = per_second(count, scene.look.span);
    let named: Vec<String> = grown
        .iter()
        .take(NAMED)
        .map(|(line, count)| {
            let rate = per_second(*count, scene.look.span);
            format!("{} {rate:.0}/s", line.name)
        })
        .collect();
    let level = if rate >= LOCAL_NOTE_PER_S { Level::Note } else { Level::Ok };
    let what = format!(
        "the kernel interrupted {} {rate:.0} times a second: {} (LOC is the timer, RES, CAL and TLB are other CPUs)",
        scene.cpus_text(),
        named.join(", ")
    );
    let mut finding = about.finds(level, what).figure(rate, "per s");
    finding.effect += &format!(": {}", pings_hit(rate));
    finding.mend(format!(
        "keep other work off: --cpus, or boot with isolcpus={0} nohz_full={0} rcu_nocbs={0}",
        format_cpus(scene.cpus)
    ))
}

fn affinity(files: &Files, number: &str) -> Option<String> {
    files.word(format!("/proc/irq/{number}/smp_affinity_list"))
}

#[expect(clippy::cast_precision_loss, reason = "machines have thousands at most")]
pub(super) fn count_as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::super::stage::Stage;
    use super::*;
    use tare_units::Nanos;

    const BEFORE: &str = "           CPU0       CPU2\n 24:        100         50  IO-APIC   5-edge      eth0-rx-0\n\
        LOC:       1000       2000   Local timer interrupts\nERR:          0\n";

    fn after(irq: u64, local: u64) -> String {
        format!(
            "           CPU0       CPU2\n 24:      90000  {irq}  IO-APIC   5-edge      eth0-rx-0\n\
             LOC:      91000  {local}   Local timer interrupts\nERR:          7\n"
        )
    }

    fn looked(irq: u64, local: u64) -> Stage {
        let mut stage = Stage::new(&[("/proc/interrupts", BEFORE)]).on(&[2]);
        stage.look.before.interrupts = Interrupts::read(&stage.files());
        stage.write("/proc/interrupts", &after(irq, local));
        stage.look.after.interrupts = Interrupts::read(&stage.files());
        stage.look.span = Nanos::from_secs(2);
        stage
    }

    #[test]
    fn interrupts_count_on_the_measuring_cpus_alone() {
        let finding = irqs(&looked(50, 2000).scene());
        assert_eq!((finding.level, finding.value), (Level::Ok, Some(0.0)));
        let finding = irqs(&looked(150, 2000).scene());
        assert_eq!((finding.level, finding.value), (Level::Note, Some(50.0)));
        assert!(finding.what.contains("24 eth0-rx-0 50/s"), "{finding:?}");
        let stage = looked(2050, 2000);
        stage.write("/proc/irq/24/smp_affinity_list", "0-2\n");
        let finding = irqs(&stage.scene());
        assert_eq!((finding.level, finding.value), (Level::Spoils, Some(1000.0)));
        let mend = finding.mend.unwrap();
        assert!(mend.contains("echo 0 > /proc/irq/24/"), "{mend}");
        assert_eq!(
            finding.undo.as_deref(),
            Some("echo 0-2 > /proc/irq/24/smp_affinity_list; systemctl start irqbalance")
        );
        assert!(finding.effect.contains("1 %"), "{}", finding.effect);
    }

    #[test]
    fn ticks_and_calls_are_apart_from_devices() {
        let finding = local(&looked(9_000, 2500).scene());
        assert_eq!((finding.level, finding.value), (Level::Ok, Some(250.0)));
        let finding = local(&looked(50, 12_000).scene());
        assert_eq!((finding.level, finding.value), (Level::Note, Some(5000.0)));
        assert!(finding.what.contains("LOC 5000/s"), "{finding:?}");
    }

    #[test]
    fn a_sandbox_without_interrupts_is_unknown() {
        let stage = Stage::new(&[("/proc/interrupts", "\n")]).on(&[0]);
        for check in [irqs, irq_affinity, local] {
            assert_eq!(check(&stage.scene()).level, Level::Unknown);
        }
    }

    #[test]
    fn affinities_tell_what_may_come() {
        let stage = Stage::new(&[
            ("/proc/irq/0/smp_affinity_list", "0"),
            ("/proc/irq/24/smp_affinity_list", "0-1"),
            ("/proc/irq/25/smp_affinity_list", "1"),
            ("/proc/irq/default_smp_affinity", "4"),
        ]);
        let finding = irq_affinity(&stage.on(&[2]).scene());
        assert_eq!(finding.level, Level::Ok);
        let stage = Stage::new(&[
            ("/proc/irq/24/smp_affinity_list", "0-2"),
            ("/proc/irq/25/smp_affinity_list", "1"),
        ]);
        let finding = irq_affinity(&stage.on(&[2]).scene());
        assert_eq!((finding.level, finding.value), (Level::Note, Some(1.0)));
        assert!(finding.mend.unwrap().contains("> irqs.saved"));
        assert!(finding.undo.unwrap().contains("< irqs.saved"));
    }

    #[test]
    fn the_devices_interrupts_are_found_beside_its_parent_too() {
        let irq = ("/proc/irq/41/smp_affinity_list", "0-1");
        for below in ["device/msi_irqs/41", "msi_irqs/41"] {
            let path = format!("/sys/class/net/eth0/{below}");
            // `..` only leads somewhere from a directory that is there.
            let there = ("/sys/class/net/eth0/device/vendor", "x");
            let stage = Stage::new(&[irq, there, (path.as_str(), "msix")]).hardware("eth0");
            let stage = stage.on(&[1]);
            let finding = device_irqs(&stage.scene());
            assert_eq!(finding.level, Level::Note, "{below}: {finding:?}");
            assert!(finding.what.contains("CPU 0-1"), "{finding:?}");
            assert!(finding.mend.unwrap().contains(" /proc/irq/41/smp"));
            assert_eq!(device_irqs(&stage.on(&[3]).scene()).level, Level::Ok);
        }
        let stage = Stage::new(&[]).hardware("eth0").on(&[0]);
        assert_eq!(device_irqs(&stage.scene()).level, Level::Unknown);
    }
}
