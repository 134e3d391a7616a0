use super::super::interrupts::Interrupts;
use super::*;

const BEFORE: &str = "           CPU0       CPU2\n 24:        100         50  IO-APIC   5-edge      eth0-rx-0\n\
    LOC:       1000       2000   Local timer interrupts\nERR:          0\n";

fn after(irq: u64, local: u64) -> String {
    format!(
        "           CPU0       CPU2\n 24:      90000  {irq}  IO-APIC   5-edge      eth0-rx-0\n\
         LOC:      91000  {local}   Local timer interrupts\nERR:          7\n"
    )
}

fn looked(irq: u64, local: u64) -> FakeHost {
    let mut host = FakeHost::new(&[("/proc/interrupts", BEFORE)]).on(&[2]);
    host.sample.interrupts_before = Interrupts::read(&host.files);
    host.write("/proc/interrupts", &after(irq, local));
    host.sample.interrupts = Interrupts::read(&host.files);
    host.sample.span = Nanos::from_secs(2);
    host
}

#[test]
fn interrupts_count_on_the_measuring_cpus_alone() {
    let finding = looked(50, 2000).finding("irqs");
    assert_eq!((finding.level, finding.value), (Level::Ok, Some(0.0)));
    let finding = looked(150, 2000).finding("irqs");
    assert_eq!((finding.level, finding.value), (Level::Note, Some(50.0)));
    assert!(finding.what.contains("24 eth0-rx-0 50/s"), "{finding:?}");
    let host = looked(2050, 2000);
    host.write("/proc/irq/24/smp_affinity_list", "0-2\n");
    let finding = host.finding("irqs");
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
    let finding = looked(9_000, 2500).finding("local-interrupts");
    assert_eq!((finding.level, finding.value), (Level::Ok, Some(250.0)));
    let finding = looked(50, 12_000).finding("local-interrupts");
    assert_eq!((finding.level, finding.value), (Level::Note, Some(5000.0)));
    assert!(finding.what.contains("LOC 5000/s"), "{finding:?}");
}

#[test]
fn a_sandbox_without_interrupts_is_unknown() {
    let host = FakeHost::new(&[("/proc/interrupts", "\n")]).on(&[0]);
    for code in ["irqs", "irq-affinity", "local-interrupts"] {
        assert_eq!(host.finding(code).level, Level::Unknown);
    }
}

#[test]
fn affinities_tell_what_may_come() {
    let host = FakeHost::new(&[
        ("/proc/irq/0/smp_affinity_list", "0"),
        ("/proc/irq/24/smp_affinity_list", "0-1"),
        ("/proc/irq/25/smp_affinity_list", "1"),
        ("/proc/irq/default_smp_affinity", "4"),
    ]);
    let finding = host.on(&[2]).finding("irq-affinity");
    assert_eq!(finding.level, Level::Ok);
    let host = FakeHost::new(&[
        ("/proc/irq/24/smp_affinity_list", "0-2"),
        ("/proc/irq/25/smp_affinity_list", "1"),
    ]);
    let finding = host.on(&[2]).finding("irq-affinity");
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
        let host = FakeHost::new(&[irq, there, (path.as_str(), "msix")]).hardware("eth0");
        let host = host.on(&[1]);
        let finding = host.finding("device-irqs");
        assert_eq!(finding.level, Level::Note, "{below}: {finding:?}");
        assert!(finding.what.contains("CPU 0-1"), "{finding:?}");
        assert!(finding.mend.unwrap().contains(" /proc/irq/41/smp"));
        assert_eq!(host.on(&[3]).finding("device-irqs").level, Level::Ok);
    }
    let host = FakeHost::new(&[]).hardware("eth0").on(&[0]);
    assert_eq!(host.finding("device-irqs").level, Level::Unknown);
}
