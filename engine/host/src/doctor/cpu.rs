//! The measuring CPUs: their clock rate, their sleep, and who else works on them.

use std::collections::BTreeMap;

use super::sample::{GAP_MIN, Noise, Sample};
use super::{
    Check, HostSnapshot, Needs, Seen, Texts, check, count, fine, found, noted, per_second,
    pings_hit, rate_level, spoilt, unknown,
};
use crate::cpus::CPU_DIRECTORY;
use crate::environment::{self, EXIT_LATENCY_MAX_US};
use crate::files::Files;
use crate::usage::Counters;
use tare_driver::sys::affinity::format_cpus;
use tare_stats::result::{IdleState, Level};
use tare_units::{CpuList, Nanos};

/// What `/dev/cpu_dma_latency` says where nobody asks for anything: 2,000 s.
const NO_LATENCY_ASKED_US: i32 = 2_000_000_000;
/// A sibling that works for this share of the look is no idle one.
const SIBLING_BUSY: f64 = 0.05;
const RESTING_LOAD: f64 = 0.2;
/// A spinning worker that is away for this share of the time, per cent, measures others.
const AWAY_SPOILS_PERCENT: f64 = 1.0;
const WAKEUP_NOTE: Nanos = Nanos::from_micros(10);

pub(super) const CHECKS: [Check; 10] = [
    check("governor", Needs::Nothing, |host| governor(host).with("slower", slower(host)))
    .texts(Texts {
        effect: "the clock rate follows the load{slower}: the same code takes a multiple of its \
                 time after a pause, and runs differ",
        show: "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        mend: "cpupower -c {slow-cpus} frequency-set -g performance",
        undo: "cpupower -c {slow-cpus} frequency-set -g {governor}",
    }),
    check("turbo", Needs::Nothing, turbo).texts(Texts {
        effect: "the clock rate depends on heat and on how many other cores work: some per cent \
                 from run to run",
        show: "cat {file}",
        mend: "echo {off} > {file}",
        undo: "echo {on} > {file}",
    }),
    check("idle-states", Needs::Nothing, idle_states).texts(Texts {
        effect: "a CPU that idles first has to wake up: so much later is what a sleeping worker, \
                 or an interrupt, answers",
        show: "grep . /sys/devices/system/cpu/cpu0/cpuidle/state*/{name,latency,disable}; \
               hexdump -e '\"%d\\n\"' -n 4 /dev/cpu_dma_latency",
        mend: "cpupower idle-set -D 10  # or, for one run of tare, as root: --no-idle",
        undo: "cpupower idle-set -E",
    }),
    check("smt", Needs::Nothing, smt).texts(Texts {
        effect: "two threads share the units and caches of one core: a busy sibling makes the \
                 other slower by a fifth to a half",
        show: "grep . /sys/devices/system/cpu/cpu*/topology/thread_siblings_list",
        mend: "echo 0 > /sys/devices/system/cpu/cpu{sibling}/online  # or choose CPUs of different \
               cores with --cpus",
        undo: "echo 1 > /sys/devices/system/cpu/cpu{sibling}/online",
    }),
    check("cpu-isolation", Needs::Nothing, isolation).texts(Texts {
        effect: "the scheduler may put other work on a measuring CPU (µs to ms at a time), and its \
                 tick comes 100 to 1,000 times a second (1 to 3 µs each)",
        show: "cat /sys/devices/system/cpu/isolated /sys/devices/system/cpu/nohz_full",
        mend: "boot with isolcpus={cpus} nohz_full={cpus} rcu_nocbs={cpus}",
        undo: "",
    }),
    check("load", Needs::Nothing, load).texts(Texts {
        effect: "whoever else wants a CPU takes the measuring ones too, for a time slice of some \
                 ms, and the caches with them",
        show: "cat /proc/loadavg; top -b -n 1 | head -20",
        mend: "taskset -acp OTHER_CPUS PID  # of what else runs; or end it",
        undo: "",
    }),
    check("steal", Needs::Nothing, steal).texts(Texts {
        effect: "the hypervisor runs another guest on this CPU, for tens of µs to ms at a time: \
                 the tail is the host's",
        show: "vmstat 1 2  # st",
        mend: "nothing within the guest: dedicated CPUs, or a host that is not overcommitted",
        undo: "",
    }),
    check("noise", Needs::Nothing, noise).texts(Texts {
        effect: "{effect}",
        show: "rtla osnoise top -d 10s -c {cpus}",
        mend: "use CPUs that nothing else uses (--cpus, isolcpus={cpus} nohz_full={cpus}); the \
               findings beside this one say who it is",
        undo: "",
    }),
    check("wake-up", Needs::Nothing, |host| {
        let Some(late) = host.sample.wakeup else {
            return unknown("no thread could sleep on the measuring CPUs");
        };
        let cpu = host.first_cpu();
        let what = format!("a sleeping thread wakes {late} late on CPU {cpu} (99th percentile)");
        noted(late > WAKEUP_NOTE, what).figure(late.as_secs_f64() * 1e6, "us")
    })
    .texts(Texts {
        effect: "a worker that sleeps (--wait block) answers so much later, at each end: idle \
                 states, clock rate and hypervisor together",
        show: "cyclictest -m -p 90 -D 10 -a {cpus}",
        mend: "--wait spin where there are CPUs for it, or --no-idle (root)",
        undo: "",
    }),
    check("hypervisor", Needs::Nothing, |host| match &host.environment.hypervisor {
        _ if !host.files.exists("/proc/cpuinfo") => {
            unknown("nothing tells whether this is a virtual machine")
        }
        Some(name) => found(Level::Note, format!("this is a virtual machine: {name}")),
        None => fine("no sign of a hypervisor"),
    })
    .texts(Texts {
        effect: "wake-ups, timers and device interrupts leave the guest, for some µs to tens of µs \
                 each, and its CPUs are shared",
        show: "systemd-detect-virt; grep -c hypervisor /proc/cpuinfo",
        mend: "",
        undo: "",
    }),
];

