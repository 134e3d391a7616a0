//! The measuring CPUs: their clock rate, their sleep, and who else works on them.

use std::collections::BTreeMap;

use super::interrupts::count_as_f64;
use super::look::{GAP_MIN, Noise};
use super::{About, Scene, pings_hit, rate_level};
use crate::environment::idle_states as idle_states_of;
use crate::environment::{CPU_DIRECTORY, EXIT_LATENCY_MAX_US, governor as governor_of};
use crate::files::Files;
use tare_driver::sys::affinity::format_cpus;
use tare_stats::result::{Finding, IdleState, Level};
use tare_units::{CpuList, Nanos};

/// What `/dev/cpu_dma_latency` says where nobody asks for anything: 2,000 s.
const NO_LATENCY_ASKED_US: i32 = 2_000_000_000;
/// A sibling that works for this share of the look is no idle one.
const SIBLING_BUSY: f64 = 0.05;
/// A load below this is what a machine at rest has.
const RESTING_LOAD: f64 = 0.2;
/// A spinning worker that is away for this share of the time, per cent, measures others.
const AWAY_SPOILS_PERCENT: f64 = 1.0;
/// Later wake-ups than this are worth a note.
const WAKEUP_NOTE: Nanos = Nanos::from_micros(10);

/// The frequency governors.
pub(super) fn governor(scene: &Scene<'_>) -> Finding {
    let first = scene.cpus.first().copied().unwrap_or(0);
    let directory = format!("{CPU_DIRECTORY}/cpu{first}/cpufreq");
    let khz = |name: &str| scene.files.number::<u64>(format!("{directory}/{name}"));
    let slower = match (khz("scaling_min_freq"), khz("scaling_max_freq")) {
        (Some(min), Some(max)) if min > 0 => {
            format!(" (here down to {} of {} MHz)", min / 1_000, max / 1_000)
        }
        _ => String::new(),
    };
    let about = About::new(
        "governor",
        format!(
            "the clock rate follows the load{slower}: the same code takes a multiple of its time after a pause, and runs \
             differ"
        ),
        format!("cat {CPU_DIRECTORY}/cpu*/cpufreq/scaling_governor"),
    );
    let mut by_name: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for &cpu in scene.cpus {
        let Some(name) = governor_of(scene.files, cpu) else {
            return about.unknown(format!(
                "CPU {cpu} shows no frequency governor: a hypervisor keeps it, or no driver is loaded"
            ));
        };
        by_name.entry(name).or_default().push(cpu);
    }
    let bad: Vec<_> = by_name.iter().filter(|(name, _)| *name != "performance").collect();
    let Some((name, cpus)) = bad.first() else {
        return about.finds(Level::Ok, format!("performance on {}", scene.cpus_text()));
    };
    let cpus = format_cpus(cpus);
    about
        .finds(Level::Spoils, format!("{name} on CPU {cpus}"))
        .mend(format!("cpupower -c {cpus} frequency-set -g performance"))
        .undo(format!("cpupower -c {cpus} frequency-set -g {name}"))
}

/// Turbo, or boost.
pub(super) fn turbo(scene: &Scene<'_>) -> Finding {
    let intel = format!("{CPU_DIRECTORY}/intel_pstate/no_turbo");
    let is_intel = scene.files.exists(&intel);
    let boost = format!("{CPU_DIRECTORY}/cpufreq/boost");
    let (file, off, on) = if is_intel { (intel, 1, 0) } else { (boost, 0, 1) };
    let about = About::new(
        "turbo",
        "the clock rate depends on heat and on how many other cores work: some per cent from run to run",
        format!("cat {file}"),
    );
    match scene.environment.turbo {
        None => about.unknown("nothing tells whether the CPUs boost their clock rate"),
        Some(false) => about.finds(Level::Ok, "off"),
        Some(true) => about
            .finds(Level::Note, "on")
            .mend(format!("echo {off} > {file}"))
            .undo(format!("echo {on} > {file}")),
    }
}

