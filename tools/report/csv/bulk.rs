//! The columns of a bulk run.

use tare_engine::result::{BulkParams, CpuUse, Flow, StepResult, Summary};

use super::{Row, errors, instrument};
use crate::report::bulk;

pub(super) fn columns(row: &mut Row, step: &StepResult) {
    parameters(row, step);
    totals(row, step);
    let bandwidth = bulk::of(step);
    flow(row, "up", bandwidth.and_then(|b| b.up.as_ref()));
    flow(row, "down", bandwidth.and_then(|b| b.down.as_ref()));
    cpu(row, "client", Some(&step.cpu.client));
    cpu(row, "server", step.cpu.server.as_ref());
    errors(row, step);
    instrument(row, "client", Some(&step.instrument.client));
    instrument(row, "server", step.instrument.server.as_ref());
    row.put("instances", step.instances.join(" "));
}

fn parameters(row: &mut Row, step: &StepResult) {
    let params = &step.params;
    row.put("proto", &params.proto);
    row.put("target", &params.target);
    row.put_known("address", params.address.as_ref());
    row.put("size_bytes", params.size_bytes);
    row.put("streams", params.connections);
    let none = BulkParams::default();
    let asked = params.bulk.as_ref().unwrap_or(&none);
    row.put("direction", &asked.direction);
    row.put_known("rate_target_bits_per_s", asked.rate_bits_per_s);
    row.put_known("target_bytes", asked.bytes);
    row.put("zero_copy", &asked.zero_copy);
    row.put("sink", &asked.sink);
    row.put_known("congestion_asked", asked.congestion.as_ref());
    row.put_known("mss_asked_bytes", asked.mss_bytes);
    row.put("nodelay", asked.nodelay);
    row.put_known("dscp", asked.dscp);
    row.put_known("send_buffer_asked_bytes", asked.send_buffer_bytes);
    row.put_known("receive_buffer_asked_bytes", asked.receive_buffer_bytes);
    row.put_known("bind", asked.bind.as_ref());
    row.put("duration_ns", step.duration_ns);
}

fn totals(row: &mut Row, step: &StepResult) {
    let b = bulk::of(step);
    row.put_known("bits_per_s", b.and_then(|b| b.bits_per_s));
    let interval = b.and_then(|b| b.interval_bits_per_s);
    row.put_known("low_bits_per_s", interval.map(|i| i.0));
    row.put_known("high_bits_per_s", interval.map(|i| i.1));
    row.put_known("sent_bytes", b.map(|b| b.sent_bytes));
    row.put_known("received_bytes", b.map(|b| b.received_bytes));
    row.put_known("lost_datagrams", b.and_then(|b| b.lost_datagrams));
    row.put_known("reordered_datagrams", b.and_then(|b| b.reordered_datagrams));
    row.put_known(
        "duplicated_datagrams",
        b.and_then(|b| b.duplicated_datagrams),
    );
    row.put_known("jitter_ns", b.and_then(|b| b.jitter_ns));
    row.put_known("retransmits", b.and_then(|b| b.retransmits));
    row.put_known("cpu_s_per_gib", b.and_then(|b| b.cpu_s_per_gib));
    let link = b.and_then(|b| b.link.as_ref());
    row.put_known("link_device", link.map(|l| &l.device));
    row.put_known(
        "link_ceiling_bits_per_s",
        link.map(|l| l.ceiling_bits_per_s),
    );
    row.put_known("link_share", link.map(|l| l.share));
    row.put_known("link_bound", link.map(|l| l.bound));
}