fn governor(host: &HostSnapshot) -> Seen {
    let mut by_name: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for &cpu in &host.cpus {
        let Some(name) = environment::governor(&host.files, cpu) else {
            return unknown(format!(
                "CPU {cpu} shows no frequency governor: a hypervisor keeps it, or no driver is \
                 loaded"
            ));
        };
        by_name.entry(name).or_default().push(cpu);
    }
    let Some((name, cpus)) = by_name.iter().find(|(name, _)| *name != "performance") else {
        return fine(format!("performance on {}", host.cpus_text()));
    };
    let cpus = format_cpus(cpus);
    found(Level::Spoils, format!("{name} on CPU {cpus}"))
        .with("slow-cpus", cpus)
        .with("governor", name)
}

fn slower(host: &HostSnapshot) -> String {
    let mhz = |name: &str| {
        let path = format!("{CPU_DIRECTORY}/cpu{}/cpufreq/{name}", host.first_cpu());
        host.files.number::<u64>(path).map(|khz| khz / 1_000)
    };
    match (mhz("scaling_min_freq"), mhz("scaling_max_freq")) {
        (Some(min), Some(max)) if min > 0 => format!(" (here down to {min} of {max} MHz)"),
        _ => String::new(),
    }
}

fn turbo(host: &HostSnapshot) -> Seen {
    let intel = format!("{CPU_DIRECTORY}/intel_pstate/no_turbo");
    let boost = format!("{CPU_DIRECTORY}/cpufreq/boost");
    let (file, off, on) = if host.files.exists(&intel) { (intel, 1, 0) } else { (boost, 0, 1) };
    match host.environment.turbo {
        None => unknown("nothing tells whether the CPUs boost their clock rate"),
        Some(false) => fine("off"),
        Some(true) => found(Level::Note, "on").with("off", off).with("on", on),
    }
    .with("file", file)
}