/// Idle states that are slow to leave, and whether somebody keeps the CPUs out of them.
pub(super) fn idle_states(scene: &Scene<'_>) -> Finding {
    let held = latency_asked_us(scene.files);
    let about = About::new(
        "idle-states",
        "a CPU that idles first has to wake up: so much later is what a sleeping worker, or an interrupt, answers",
        format!(
            "grep . {CPU_DIRECTORY}/cpu0/cpuidle/state*/{{name,latency,disable}}; hexdump -e '\"%d\\n\"' -n 4 \
             /dev/cpu_dma_latency"
        ),
    );
    let limit = held.filter(|&us| us < NO_LATENCY_ASKED_US);
    let said = match (held, limit) {
        (_, Some(us)) => format!("/dev/cpu_dma_latency is held at {us} µs"),
        (Some(_), None) => "/dev/cpu_dma_latency is not held".to_owned(),
        (None, None) => "/dev/cpu_dma_latency cannot be read".to_owned(),
    };
    let states: Vec<(u32, IdleState)> = scene
        .cpus
        .iter()
        .flat_map(|&cpu| {
            let states = idle_states_of(scene.files, cpu);
            states.into_iter().map(move |state| (cpu, state))
        })
        .collect();
    if let Some(us) = limit.filter(|&us| i64::from(us) <= EXIT_LATENCY_MAX_US.cast_signed()) {
        return about.finds(Level::Ok, said).figure(us.into(), "us");
    }
    if states.is_empty() {
        return about.unknown(format!(
            "no idle states show (a hypervisor has them, or the CPU none); {said}: see wake-up"
        ));
    }
    let enters = |state: &IdleState| {
        let asked = limit.map(|us| u64::try_from(us).unwrap_or(0));
        !state.disabled && asked.is_none_or(|us| state.exit_latency_us <= us)
    };
    let deepest = states
        .iter()
        .filter(|(_, state)| enters(state))
        .max_by_key(|(_, state)| state.exit_latency_us);
    let Some((cpu, IdleState { name, exit_latency_us: us, .. })) = deepest else {
        return about.finds(Level::Ok, format!("all idle states are off; {said}"));
    };
    let level = if *us > EXIT_LATENCY_MAX_US { Level::Spoils } else { Level::Ok };
    about
        .finds(
            level,
            format!("CPU {cpu} may take {us} µs to leave {name}; {said}"),
        )
        .figure(microseconds(*us), "us")
        .mend(format!(
            "cpupower idle-set -D {EXIT_LATENCY_MAX_US}  # or, for one run of tare, as root: --no-idle"
        ))
        .undo("cpupower idle-set -E")
}

/// The latency that someone holds `/dev/cpu_dma_latency` at; a file of 4 bytes, for root alone. Opening it asks for
/// nothing (the kernel's `power/pm_qos_interface`).
fn latency_asked_us(files: &Files) -> Option<i32> {
    use std::io::Read as _;
    let mut bytes = [0; 4];
    let mut file = std::fs::File::open(files.path("/dev/cpu_dma_latency")).ok()?;
    file.read_exact(&mut bytes).ok()?;
    Some(i32::from_ne_bytes(bytes))
}

/// Threads that share a core with a measuring CPU.
pub(super) fn smt(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "smt",
        "two threads share the units and caches of one core: a busy sibling makes the other slower by a fifth to a half",
        format!("grep . {CPU_DIRECTORY}/cpu*/topology/thread_siblings_list"),
    );
    let pairs = scene.machine.shared_cores(scene.cpus, &scene.machine.online);
    let (before, after) = (&scene.look.before.ticks, &scene.look.after.ticks);
    let busy_share = |cpu: u32| after.get(&cpu)?.busy_share_since(*before.get(&cpu)?);
    // One that measures too is worst, then the busiest.
    let worst = pairs
        .iter()
        .map(|&(ours, theirs)| (ours, theirs, scene.cpus.contains(&theirs), busy_share(theirs)))
        .max_by(|a, b| {
            let busy = |share: Option<f64>| share.unwrap_or(0.0);
            a.2.cmp(&b.2).then(busy(a.3).total_cmp(&busy(b.3)))
        });
    let Some((ours, theirs, measures, busy)) = worst else {
        let first = scene.cpus.first().copied().unwrap_or(0);
        let is_told = scene.files.exists(format!("{CPU_DIRECTORY}/cpu{first}/topology/core_id"));
        return if is_told {
            let on = scene.cpus_text();
            about.finds(Level::Ok, format!("no other thread on the cores of {on}"))
        } else {
            about.unknown("nothing tells which CPUs are threads of one core")
        };
    };
    let finding = if measures {
        about.finds(
            Level::Spoils,
            format!("CPUs {ours} and {theirs}, which both measure, are threads of one core"),
        )
    } else {
        match busy {
            Some(busy) if busy >= SIBLING_BUSY => about
                .finds(
                    Level::Spoils,
                    format!("CPU {theirs}, a thread of CPU {ours}'s core, was busy for {:.0} % of the look", busy * 100.0),
                )
                .figure(busy, "share"),
            Some(busy) => about
                .finds(
                    Level::Note,
                    format!("CPU {theirs} is a thread of CPU {ours}'s core; it was idle"),
                )
                .figure(busy, "share"),
            None => about.unknown(format!(
                "CPU {theirs} is a thread of CPU {ours}'s core; nothing tells whether it works"
            )),
        }
    };
    finding
        .mend(format!(
            "echo 0 > {CPU_DIRECTORY}/cpu{theirs}/online  # or choose CPUs of different cores with --cpus"
        ))
        .undo(format!("echo 1 > {CPU_DIRECTORY}/cpu{theirs}/online"))
}

