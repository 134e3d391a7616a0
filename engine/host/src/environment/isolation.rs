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
    let vendor = files.word("/sys/class/dmi/id/sys_vendor").unwrap_or_default();
    // Without the CPU's flag (Arm), a vendor that also builds bare machines proves nothing.
    let by_vendor = VENDORS.iter().find(|(start, name)| {
        vendor.starts_with(start) && (flagged.is_some() || *name == VENDORS[0].1)
    });
    let clocks = files.text("/sys/devices/system/clocksource/clocksource0/available_clocksource");
    let clocks = clocks.unwrap_or_default();
    let by_clock = GUEST_CLOCKS.iter().find(|(clock, _)| clocks.split(' ').any(|c| c == *clock));
    let unknown = (flagged == Some(true)).then_some("unknown");
    by_vendor.or(by_clock).map(|(_, name)| *name).or(unknown).map(str::to_owned)
}

/// The container or sandbox, where one can be told. A sandbox goes before what runs it, and an
/// orchestrator before its runtime.
pub(super) fn container(files: &Files, in_kubernetes: bool) -> Option<String> {
    let text = |path| files.text(path).unwrap_or_default();
    let version = text("/proc/version");
    let groups = text("/proc/self/cgroup");
    let root_layers = root_layers(files);
    let named = |word: &str| groups.contains(word) || root_layers.contains(word);
    // gVisor's kernel: older ones name no release of their own, but have said for years that they
    // were built at the same second (`LinuxVersion` in its source).
    let is_gvisor = version.to_ascii_lowercase().contains("gvisor")
        || version.contains("#1 SMP Sun Jan 10 15:06:54 PST 2016");
    let has_secrets = files.exists("/var/run/secrets/kubernetes.io");
    let marks = [
        ("gvisor", is_gvisor),
        ("kubernetes", in_kubernetes || groups.contains("kubepods") || has_secrets),
        ("podman", files.exists("/run/.containerenv") || named("libpod")),
        ("docker", files.exists("/.dockerenv") || named("/docker")),
        ("containerd", named("containerd")),
        ("lxc", groups.contains("/lxc")),
    ];
    let name = marks.into_iter().find(|(_, is_marked)| *is_marked);
    // systemd's container interface: `lxc`, `systemd-nspawn`, …
    name.map(|(name, _)| name.to_owned()).or_else(|| files.word("/run/systemd/container"))
}

/// The mount options of an overlay at `/`: its layers lie in the runtime's directory. Only there: a
/// host's table lists the layers of all its containers.
fn root_layers(files: &Files) -> String {
    let overlays = files.lines("/proc/self/mountinfo", |line| {
        let (head, tail) = line.split_once(" - ")?;
        let is_root = head.split(' ').nth(4) == Some("/") && tail.starts_with("overlay");
        is_root.then(|| tail.to_owned())
    });
    overlays.into_iter().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Fixture;

    #[test]
    fn containers_are_recognised_by_their_marks() {
        let groups = |text| ("/proc/self/cgroup", text);
        let version = |text| ("/proc/version", text);
        let old_gvisor = "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016";
        let root = |options| format!("1 0 0:5 / / rw - overlay overlay rw,lowerdir={options}\n");
        let containerd = root("/var/lib/containerd/io.containerd.s/1/fs");
        let docker = root("/var/lib/docker/overlay2/l/A");
        for (files, name) in [
            (&[("/.dockerenv", "")][..], "docker"),
            (&[groups("4:cpu:/docker/abc\n")], "docker"),
            (&[("/run/.containerenv", "")], "podman"),
            (&[groups("0::/kubepods.slice/x\n")], "kubernetes"),
            (&[groups("0::/lxc.payload.x\n")], "lxc"),
            (&[("/run/systemd/container", "systemd-nspawn\n")], "systemd-nspawn"),
            (&[version(old_gvisor)], "gvisor"),
            (&[version("Linux version 4.19.0-gvisor #1"), ("/.dockerenv", "")], "gvisor"),
            (&[("/proc/self/mountinfo", containerd.as_str())], "containerd"),
            (&[("/proc/self/mountinfo", docker.as_str())], "docker"),
        ] {
            let found = container(&Fixture::new(files).files(), false);
            assert_eq!(found.as_deref(), Some(name), "{files:?}");
        }
        let empty = Fixture::new(&[]);
        assert_eq!(container(&empty.files(), true).as_deref(), Some("kubernetes"));
    }

    #[test]
    fn a_host_with_containers_is_none() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
            9 1 0:5 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,lowerdir=/var/lib/docker/l/A\n";
        let host = Fixture::new(&[
            ("/proc/version", "Linux version 6.8.0 (gcc) #1 SMP"),
            ("/proc/self/cgroup", "0::/user.slice/user-0.slice/session-1.scope\n"),
            ("/proc/self/mountinfo", mounts),
        ]);
        assert_eq!(container(&host.files(), false), None);
    }

    #[test]
    fn hypervisors_are_recognised_by_firmware_clock_or_flag() {
        let guest = ("/proc/cpuinfo", "flags\t\t: fpu hypervisor sse\n");
        let bare = ("/proc/cpuinfo", "flags\t\t: fpu sse\n");
        let arm = ("/proc/cpuinfo", "Features\t: fp asimd\n");
        let vendor = |name| ("/sys/class/dmi/id/sys_vendor", name);
        let clocks = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
        for (files, name) in [
            (&[("/sys/hypervisor/type", "xen\n")][..], Some("xen")),
            (&[guest, vendor("QEMU")], Some("kvm (QEMU)")),
            (&[guest, vendor("VMware, Inc.")], Some("vmware")),
            (&[guest, (clocks, "tsc kvm-clock")], Some("kvm")),
            (&[guest], Some("unknown")),
            // Bare metal has none, whatever the firmware is called.
            (&[bare, vendor("Amazon EC2\n")], None),
            (&[arm, vendor("Amazon EC2\n")], None),
            (&[], None),
        ] {
            let found = hypervisor(&Fixture::new(files).files());
            assert_eq!(found.as_deref(), name, "{files:?}");
        }
    }
}
