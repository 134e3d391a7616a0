//! The engine's ping-pong as a contestant: `tare lat` and `tare serve` through the library, on two
//! CPUs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tare_driver::Backend;
use tare_driver::BackendChoice;
use tare_engine::latency::plan::LatPlan;
use tare_engine::measurement::Measurement;
use tare_engine::run::observe::Unobserved;
use tare_engine::run::plan::{Common, Stop};
use tare_engine::server::Server;
use tare_engine::server::plan::ServePlan;
use tare_proto::hello::{Transport, WaitMode};
use tare_stats::result::Instrument;
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::target::Target;

use crate::bare::Config;

/// The median round-trip time in nanoseconds, to the bins of the report's histogram (0.1 %), and
/// what the client says of itself; `None` where there were too few round trips for a median.
///
/// # Panics
/// When the engine does not work here.
pub(crate) fn median_ns(
    backend: Backend,
    wait: WaitMode,
    config: &Config,
) -> Option<(f64, Instrument)> {
    let cpu = |number: usize| u32::try_from(number).expect("CPU numbers are small");
    let serve = ServePlan {
        listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        listen_is_default: false,
        once: false,
        max_sessions: 8,
        max_duration: Nanos::MAX,
        idle_timeout: Nanos::MAX,
        allow_spin: true,
        cpus: Some(vec![cpu(config.cpus.server)]),
        backend: BackendChoice::Only(backend),
        secret: None,
        http: None,
    };
    let server =
        Server::start(&serve, &[], None, Arc::new(|_: &str, line: &str| eprintln!("{line}")))
            .expect("loopback has free ports");
    let plan = LatPlan {
        target: Target::Host {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: server.addresses()[0].port(),
        },
        transport: Transport::Tcp,
        sizes: vec![u32::try_from(config.size_bytes).expect("bounded by the flag")],
        connections: vec![1],
        connect_each: false,
        rate_per_s: None,
        server_delay: Nanos::ZERO,
        under_load: None,
        bind: None,
        common: Common {
            stop: Stop::After(config.measure.into()),
            warmup: config.warmup.into(),
            timeout: Nanos::from_secs(2),
            threads: None,
            cpus: Some(vec![cpu(config.cpus.client)]),
            wait: Some(wait),
            backend: BackendChoice::Only(backend),
            percentiles: Vec::new(),
            seed: 0,
            interval: Nanos::from_secs(1),
            label: None,
            secret: None,
            no_idle: false,
            command_line: None,
            observe: Vec::new(),
        },
    };
    let finished = Measurement::Lat(plan)
        .measure(&Interrupt::default(), &mut Unobserved)
        .expect("the engine runs here");
    assert!(finished.error.is_none(), "{:?}", finished.error);
    let result = &finished.report.results[0];
    let asked = wait.name();
    let server_wait = result.instrument.server.as_ref().map(|i| i.wait.as_str());
    assert_eq!(server_wait, Some(asked), "the server waits as asked");
    let p50_ns = result.latency.service.p50_ns?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
    let p50_ns = p50_ns as f64;
    Some((p50_ns, result.instrument.client.clone()))
}