/// Whether the scheduler and the tick keep off.
pub(super) fn isolation(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "cpu-isolation",
        "the scheduler may put other work on a measuring CPU (µs to ms at a time), and its tick comes 100 to 1,000 times a \
         second (1 to 3 µs each)",
        format!("cat {CPU_DIRECTORY}/isolated {CPU_DIRECTORY}/nohz_full"),
    );
    let list = |name: &str| -> Option<Vec<u32>> {
        let text = scene.files.text(format!("{CPU_DIRECTORY}/{name}"))?;
        // Kernels print `(null)` where nothing is set.
        Some(text.parse().map_or_else(|_| Vec::new(), |CpuList(cpus)| cpus))
    };
    let Some(isolated) = list("isolated") else {
        return about.unknown("nothing tells which CPUs the scheduler keeps off");
    };
    let tickless = list("nohz_full").unwrap_or_default();
    let all_in = |list: &[u32]| scene.cpus.iter().all(|cpu| list.contains(cpu));
    let (level, what) = match (all_in(&isolated), all_in(&tickless)) {
        (true, true) => (Level::Ok, "isolated, and without a tick"),
        (true, false) => (Level::Note, "isolated, but with a tick"),
        (false, _) => (Level::Note, "shared with everything else on this machine"),
    };
    let cpus = format_cpus(scene.cpus);
    let verb = if scene.cpus.len() == 1 { "is" } else { "are" };
    about
        .finds(level, format!("{} {verb} {what}", scene.cpus_text()))
        .mend(format!("boot with isolcpus={cpus} nohz_full={cpus} rcu_nocbs={cpus}"))
}

/// What wanted to run, before the look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    /// Tasks running or waiting to, the average of the last minute.
    minute: f64,
}

impl Load {
    pub(super) fn read(files: &Files) -> Option<Self> {
        let minute = *files.numbers::<f64>("/proc/loadavg").first()?;
        Some(Self { minute })
    }
}

/// Other work on the machine.
pub(super) fn load(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "load",
        "whoever else wants a CPU takes the measuring ones too, for a time slice of some ms, and the caches with them",
        "cat /proc/loadavg; top -b -n 1 | head -20",
    );
    let online = count_as_f64(scene.machine.online.len());
    let Some(Load { minute }) = scene.load.filter(|_| online > 0.0) else {
        return about.unknown("there is no load average");
    };
    let spare = online - count_as_f64(scene.cpus.len());
    let level = if minute > RESTING_LOAD.max(spare) {
        Level::Spoils
    } else if minute > RESTING_LOAD {
        Level::Note
    } else {
        Level::Ok
    };
    about
        .finds(
            level,
            format!(
                "{minute} tasks wanted to run in the last minute, on {online} CPUs of which {} measure",
                scene.cpus.len()
            ),
        )
        .figure(minute, "tasks")
        .mend("taskset -acp OTHER_CPUS PID  # of what else runs; or end it")
}