fn flow(row: &mut Row, way: &str, flow: Option<&Flow>) {
    let mut put = |name: &str, value: Option<String>| row.put_known(format!("{way}_{name}"), value);
    let number = |value: fn(&Flow) -> u64| flow.map(|f| value(f).to_string());
    let rate = |value: f64| value.to_string();
    put("bits_per_s", flow.and_then(|f| f.bits_per_s).map(rate));
    let interval = flow.and_then(|f| f.interval_bits_per_s);
    put("low_bits_per_s", interval.map(|i| rate(i.0)));
    put("high_bits_per_s", interval.map(|i| rate(i.1)));
    put("sent_bits_per_s", flow.map(|f| rate(f.sent_bits_per_s)));
    put("sent_bytes", number(|f| f.sent_bytes));
    put("received_bytes", number(|f| f.received_bytes));
    put("sends", number(|f| f.sends));
    let spread = flow.and_then(|f| bulk::spread(&f.streams_bits_per_s));
    for (index, name) in ["min", "median", "max"].into_iter().enumerate() {
        let value = spread.map(|spread| rate(spread[index]));
        put(&format!("stream_{name}_bits_per_s"), value);
    }
    let tcp = flow.and_then(|f| f.tcp.as_ref());
    let known = |value: Option<u64>| value.map(|v| v.to_string());
    put("retransmits", known(tcp.map(|t| t.retransmits)));
    put("segments", known(tcp.and_then(|t| t.segments)));
    put("cwnd_bytes", known(tcp.map(|t| t.cwnd_bytes)));
    put("rtt_ns", known(tcp.map(|t| t.rtt_ns)));
    put("min_rtt_ns", known(tcp.and_then(|t| t.min_rtt_ns)));
    put("mss_bytes", tcp.map(|t| t.mss_bytes.to_string()));
    put("busy_ns", known(tcp.and_then(|t| t.busy_ns)));
    put(
        "rwnd_limited_ns",
        known(tcp.and_then(|t| t.rwnd_limited_ns)),
    );
    put(
        "sndbuf_limited_ns",
        known(tcp.and_then(|t| t.sndbuf_limited_ns)),
    );
    put("congestion", tcp.and_then(|t| t.congestion.clone()));
    let datagrams = flow.and_then(|f| f.datagrams.as_ref());
    put("datagrams_sent", known(datagrams.map(|d| d.sent)));
    put("datagrams_received", known(datagrams.map(|d| d.received)));
    put("datagrams_lost", known(datagrams.map(|d| d.lost)));
    put("datagrams_reordered", known(datagrams.map(|d| d.reordered)));
    put(
        "datagrams_duplicated",
        known(datagrams.map(|d| d.duplicated)),
    );
    put(
        "datagrams_per_send",
        datagrams.map(|d| d.per_send.to_string()),
    );
    put("jitter_ns", known(datagrams.and_then(|d| d.jitter_ns)));
    let pacing = flow.and_then(|f| f.pacing.as_ref());
    let quantiles = |s: &Summary| [s.p50_ns, s.p99_ns, s.max_ns];
    put("gap_ns", known(pacing.map(|p| p.gap_ns)));
    let off = pacing.map(|p| quantiles(&p.gap_deviation));
    let late = pacing.map(|p| quantiles(&p.lateness));
    for (index, name) in ["p50", "p99", "max"].into_iter().enumerate() {
        put(
            &format!("gap_deviation_{name}_ns"),
            known(off.and_then(|q| q[index])),
        );
        put(
            &format!("lateness_{name}_ns"),
            known(late.and_then(|q| q[index])),
        );
    }
    put("unsent", known(pacing.map(|p| p.unsent)));
    let zero_copy = flow.and_then(|f| f.zero_copy.as_ref());
    put("zero_copy_sends", known(zero_copy.map(|z| z.sends)));
    put(
        "zero_copy_copied_share",
        zero_copy.map(|z| rate(z.copied_share)),
    );
}

fn cpu(row: &mut Row, end: &str, used: Option<&CpuUse>) {
    row.put_known(format!("{end}_user_ns"), used.map(|u| u.user_ns));
    row.put_known(format!("{end}_system_ns"), used.map(|u| u.system_ns));
    row.put_known(
        format!("{end}_machine_busy"),
        used.and_then(|u| u.machine_busy),
    );
    row.put_known(format!("{end}_per_mib_ns"), used.and_then(|u| u.per_mib_ns));
}