/// Idle states that are slow to leave, and whether somebody keeps the CPUs out of them.
fn idle_states(host: &HostSnapshot) -> Seen {
    let (said, held) = match latency_asked_us(&host.files) {
        None => ("/dev/cpu_dma_latency cannot be read".to_owned(), None),
        Some(NO_LATENCY_ASKED_US..) => ("/dev/cpu_dma_latency is not held".to_owned(), None),
        Some(us) => {
            let us = u64::try_from(us).unwrap_or(0);
            (format!("/dev/cpu_dma_latency is held at {us} µs"), Some(us))
        }
    };
    if let Some(us) = held.filter(|&us| us <= EXIT_LATENCY_MAX_US) {
        return fine(said).figure(count(us), "us");
    }
    let of_cpu = |&cpu: &u32| {
        environment::idle_states(&host.files, cpu).into_iter().map(move |state| (cpu, state))
    };
    let states: Vec<(u32, IdleState)> = host.cpus.iter().flat_map(of_cpu).collect();
    if states.is_empty() {
        return unknown(format!(
            "no idle states show (a hypervisor has them, or the CPU none); {said}: see wake-up"
        ));
    }
    let is_entered =
        |state: &IdleState| !state.disabled && held.is_none_or(|us| state.exit_latency_us <= us);
    let entered = states.iter().filter(|(_, state)| is_entered(state));
    let deepest = entered.max_by_key(|(_, state)| state.exit_latency_us);
    let Some((cpu, IdleState { name, exit_latency_us: us, .. })) = deepest else {
        return fine(format!("all idle states are off; {said}"));
    };
    spoilt(*us > EXIT_LATENCY_MAX_US, format!("CPU {cpu} may take {us} µs to leave {name}; {said}"))
        .figure(count(*us), "us")
}

/// The latency that someone holds `/dev/cpu_dma_latency` at; a file of 4 bytes, for root alone.
/// Opening it asks for nothing (the kernel's `power/pm_qos_interface`).
fn latency_asked_us(files: &Files) -> Option<i32> {
    use std::io::Read as _;
    let mut bytes = [0; 4];
    let mut file = std::fs::File::open(files.path("/dev/cpu_dma_latency")).ok()?;
    file.read_exact(&mut bytes).ok()?;
    Some(i32::from_ne_bytes(bytes))
}

fn smt(host: &HostSnapshot) -> Seen {
    let (before, after) = (&host.sample.before, &host.sample.after);
    let ticks = |counters: &Counters, cpu: u32| counters.ticks.get(&Some(cpu)).copied();
    let busy_share = |cpu| ticks(after, cpu)?.share_since(ticks(before, cpu)?, |ticks| ticks.busy);
    let pairs = host.machine.shared_cores(&host.cpus, &host.machine.online).into_iter();
    // A sibling that measures too is worst, then the busiest.
    let worst = pairs
        .map(|(ours, theirs)| (host.cpus.contains(&theirs), busy_share(theirs), ours, theirs))
        .max_by(|a, b| a.0.cmp(&b.0).then(a.1.unwrap_or(0.0).total_cmp(&b.1.unwrap_or(0.0))));
    let Some((measures, busy, ours, theirs)) = worst else {
        let first = host.first_cpu();
        return if host.files.exists(format!("{CPU_DIRECTORY}/cpu{first}/topology/core_id")) {
            fine(format!("no other thread on the cores of {}", host.cpus_text()))
        } else {
            unknown("nothing tells which CPUs are threads of one core")
        };
    };
    let is_thread = format!("CPU {theirs} is a thread of CPU {ours}'s core");
    let seen = match busy {
        _ if measures => found(
            Level::Spoils,
            format!("CPUs {ours} and {theirs}, which both measure, are threads of one core"),
        ),
        None => unknown(format!("{is_thread}; nothing tells whether it works")),
        Some(busy @ SIBLING_BUSY..) => {
            let percent = busy * 100.0;
            let what = format!(
                "CPU {theirs}, a thread of CPU {ours}'s core, was busy for {percent:.0} % of the look"
            );
            found(Level::Spoils, what).figure(busy, "share")
        }
        Some(busy) => found(Level::Note, format!("{is_thread}; it was idle")).figure(busy, "share"),
    };
    seen.with("sibling", theirs)
}