/// Time that the hypervisor took.
pub(super) fn steal(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "steal",
        "the hypervisor runs another guest on this CPU, for tens of µs to ms at a time: the tail is the host's",
        "vmstat 1 2  # st",
    );
    let Some(steal_ns) = scene.look.disturbance.steal_ns else {
        return about.unknown("the kernel does not count stolen time");
    };
    let steal = Nanos(steal_ns);
    let level = if steal == Nanos::ZERO { Level::Ok } else { Level::Spoils };
    let share = steal.as_secs_f64() / scene.look.span.as_secs_f64().max(1e-9) * 100.0;
    about
        .finds(
            level,
            format!(
                "{steal} stolen from {} within {} ({share:.1} %)",
                scene.cpus_text(),
                scene.look.span
            ),
        )
        .figure(steal.as_secs_f64() * 1e9, "ns")
        .mend("nothing within the guest: dedicated CPUs, or a host that is not overcommitted")
}

/// What kept a spinning thread from running.
pub(super) fn noise(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "noise",
        "whatever takes a spinning worker's CPU adds its length to one round trip",
        format!("rtla osnoise top -d 10s -c {0}", format_cpus(scene.cpus)),
    );
    let noise = &scene.look.noise;
    let away_percent =
        |noise: &Noise| noise.away.as_secs_f64() / noise.span.as_secs_f64().max(1e-9) * 100.0;
    // Seldom and long is as bad as short and often.
    let level = |noise: &Noise| match away_percent(noise) {
        AWAY_SPOILS_PERCENT.. => Level::Spoils,
        _ => rate_level(super::per_second(noise.gaps, noise.span)),
    };
    let worst = noise.iter().max_by_key(|(_, noise)| (level(noise) == Level::Spoils, noise.gaps));
    let Some((cpu, worst)) = worst else {
        return about.unknown(
            "no thread could spin on the measuring CPUs, or the cgroup's quota would not last",
        );
    };
    let longest = noise.values().map(|n| n.longest).max().unwrap_or_default();
    let rate = super::per_second(worst.gaps, worst.span);
    let share = away_percent(worst);
    let what = if worst.gaps == 0 {
        format!("a spinning thread was never away for {GAP_MIN} on {}", scene.cpus_text())
    } else {
        format!(
            "a spinning thread was away for {GAP_MIN} or longer {rate:.0} times a second on CPU {cpu} ({share:.1} % of the \
             time), for {longest} at most"
        )
    };
    let finding = about.finds(level(worst), what).figure(rate, "per s");
    let hit = format!("{}, and the longest is the maximum of a run", pings_hit(rate));
    let finding = if worst.gaps == 0 { finding } else { finding.effect(hit) };
    finding.mend(format!(
        "use CPUs that nothing else uses (--cpus, isolcpus={0} nohz_full={0}); the findings beside this one say who it is",
        format_cpus(scene.cpus)
    ))
}

/// How late a sleeping thread wakes.
pub(super) fn wakeup(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "wake-up",
        "a worker that sleeps (--wait block) answers so much later, at each end: idle states, clock rate and hypervisor \
         together",
        format!("cyclictest -m -p 90 -D 10 -a {0}", format_cpus(scene.cpus)),
    );
    let Some(late) = scene.look.wakeup else {
        return about.unknown("no thread could sleep on the measuring CPUs");
    };
    let level = if late > WAKEUP_NOTE { Level::Note } else { Level::Ok };
    let cpu = scene.cpus.first().copied().unwrap_or(0);
    about
        .finds(level, format!("a sleeping thread wakes {late} late on CPU {cpu} (99th percentile)"))
        .figure(late.as_secs_f64() * 1e6, "us")
        .mend("--wait spin where there are CPUs for it, or --no-idle (root)")
}

/// A hypervisor below.
pub(super) fn hypervisor(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "hypervisor",
        "wake-ups, timers and device interrupts leave the guest, for some µs to tens of µs each, and its CPUs are shared",
        "systemd-detect-virt; grep -c hypervisor /proc/cpuinfo",
    );
    if !scene.files.exists("/proc/cpuinfo") {
        return about.unknown("nothing tells whether this is a virtual machine");
    }
    match &scene.environment.hypervisor {
        Some(name) => about.finds(Level::Note, format!("this is a virtual machine: {name}")),
        None => about.finds(Level::Ok, "no sign of a hypervisor"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "exit latencies are milliseconds at most")]
const fn microseconds(us: u64) -> f64 {
    us as f64
}

#[cfg(test)]
mod tests;
