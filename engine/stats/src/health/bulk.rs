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

#[cfg(test)]
mod tests {
    use crate::health;
    use crate::result::{Bandwidth, BulkParams, Datagrams, Flow, Pacing, StepResult};

    /// A paced step up, of a thousand sends less those unsent, at a sender that is busy so much.
    fn paced(unsent: u64, busy: f64, lost: u64) -> StepResult {
        let mut step = StepResult::default();
        step.params.connections = 4;
        step.params.bulk = Some(BulkParams::default());
        step.operations.completed = 1_000;
        step.instrument.client.worker_busy_max = busy;
        step.bandwidth = Some(Bandwidth {
            up: Some(Flow {
                sends: 1_000 - unsent,
                pacing: Some(Pacing { unsent, ..Pacing::default() }),
                datagrams: Some(Datagrams { sent: 1_000 - unsent, lost, ..Datagrams::default() }),
                ..Flow::default()
            }),
            ..Bandwidth::default()
        });
        step
    }

    fn codes(step: &StepResult) -> Vec<String> {
        let warnings = health::warnings(step).into_iter();
        warnings.map(|warning| warning.code).collect()
    }

    #[test]
    fn a_pace_that_is_not_kept_is_the_senders_fault_or_the_paths() {
        assert_eq!(codes(&paced(10, 0.95, 0)), [""; 0]);
        assert_eq!(codes(&paced(11, 0.95, 0)), ["generator-saturated"]);
        assert_eq!(codes(&paced(11, 0.5, 0)), ["rate-not-reached"]);
        assert_eq!(codes(&paced(0, 0.5, 1)), ["datagrams-lost"]);
        let mut untold = paced(0, 0.5, 0);
        if let Some(up) = untold.bandwidth.as_mut().and_then(|b| b.up.as_mut()) {
            up.sends = 0;
        }
        assert_eq!(codes(&untold), [""; 0], "nothing is known of the sender");
        let message = health::warnings(&paced(500, 0.99, 0)).swap_remove(0).message;
        assert!(message.contains("500 of the sends that were due (50.0 %)"), "{message}");
    }

    #[test]
    fn a_sender_as_fast_as_it_goes_is_busy_and_that_is_right() {
        let mut step = paced(0, 1.0, 5);
        if let Some(up) = step.bandwidth.as_mut().and_then(|b| b.up.as_mut()) {
            up.pacing = None;
        }
        assert_eq!(codes(&step), [""; 0]);
        health::judge(&mut step);
        assert!(!step.instrument.client.saturated);
    }

    fn messages(step: &StepResult) -> Vec<String> {
        let warnings = health::warnings(step).into_iter();
        warnings.map(|w| format!("{}: {}; {}", w.code, w.message, w.advice)).collect()
    }

    #[test]
    fn fragments_are_told_with_what_they_do_to_loss() {
        let mut step = paced(0, 0.5, 50);
        step.params.size_bytes = 20_480;
        let datagrams = |step: &mut StepResult, fragments| {
            let up = step.bandwidth.as_mut().unwrap().up.as_mut().unwrap();
            let datagrams = up.datagrams.as_mut().unwrap();
            (datagrams.path_mtu_bytes, datagrams.fragments) = (Some(1500), Some(fragments));
        };
        datagrams(&mut step, 1);
        assert_eq!(codes(&step), ["datagrams-lost"]);
        datagrams(&mut step, 14);
        let text = messages(&step).swap_remove(1);
        // 1 − 0.999^14, and 1 − 0.95^(1/14).
        for words in [
            "fragmented: ",
            "as 14 IP fragments",
            "1500",
            "becomes one of 1.39 %",
            "the 5.00 % lost here may be 0.366 %",
            "(up)",
            "--size 1472 and less",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        step.params.address = Some("[fd00::1]:7117".to_owned());
        assert!(messages(&step)[1].contains("--size 1452 and less"));
    }

    #[test]
    fn fragments_of_a_latency_run_are_told_too() {
        let mut step = paced(0, 0.5, 0);
        (step.params.bulk, step.bandwidth) = (None, None);
        step.params.size_bytes = 4_000;
        (step.params.path_mtu_bytes, step.params.fragments_per_datagram) = (Some(1500), Some(3));
        let told = messages(&step);
        let fragmented = told.iter().find(|text| text.starts_with("fragmented: "));
        assert!(fragmented.is_some_and(|text| text.contains("3 IP fragments")), "{told:?}");
        step.params.fragments_per_datagram = Some(1);
        assert!(!codes(&step).contains(&"fragmented".to_owned()));
    }

    #[test]
    fn a_buffer_that_was_not_granted_is_told() {
        let mut step = paced(0, 0.5, 0);
        let bulk = step.params.bulk.as_mut().unwrap();
        (bulk.send_buffer_bytes, bulk.receive_buffer_bytes) = (Some(100_000), Some(4_000_000));
        let up = step.bandwidth.as_mut().unwrap().up.as_mut().unwrap();
        let datagrams = up.datagrams.as_mut().unwrap();
        // The kernel doubles what it grants.
        (datagrams.send_buffer_bytes, datagrams.receive_buffer_bytes) =
            (Some(200_000), Some(425_984));
        let told = messages(&step);
        assert_eq!(told.len(), 1, "{told:?}");
        for words in ["buffer-capped: --rcvbuf", "4000000", "granted 212992", "net.core.rmem_max"] {
            assert!(told[0].contains(words), "{words}: {}", told[0]);
        }
    }

    #[test]
    fn a_loads_figures_are_not_the_steps() {
        let mut step = paced(500, 1.0, 5);
        step.params.bulk = None;
        step.params.under_load = Some(String::new());
        step.params.connections = 1;
        assert_eq!(codes(&step), ["few-samples"]);
    }
}
