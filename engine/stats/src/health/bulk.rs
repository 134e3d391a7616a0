//! The same judgement of bulk runs, where nobody waits for an answer.
//!
//! Without a pace the sender's CPU is as much a part of what is measured as the path is, so a busy
//! sender spoils nothing. With one it does, as soon as the schedule is not kept.

use super::generator::{flows, paced_behind, saturation, share};
use crate::result::{Flow, Params, StepResult, Warning};
use tare_units::path::PathMtu;

/// What the figures themselves show to be weak.
pub(super) fn warnings(step: &StepResult) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if let Some((way, _, made)) = paced_behind(step).filter(|_| saturation(step).is_none()) {
        let taken = made * 100.0;
        let message =
            format!("the path took {taken:.1} % of the sends that --rate asked for ({way})");
        let advice = "lower --rate to what it carries, or leave it out to see how much that is";
        warnings.push(Warning::new("rate-not-reached", message, advice));
    }
    for (way, flow) in flows(step).filter(|(_, flow)| flow.pacing.is_some()) {
        if let Some(datagrams) = flow.datagrams.filter(|datagrams| datagrams.lost > 0) {
            let (lost, sent) = (datagrams.lost, datagrams.sent);
            let percent = share(lost, sent) * 100.0;
            let message = format!("{lost} of {sent} datagrams never came ({percent:.2} %, {way})");
            let advice =
                "lower --rate, or give the receiver more --rcvbuf if it is disturbed for moments";
            warnings.push(Warning::new("datagrams-lost", message, advice));
        }
    }
    warnings.extend(flows(step).flat_map(|(way, flow)| buffers(step, way, flow)));
    let params = &step.params;
    let sent = flows(step).filter_map(|(way, flow)| Some((way, flow.datagrams?)));
    warnings.extend(sent.filter_map(|(way, datagrams)| {
        let lost = share(datagrams.lost, datagrams.sent);
        let path = (datagrams.path_mtu_bytes, datagrams.fragments);
        fragmented(params, path, lost, &format!(" ({way})"))
    }));
    let path = (params.path_mtu_bytes, params.fragments_per_datagram);
    warnings.extend(fragmented(params, path, 0.0, ""));
    warnings
}

/// What it means that datagrams leave in several fragments, by the path's MTU and their number, and
/// what to do. A datagram is lost with any one of its `n` fragments: where packets are lost
/// independently with probability *p*, with 1 − (1 − *p*)^*n*.
fn fragmented(
    params: &Params,
    (mtu_bytes, fragments): (Option<u32>, Option<u32>),
    lost: f64,
    way: &str,
) -> Option<Warning> {
    let (bytes, count) = mtu_bytes.zip(fragments.filter(|count| *count > 1))?;
    let is_ipv6 = params.address.as_deref().is_some_and(|address| address.starts_with('['));
    let whole = PathMtu { bytes, is_ipv6 }.whole();
    let of_datagrams = 1.0 - 0.999_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut message = format!(
        "each datagram of {} bytes leaves as {count} IP fragments (the path's MTU is {bytes}), and the loss of any one of \
         them loses it: a packet loss of 0.1 % becomes one of {:.2} %",
        params.size_bytes,
        of_datagrams * 100.0
    );
    if lost > 0.0 && lost < 1.0 {
        let of_packets = 1.0 - (1.0 - lost).powf(1.0 / f64::from(count));
        message.push_str(&format!(
            "; the {:.2} % lost here may be {:.3} % of the packets",
            lost * 100.0,
            of_packets * 100.0
        ));
    }
    Some(Warning::new("fragmented", message + way, format!("--size {whole} and less leave whole")))
}

/// Socket buffers that were asked for and not granted: the kernel caps them without a word, and
/// doubles what it grants.
fn buffers(step: &StepResult, way: &'static str, flow: &Flow) -> impl Iterator<Item = Warning> {
    let asked = step.params.bulk.as_ref();
    let asked = asked.map(|asked| [asked.send_buffer_bytes, asked.receive_buffer_bytes]);
    let of_tcp = flow.tcp.as_ref().map(|tcp| [tcp.send_buffer_bytes, tcp.receive_buffer_bytes]);
    let of_udp = flow.datagrams.map(|udp| [udp.send_buffer_bytes, udp.receive_buffer_bytes]);
    let granted = of_tcp.or(of_udp).unwrap_or_default();
    let ends = [("--sndbuf", "sender", "wmem_max"), ("--rcvbuf", "receiver", "rmem_max")];
    let buffers = ends.into_iter().zip(asked.unwrap_or_default().into_iter().zip(granted));
    buffers.filter_map(move |((option, end, sysctl), (asked, granted))| {
        let (asked, granted) = (asked?, granted? / 2);
        (granted < asked).then(|| {
            let message = format!(
                "{option} asked for {asked} bytes, and the {end}'s kernel granted {granted} ({way})"
            );
            let advice = format!("there: sysctl -w net.core.{sysctl}=BYTES, or ask for less");
            Warning::new("buffer-capped", message, advice)
        })
    })
}
