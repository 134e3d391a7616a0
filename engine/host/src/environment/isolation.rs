//! What stands between this process and the hardware: a hypervisor, a container, a sandbox.

use crate::files::Files;

/// How the vendor of a virtual machine's firmware begins, and the hypervisor that it stands for.
const VENDORS: [(&str, &str); 8] = [
    ("QEMU", "kvm (QEMU)"),
    ("Amazon EC2", "kvm (Amazon EC2)"),
    ("Google", "kvm (Google Compute Engine)"),
    ("Microsoft Corporation", "hyper-v"),
    ("VMware", "vmware"),
    ("innotek GmbH", "virtualbox"),
    ("Xen", "xen"),
    ("Parallels", "parallels"),
];

/// Clock sources that only guests of a hypervisor have.
const GUEST_CLOCKS: [(&str, &str); 3] =
    [("kvm-clock", "kvm"), ("hyperv_clocksource", "hyper-v"), ("xen", "xen")];

/// The hypervisor, where one can be told; `unknown` where only its presence shows.
pub(super) fn hypervisor(files: &Files) -> Option<String> {
    if let Some(kind) = files.word("/sys/hypervisor/type") {
        return Some(kind);
    }
    let cpuinfo = files.text("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let flagged = flags.map(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    // Clouds put their name into the firmware of bare metal too, so the CPU's word counts.
    if flagged == Some(false) {
        return None;
    }
    let vendor = files.word("/sys/class/dmi/id/sys_vendor");
    let by_vendor = vendor.and_then(|vendor| {
        let known = |(start, _): &&(&str, &str)| vendor.starts_with(start);
        VENDORS.iter().find(known).map(|(_, name)| *name)
    });
    // Without the CPU's flag (Arm), a vendor that also builds bare machines proves nothing.
    let by_vendor = by_vendor.filter(|name| flagged.is_some() || *name == VENDORS[0].1);
    let clocks = files
        .text("/sys/devices/system/clocksource/clocksource0/available_clocksource")
        .unwrap_or_default();
    let by_clock = || {
        let known =
            |(clock, _): &&(&str, &str)| clocks.split_ascii_whitespace().any(|word| word == *clock);
        GUEST_CLOCKS.iter().find(known).map(|(_, name)| *name)
    };
    let name = by_vendor.or_else(by_clock).or_else(|| (flagged == Some(true)).then_some("unknown"));
    name.map(str::to_owned)
}

/// The container or sandbox, where one can be told. A sandbox goes before what runs it, and an
/// orchestrator before its runtime.
pub(super) fn container(files: &Files, in_kubernetes: bool) -> Option<String> {
    let text = |path| files.text(path).unwrap_or_default();
    let version = text("/proc/version");
    let groups = text("/proc/self/cgroup");
    let root_layers = root_layers(files);
    let named = |word: &str| groups.contains(word) || root_layers.contains(word);
    let name = if is_gvisor(&version) {
        "gvisor"
    } else if in_kubernetes
        || groups.contains("kubepods")
        || files.exists("/var/run/secrets/kubernetes.io")
    {
        "kubernetes"
    } else if files.exists("/run/.containerenv") || named("libpod") {
        "podman"
    } else if files.exists("/.dockerenv") || named("/docker") {
        "docker"
    } else if named("containerd") {
        "containerd"
    } else if groups.contains("/lxc") {
        "lxc"
    } else {
        // systemd's container interface: `lxc`, `systemd-nspawn`, …
        return files.word("/run/systemd/container");
    };
    Some(name.to_owned())
}

/// gVisor's kernel: older ones name no release of their own, but have said for years that they were
/// built at the same second (`LinuxVersion` in its source).
fn is_gvisor(version: &str) -> bool {
    version.to_ascii_lowercase().contains("gvisor")
        || version.contains("#1 SMP Sun Jan 10 15:06:54 PST 2016")
}

/// The mount options of an overlay at `/`: its layers lie in the runtime's directory. Only there: a
/// host's table lists the layers of all its containers.
fn root_layers(files: &Files) -> String {
    let table = files.text("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .find(|(head, tail)| head.split(' ').nth(4) == Some("/") && tail.starts_with("overlay"))
        .map(|(_, tail)| tail.to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Fixture;

    fn told(files: &[(&str, &str)]) -> Option<String> {
        container(&Fixture::new(files).files(), false)
    }

    fn guest_of(files: &[(&str, &str)]) -> Option<String> {
        hypervisor(&Fixture::new(files).files())
    }

    #[test]
    fn containers_are_told_by_their_marks() {
        let cases: [(&[(&str, &str)], &str); 10] = [
            (&[("/.dockerenv", "")], "docker"),
            (&[("/proc/self/cgroup", "4:cpu:/docker/abc\n")], "docker"),
            (&[("/run/.containerenv", "")], "podman"),
            (&[("/proc/self/cgroup", "0::/kubepods.slice/x\n")], "kubernetes"),
            (&[("/proc/self/cgroup", "0::/lxc.payload.x\n")], "lxc"),
            (&[("/run/systemd/container", "systemd-nspawn\n")], "systemd-nspawn"),
            (
                &[("/proc/version", "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016")],
                "gvisor",
            ),
            (&[("/proc/version", "Linux version 4.19.0-gvisor #1"), ("/.dockerenv", "")], "gvisor"),
            (
                &[(
                    "/proc/self/mountinfo",
                    "1 0 0:5 / / rw - overlay overlay rw,lowerdir=/var/lib/containerd/io.containerd.s/1/fs\n",
                )],
                "containerd",
            ),
            (
                &[(
                    "/proc/self/mountinfo",
                    "1 0 0:5 / / rw - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A\n",
                )],
                "docker",
            ),
        ];
        for (files, name) in cases {
            assert_eq!(told(files).as_deref(), Some(name), "{files:?}");
        }
        let empty = Fixture::new(&[]);
        assert_eq!(container(&empty.files(), true).as_deref(), Some("kubernetes"));
    }

    #[test]
    fn a_host_with_containers_is_none() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
            9 1 0:5 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,lowerdir=/var/lib/docker/l/A\n";
        let host = [
            ("/proc/version", "Linux version 6.8.0 (gcc) #1 SMP"),
            ("/proc/self/cgroup", "0::/user.slice/user-0.slice/session-1.scope\n"),
            ("/proc/self/mountinfo", mounts),
        ];
        assert_eq!(told(&host), None);
    }

    #[test]
    fn hypervisors_are_told_by_firmware_clock_or_flag() {
        let guest = ("/proc/cpuinfo", "flags\t\t: fpu hypervisor sse\n");
        let vendor = |name| ("/sys/class/dmi/id/sys_vendor", name);
        let clocks = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
        assert_eq!(guest_of(&[("/sys/hypervisor/type", "xen\n")]).unwrap(), "xen");
        assert_eq!(guest_of(&[guest, vendor("QEMU")]).unwrap(), "kvm (QEMU)");
        assert_eq!(guest_of(&[guest, vendor("VMware, Inc.")]).unwrap(), "vmware");
        assert_eq!(guest_of(&[guest, (clocks, "tsc kvm-clock")]).unwrap(), "kvm");
        assert_eq!(guest_of(&[guest]).unwrap(), "unknown");
    }

    #[test]
    fn bare_metal_has_none_whatever_the_firmware_is_called() {
        let bare = ("/proc/cpuinfo", "flags\t\t: fpu sse\n");
        let cloud = ("/sys/class/dmi/id/sys_vendor", "Amazon EC2\n");
        assert_eq!(guest_of(&[bare, cloud]), None);
        let arm = ("/proc/cpuinfo", "Features\t: fp asimd\n");
        assert_eq!(guest_of(&[arm, cloud]), None);
        assert_eq!(guest_of(&[]), None);
    }
}