fn isolation(host: &HostSnapshot) -> Seen {
    let list = |name: &str| -> Option<Vec<u32>> {
        let text = host.files.text(format!("{CPU_DIRECTORY}/{name}"))?;
        // Kernels print `(null)` where nothing is set.
        Some(text.parse().map_or_else(|_| Vec::new(), |CpuList(cpus)| cpus))
    };
    let Some(isolated) = list("isolated") else {
        return unknown("nothing tells which CPUs the scheduler keeps off");
    };
    let tickless = list("nohz_full").unwrap_or_default();
    let all_in = |list: &[u32]| host.cpus.iter().all(|cpu| list.contains(cpu));
    let (level, what) = match (all_in(&isolated), all_in(&tickless)) {
        (true, true) => (Level::Ok, "isolated, and without a tick"),
        (true, false) => (Level::Note, "isolated, but with a tick"),
        (false, _) => (Level::Note, "shared with everything else on this machine"),
    };
    let verb = if host.cpus.len() == 1 { "is" } else { "are" };
    found(level, format!("{} {verb} {what}", host.cpus_text()))
}

fn load(host: &HostSnapshot) -> Seen {
    let (online, measure) = (host.machine.online.len(), host.cpus.len());
    let Some(minute) = host.load.filter(|_| online > 0) else {
        return unknown("there is no load average");
    };
    let spare = count(online as u64) - count(measure as u64);
    let level = match minute {
        _ if minute > RESTING_LOAD.max(spare) => Level::Spoils,
        _ if minute > RESTING_LOAD => Level::Note,
        _ => Level::Ok,
    };
    let what = format!(
        "{minute} tasks wanted to run in the last minute, on {online} CPUs of which {measure} \
         measure"
    );
    found(level, what).figure(minute, "tasks")
}

fn steal(host: &HostSnapshot) -> Seen {
    let Sample { before, after, span, .. } = &host.sample;
    let Some(steal) = after.steal_ns_since(before, &host.cpus).map(Nanos) else {
        return unknown("the kernel does not count stolen time");
    };
    let cpus = host.cpus_text();
    let share = steal.as_secs_f64() / span.as_secs_f64().max(1e-9) * 100.0;
    spoilt(steal > Nanos::ZERO, format!("{steal} stolen from {cpus} within {span} ({share:.1} %)"))
        .figure(count(steal.0), "ns")
}

fn noise(host: &HostSnapshot) -> Seen {
    const EFFECT: &str = "whatever takes a spinning worker's CPU adds its length to one round trip";
    let noise = &host.sample.noise;
    let away_percent =
        |noise: &Noise| noise.away.as_secs_f64() / noise.span.as_secs_f64().max(1e-9) * 100.0;
    // Seldom and long is as bad as short and often.
    let level = |noise: &Noise| match away_percent(noise) {
        AWAY_SPOILS_PERCENT.. => Level::Spoils,
        _ => rate_level(per_second(noise.gaps, noise.span)),
    };
    let worst = noise.iter().max_by_key(|(_, noise)| (level(noise) == Level::Spoils, noise.gaps));
    let Some((cpu, worst)) = worst else {
        let what =
            "no thread could spin on the measuring CPUs, or the cgroup's quota would not last";
        return unknown(what).with("effect", EFFECT);
    };
    let rate = per_second(worst.gaps, worst.span);
    let (what, effect) = if worst.gaps == 0 {
        let on = host.cpus_text();
        (format!("a spinning thread was never away for {GAP_MIN} on {on}"), EFFECT.to_owned())
    } else {
        let longest = noise.values().map(|noise| noise.longest).max().unwrap_or_default();
        let share = away_percent(worst);
        let what = format!(
            "a spinning thread was interrupted for {GAP_MIN} or longer {rate:.0} times a second on \
             CPU {cpu} ({share:.1} % of the time), for {longest} at most"
        );
        (what, format!("{}, and the longest is the maximum of a run", pings_hit(rate)))
    };
    found(level(worst), what).figure(rate, "per s").with("effect", effect)
}
