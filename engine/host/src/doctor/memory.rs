//! Memory: pages that are moved or merged behind a worker's back, and memory that is far from the card.

use super::{About, Scene};
use tare_driver::sys::affinity::format_cpus;
use tare_stats::result::{Finding, Level};
use tare_units::CpuList;

const NODES: &str = "/sys/devices/system/node";

/// Transparent huge pages.
pub(super) fn huge_pages(scene: &Scene<'_>) -> Finding {
    const FILE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    let about = About::new(
        "huge-pages",
        "the kernel merges pages behind a program's back (khugepaged): now and then a thread waits for it, some 10 µs to ms",
        format!("cat {FILE}"),
    );
    // The one in force stands in brackets: `always [madvise] never`.
    let text = scene.files.word(FILE);
    let mode = text.as_deref().and_then(|text| Some(text.split_once('[')?.1.split_once(']')?.0));
    match mode {
        None => about.unknown("nothing tells whether huge pages are made by themselves"),
        Some("always") => about
            .finds(Level::Note, "always")
            .mend(format!("echo madvise > {FILE}"))
            .undo(format!("echo always > {FILE}")),
        Some(mode) => about.finds(Level::Ok, mode),
    }
}

/// Automatic NUMA balancing.
pub(super) fn numa_balancing(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "numa-balancing",
        "the kernel unmaps pages in order to see who uses them: a page fault of some µs each",
        "sysctl kernel.numa_balancing",
    );
    match scene.files.number::<u32>("/proc/sys/kernel/numa_balancing") {
        None => about.unknown("the kernel has no kernel.numa_balancing, or does not show it"),
        Some(0) => about.finds(Level::Ok, "off"),
        Some(mode) => about
            .finds(Level::Note, format!("on ({mode})"))
            .mend("sysctl -w kernel.numa_balancing=0")
            .undo(format!("sysctl -w kernel.numa_balancing={mode}")),
    }
}

/// Whether the measuring CPUs are of the card's node.
pub(super) fn numa_node(scene: &Scene<'_>) -> Finding {
    let name = scene.link.name();
    let about = About::new(
        "numa-node",
        "packets cross between the nodes: some 0.1 µs for each cache line that does, tenths of a µs a round trip",
        format!("cat /sys/class/net/{name}/device/numa_node; lscpu | grep NUMA"),
    );
    if let Some(nothing) = scene.link.nothing_to_examine() {
        return about.nothing(nothing);
    }
    let nodes: Vec<(i32, Vec<u32>)> = scene
        .files
        .names(NODES)
        .iter()
        .filter_map(|name| name.strip_prefix("node")?.parse().ok())
        .filter_map(|node: i32| {
            let list = scene.files.word(format!("{NODES}/node{node}/cpulist"))?;
            let CpuList(cpus) = list.parse().ok()?;
            Some((node, cpus))
        })
        .collect();
    if nodes.len() == 1 {
        return about.finds(Level::Ok, "there is one node");
    }
    let of_device = scene.link.device.as_ref().and_then(|device| device.numa_node);
    let Some((node, near)) = nodes.iter().find(|(node, _)| Some(*node) == of_device) else {
        return about.unknown(format!("nothing tells the NUMA node of {name}"));
    };
    let far: Vec<u32> = scene.cpus.iter().copied().filter(|cpu| !near.contains(cpu)).collect();
    let level = if far.is_empty() { Level::Ok } else { Level::Spoils };
    let what = if far.is_empty() {
        format!("{name} and {} are of node {node}", scene.cpus_text())
    } else {
        format!("{name} is of node {node}, CPU {} is not", format_cpus(&far))
    };
    about.finds(level, what).mend(format!("--cpus with CPUs of node {node}: {}", format_cpus(near)))
}

#[cfg(test)]
mod tests {
    use super::super::stage::Stage;
    use super::*;

    #[test]
    fn huge_pages_are_as_the_brackets_say() {
        let level = |text: &str| {
            let file = "/sys/kernel/mm/transparent_hugepage/enabled";
            huge_pages(&Stage::new(&[(file, text)]).on(&[0]).scene()).level
        };
        assert_eq!(level("always [madvise] never\n"), Level::Ok);
        assert_eq!(level("always madvise [never]\n"), Level::Ok);
        assert_eq!(level("[always] madvise never\n"), Level::Note);
        assert_eq!(level("\n"), Level::Unknown);
    }

    #[test]
    fn balancing_is_undone_as_it_was() {
        let file = "/proc/sys/kernel/numa_balancing";
        let of = |text: &str| numa_balancing(&Stage::new(&[(file, text)]).on(&[0]).scene());
        assert_eq!(of("0\n").level, Level::Ok);
        let finding = of("2\n");
        assert_eq!(finding.level, Level::Note);
        assert_eq!(finding.undo.as_deref(), Some("sysctl -w kernel.numa_balancing=2"));
    }

    #[test]
    fn cpus_of_another_node_are_far() {
        let nodes = [
            ("/sys/devices/system/node/node0/cpulist", "0-1\n"),
            ("/sys/devices/system/node/node1/cpulist", "2-3\n"),
        ];
        let mut stage = Stage::new(&nodes).hardware("eth0").on(&[1, 2]);
        assert_eq!(numa_node(&stage.scene()).level, Level::Unknown);
        let near = |stage: &mut Stage, node| {
            stage.link.device.as_mut().unwrap().numa_node = Some(node);
            numa_node(&stage.scene())
        };
        let finding = near(&mut stage, 0);
        assert_eq!(finding.level, Level::Spoils);
        assert_eq!(finding.what, "eth0 is of node 0, CPU 2 is not");
        assert!(finding.mend.unwrap().ends_with("0-1"));
        let mut stage = stage.on(&[2]);
        assert_eq!(near(&mut stage, 1).level, Level::Ok);
        // One node: whatever the card says.
        let stage = Stage::new(&nodes[..1]).hardware("eth0").on(&[1]);
        assert_eq!(numa_node(&stage.scene()).level, Level::Ok);
    }
}
