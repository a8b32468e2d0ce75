//! Metrics of the process and of what it keeps and tells, beside those of requests.
//!
//! What `/proc` does not tell is left out, never made up.

use crate::telemetry::counts::{Counter, LegCounters};
use crate::telemetry::metrics::{COUNTER, GAUGE, Gauges, Label, Legs, Number, Text, of_leg};
use crate::telemetry::registry::Registry;

/// Of bodies; nothing of a leg where there was none.
pub(super) fn bytes(text: &mut Text, legs: &Legs) {
    let mut family = |name: &str, help: &str, of: fn(&LegCounters) -> &Counter| {
        text.family(name, COUNTER, help);
        for leg in legs {
            let sum = leg.workers().map(|worker| of(worker).get()).sum();
            text.sample_if_any(name, &of_leg(leg, &[]), sum);
        }
    };
    let help = "Bytes of the bodies of requests, counted when they end.";
    family("serin_request_body_bytes_total", help, |worker| &worker.received_bytes);
    let help = "Bytes of the bodies of responses, counted when they end.";
    family("serin_response_body_bytes_total", help, |worker| &worker.sent_bytes);
}

/// Of listeners.
pub(super) fn connections(text: &mut Text, registry: &Registry) {
    let doors = registry.doors();
    let name = "serin_connections_accepted_total";
    text.family(name, COUNTER, "Connections that clients have opened, by listener.");
    for door in &doors {
        text.sample(name, &[("listener", &door.name)], door.connections().0);
    }
    let name = "serin_connections_open";
    text.family(name, GAUGE, "Connections of clients that are open now, by listener.");
    for door in &doors {
        text.sample(name, &[("listener", &door.name)], door.connections().1);
    }
}

/// What became of what is told of single requests.
pub(super) fn told(text: &mut Text, registry: &Registry) {
    let outlets = registry.outlets();
    let mut family = |name: &str, help: &str, results: [(&'static str, u64); 3]| {
        text.family(name, COUNTER, help);
        for (result, count) in results {
            text.sample(name, &[("result", &result)], count);
        }
    };
    let lines = [
        ("written", outlets.lines_written.get()),
        ("failed", outlets.lines_failed.get()),
        ("dropped", outlets.lines_dropped()),
    ];
    let help = "Lines of the access log, by what became of them.";
    family("serin_access_log_lines_total", help, lines);
    let spans = [
        ("sent", outlets.spans_sent.get()),
        ("failed", outlets.spans_failed.get()),
        ("dropped", outlets.spans_dropped()),
    ];
    let help = "Spans for the collector of traces, by what became of them.";
    family("serin_trace_spans_total", help, spans);
    if let Some(dropped) = outlets.log_lines_dropped() {
        let name = "serin_log_lines_dropped_total";
        text.family(name, COUNTER, "Lines of the log on stderr that found no room in its queue.");
        text.sample(name, &[], dropped);
    }
}

/// What is kept, and who is told.
pub(super) fn keeping(text: &mut Text, gauges: &Gauges) {
    let mut family = |name: &str, help: &str, results: &[(&'static str, u64)]| {
        text.family(name, COUNTER, help);
        for (result, count) in results {
            text.sample(name, &[("result", result)], count);
        }
    };
    let help = "Reloads of the config file, or of TLS files, since the start, by result.";
    family("serin_config_reloads_total", help, &gauges.reloads);
    let help = "Lines for the journal of rollouts, by what became of them.";
    family("serin_journal_lines_total", help, &gauges.journal);
    let help = "Messages to webhooks, by what became of them.";
    family("serin_webhooks_total", help, &gauges.webhooks);
    let help = "Events for Kubernetes, by what became of them.";
    family("serin_kubernetes_events_total", help, &gauges.events);
    let name = "serin_ledger_write_failures_total";
    text.family(name, COUNTER, "Tries to put the ledger on disk that failed.");
    text.sample(name, &[], gauges.ledger_failures);
    let name = "serin_config_loaded_timestamp_seconds";
    text.family(name, GAUGE, "When the config in force was loaded, since the Unix epoch.");
    text.sample(name, &[], gauges.reloaded_at);
}

/// What the kernel says of this process, under the names of every Prometheus client.
pub(super) fn process(text: &mut Text) {
    let file = |name: &str| std::fs::read_to_string(format!("/proc/{name}")).unwrap_or_default();
    let found = Found::read(&file("self/stat"), &file("self/status"), &file("self/limits"));
    let fds = std::fs::read_dir("/proc/self/fd").map(|fds| fds.count() as f64);
    let boot = field(&file("stat"), "btime").unwrap_or(0.0);
    let start = found.start.filter(|_| boot > 0.0).map(|start| boot + start);
    for (name, kind, help, value) in [
        ("process_cpu_seconds_total", COUNTER, "CPU time, user and system.", found.cpu),
        ("process_resident_memory_bytes", GAUGE, "Resident memory.", found.resident),
        ("process_virtual_memory_bytes", GAUGE, "Virtual memory.", found.virtual_size),
        ("process_open_fds", GAUGE, "Open files, sockets included.", fds.ok()),
        ("process_max_fds", GAUGE, "Files that may be open.", found.fds_max),
        ("process_threads", GAUGE, "Threads.", found.threads),
        ("process_start_time_seconds", GAUGE, "Start, since the Unix epoch.", start),
    ] {
        if let Some(value) = value {
            text.family(name, kind, help);
            text.sample(name, &[] as &[Label<'_>], Number(value));
        }
    }
}

/// What files under `/proc/self` say.
#[derive(Debug, Default, PartialEq)]
struct Found {
    cpu: Option<f64>,
    /// Since the boot, in seconds.
    start: Option<f64>,
    resident: Option<f64>,
    virtual_size: Option<f64>,
    threads: Option<f64>,
    fds_max: Option<f64>,
}

/// Of the times in `stat`, on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

impl Found {
    fn read(stat: &str, status: &str, limits: &str) -> Self {
        // The name in parentheses may hold anything; behind it the third field comes first.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        let ticks =
            |number: usize| Some(fields.get(number - 3)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
        let kib = |name| field(status, name).map(|kib| kib * 1024.0);
        let open = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        Self {
            cpu: ticks(14).zip(ticks(15)).map(|(user, system)| user + system),
            start: ticks(22),
            resident: kib("VmRSS:"),
            virtual_size: kib("VmSize:"),
            threads: field(status, "Threads:"),
            fds_max: open.and_then(|rest| rest.split_whitespace().next()?.parse().ok()),
        }
    }
}

/// The number behind `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read_whatever_the_program_is_called() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 5 0 1234 9 9";
        let status = "Name:\ta\nVmSize:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t5\n";
        let limits = "Limit  Soft  Hard\nMax open files            1024   4096   files\n";
        let found = Found::read(stat, status, limits);
        assert_eq!(found.cpu, Some(3.0));
        assert_eq!(found.start, Some(12.34));
        assert_eq!(found.resident, Some(1_048_576.0));
        assert_eq!((found.threads, found.fds_max), (Some(5.0), Some(1024.0)));
        assert_eq!(Found::read("", "", ""), Found::default());
    }
}
