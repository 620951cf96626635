//! What `bench gateway` measured: samples of every round, their medians, the table and the JSON line.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Write as _, stdout};
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

/// A tool of the echo fixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tool {
    /// A read.
    Echo,
    /// A write.
    Put,
}

impl Tool {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Put => "put",
        }
    }
}

/// Which way a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Direct,
    Through,
}

impl Way {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Through => "through",
        }
    }
}

/// A load that is measured directly and through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    pub(super) tool: Tool,
    pub(super) connections: u32,
}

impl Case {
    const fn new(tool: Tool, connections: u32) -> Self {
        Self { tool, connections }
    }

    pub(super) fn label(self) -> String {
        format!("{} at {}", self.tool.name(), self.connections)
    }
}

const ONE: Case = Case::new(Tool::Echo, 1);
const SIXTEEN: Case = Case::new(Tool::Echo, 16);
const SIXTY_FOUR: Case = Case::new(Tool::Echo, 64);
/// All loads, in the order of the table.
pub(super) const CASES: [Case; 4] = [ONE, SIXTEEN, SIXTY_FOUR, Case::new(Tool::Put, 16)];

/// The goals of the headline numbers, on two processors that client, broker and server share.
const CPU_US_PER_CALL_C16_MAX: f64 = 110.0;
const CALLS_PER_S_C64_MIN: f64 = 10_000.0;
const ADDED_P50_US_C1_MAX: f64 = 150.0;

/// Above this share of the machine, other work makes the numbers doubtful.
const OTHERS_SHARE_MAX: f64 = 0.05;

/// One measured window. CPU in µs per call; `others` is whatever else the machine did, the kernel's own threads included, in processors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    sent: u64,
    calls_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    client_us: f64,
    broker_us: f64,
    server_us: f64,
    others: f64,
}

impl Sample {
    /// Reads the load generator's line. A wrong answer is an error: what it took tells nothing.
    pub(super) fn parse(line: &Value) -> Result<Self> {
        let number =
            |pointer: &str| line.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("the load generator gave no `{pointer}`: {line}"));
        let errors = number("/errors")?;
        ensure!(errors == 0.0, "{errors} wrong answers, the first: {}", line.pointer("/first_error").unwrap_or(&Value::Null));
        let calls = number("/calls")?;
        ensure!(calls > 0.0, "no call was answered in time");
        let (client, server) = (number("/cpu_seconds/client")?, number("/cpu_seconds/server")?);
        let broker = number("/cpu_seconds/broker").unwrap_or_default();
        let others = number("/cpu_seconds/machine")? - client - server - broker;
        let per_call = |seconds: f64| seconds * 1e6 / calls;
        Ok(Self {
            sent: line.get("sent").and_then(Value::as_u64).unwrap_or_default(),
            calls_per_s: number("/calls_per_s")?,
            p50_us: number("/p50_us")?,
            p99_us: number("/p99_us")?,
            client_us: per_call(client),
            broker_us: per_call(broker),
            server_us: per_call(server),
            others: others.max(0.0) / number("/seconds")?,
        })
    }

    fn median_of(samples: &[Self]) -> Option<Self> {
        let of = |value: fn(&Self) -> f64| median(samples.iter().map(value).collect());
        Some(Self {
            sent: samples.iter().map(|sample| sample.sent).sum(),
            calls_per_s: of(|sample| sample.calls_per_s)?,
            p50_us: of(|sample| sample.p50_us)?,
            p99_us: of(|sample| sample.p99_us)?,
            client_us: of(|sample| sample.client_us)?,
            broker_us: of(|sample| sample.broker_us)?,
            server_us: of(|sample| sample.server_us)?,
            others: of(|sample| sample.others)?,
        })
    }
}

/// The middle value; `None` of nothing.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get(values.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// Everything that a run measured.
#[derive(Debug)]
pub(super) struct Report {
    rounds: u32,
    samples: BTreeMap<(Case, Way), Vec<Sample>>,
    /// One durable append, in µs: the median of each round.
    pub(super) appends: Vec<f64>,
}

/// The numbers that the goals are about.
struct Headline {
    cpu_us_per_call_c16: f64,
    calls_per_s_c64: f64,
    added_p50_us_c1: f64,
    append_p50_us: f64,
}

impl Report {
    pub(super) const fn new(rounds: u32) -> Self {
        Self { rounds, samples: BTreeMap::new(), appends: Vec::new() }
    }

    pub(super) fn add(&mut self, case: &Case, way: Way, sample: Sample) {
        self.samples.entry((*case, way)).or_default().push(sample);
    }

    /// Calls that were made of a tool, whether measured or not.
    pub(super) fn sent(&self, tool: Tool) -> u64 {
        let of_tool = self.samples.iter().filter(|((case, _), _)| case.tool == tool);
        of_tool.flat_map(|(_, samples)| samples).map(|sample| sample.sent).sum()
    }

    fn median(&self, case: Case, way: Way) -> Option<Sample> {
        Sample::median_of(self.samples.get(&(case, way))?)
    }

    /// `None` if only direct calls were measured.
    fn headline(&self) -> Option<Headline> {
        let append_p50_us = median(self.appends.clone())?;
        let added = self.median(ONE, Way::Through)?.p50_us - self.median(ONE, Way::Direct)?.p50_us;
        Some(Headline {
            cpu_us_per_call_c16: self.median(SIXTEEN, Way::Through)?.broker_us,
            calls_per_s_c64: self.median(SIXTY_FOUR, Way::Through)?.calls_per_s,
            added_p50_us_c1: added - append_p50_us,
            append_p50_us,
        })
    }

    pub(super) fn print(&self, json: bool) -> Result<()> {
        let mut out = stdout().lock();
        write!(out, "{}", self.table())?;
        if json {
            writeln!(out, "{}", self.to_json())?;
        }
        Ok(())
    }

    fn rows(&self) -> impl Iterator<Item = (Case, Way, Sample)> {
        let all = CASES.into_iter().flat_map(|case| [(case, Way::Direct), (case, Way::Through)]);
        all.filter_map(|(case, way)| Some((case, way, self.median(case, way)?)))
    }

    fn table(&self) -> String {
        let processors = available_parallelism().map_or(1, usize::from);
        let mut lines = vec![
            format!(
                "bench gateway: medians of {} rounds; {processors} processors shared by client, broker and server; Linux {}",
                self.rounds,
                fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim()
            ),
            String::new(),
            "                                                        CPU µs per call".to_owned(),
            "tool  connections  way       calls/s    p50 µs    p99 µs    client  broker  server  others".to_owned(),
        ];
        lines.extend(self.rows().map(|(case, way, row)| {
            let broker = match way {
                Way::Direct => "-".to_owned(),
                Way::Through => format!("{:.1}", row.broker_us),
            };
            format!(
                "{:<4}  {:>11}  {:<7}  {:>8.0}  {:>8.1}  {:>8.1}  {:>8.1}  {broker:>6}  {:>6.1}  {:>5.0}%",
                case.tool.name(),
                case.connections,
                way.label(),
                row.calls_per_s,
                row.p50_us,
                row.p99_us,
                row.client_us,
                row.server_us,
                row.others * 100.0 / processors as f64
            )
        }));
        lines.push(String::new());
        if let Some(append) = median(self.appends.clone()) {
            lines.push(format!("one durable append (1 KiB and fdatasync): p50 {append:.1} µs"));
        }
        lines.extend(self.headline().map(|headline| headline.goals().join("\n")));
        let others = self.others_share_max(processors);
        if others > OTHERS_SHARE_MAX {
            lines.push(format!("warning: other work took up to {:.0} % of the machine; measure again when it is idle", others * 100.0));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// Only of direct calls: through the broker, the kernel's own work for the disk is among the others.
    fn others_share_max(&self, processors: usize) -> f64 {
        let direct = self.rows().filter(|(_, way, _)| *way == Way::Direct);
        direct.map(|(_, _, row)| row.others / processors as f64).fold(0.0, f64::max)
    }

    fn to_json(&self) -> Value {
        let rows: Vec<_> = self
            .rows()
            .map(|(case, way, row)| {
                json!({
                    "tool": case.tool.name(),
                    "connections": case.connections,
                    "way": way.label(),
                    "calls_per_s": rounded(row.calls_per_s),
                    "p50_us": rounded(row.p50_us),
                    "p99_us": rounded(row.p99_us),
                    "client_cpu_us_per_call": rounded(row.client_us),
                    "broker_cpu_us_per_call": (way == Way::Through).then(|| rounded(row.broker_us)),
                    "server_cpu_us_per_call": rounded(row.server_us),
                    "others_processors": rounded(row.others),
                })
            })
            .collect();
        let mut members = Map::from_iter([
            ("bench".to_owned(), json!("gateway")),
            ("rounds".to_owned(), json!(self.rounds)),
            // A wrong answer fails the run before there is a report.
            ("errors".to_owned(), json!(0)),
            ("rows".to_owned(), json!(rows)),
        ]);
        if let Some(append) = median(self.appends.clone()) {
            members.insert("append_p50_us".to_owned(), json!(rounded(append)));
        }
        if let Some(headline) = self.headline() {
            for (name, value) in [
                ("cpu_us_per_call_c16", headline.cpu_us_per_call_c16),
                ("calls_per_s_c64", headline.calls_per_s_c64),
                ("added_p50_us_c1", headline.added_p50_us_c1),
            ] {
                members.insert(name.to_owned(), json!(rounded(value)));
            }
        }
        Value::Object(members)
    }
}

impl Headline {
    fn goals(&self) -> [String; 3] {
        let met = |met: bool| if met { "met" } else { "not met" };
        [
            format!(
                "CPU of the broker per call at 16 connections: {:.1} µs (goal: at most {CPU_US_PER_CALL_C16_MAX}; {})",
                self.cpu_us_per_call_c16,
                met(self.cpu_us_per_call_c16 <= CPU_US_PER_CALL_C16_MAX)
            ),
            format!(
                "calls per second at 64 connections: {:.0} (goal: at least {CALLS_PER_S_C64_MIN}; {})",
                self.calls_per_s_c64,
                met(self.calls_per_s_c64 >= CALLS_PER_S_C64_MIN)
            ),
            format!(
                "added p50 at one connection, above one durable append of {:.1} µs: {:.1} µs (goal: at most {ADDED_P50_US_C1_MAX}; {})",
                self.append_p50_us,
                self.added_p50_us_c1,
                met(self.added_p50_us_c1 <= ADDED_P50_US_C1_MAX)
            ),
        ]
    }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(calls: u64, p50: f64, broker: f64) -> Value {
        json!({
            "sent": calls + 5, "calls": calls, "errors": 0, "first_error": null, "seconds": 2.0,
            "calls_per_s": calls / 2, "p50_us": p50, "p99_us": p50 * 2.0,
            "cpu_seconds": { "client": 0.1, "server": 0.2, "broker": broker, "machine": 0.5 + broker }
        })
    }

    fn report() -> Report {
        let mut report = Report::new(1);
        for case in &CASES {
            let direct = Sample::parse(&line(40_000, 30.0, 0.0)).unwrap();
            let through = Sample::parse(&line(20_000, 330.0, 1.0)).unwrap();
            report.add(case, Way::Direct, direct);
            report.add(case, Way::Through, through);
        }
        report.appends = vec![300.0, 200.0, 100.0];
        report
    }

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn a_wrong_answer_is_an_error_and_no_sample() {
        let mut line = line(10, 1.0, 0.0);
        line["errors"] = json!(1);
        line["first_error"] = json!("HTTP/1.1 403");
        let error = Sample::parse(&line).unwrap_err().to_string();
        assert!(error.contains("403"), "{error}");
        assert!(Sample::parse(&json!({})).is_err());
    }

    #[test]
    fn cpu_is_counted_by_process_and_call_and_the_rest_is_of_others() {
        let sample = Sample::parse(&line(20_000, 330.0, 1.0)).unwrap();
        assert_eq!((sample.client_us, sample.server_us, sample.broker_us), (5.0, 10.0, 50.0));
        assert!((sample.others - 0.1).abs() < 1e-9);
    }

    #[test]
    fn the_json_has_the_headline_numbers_by_their_names() {
        let json = report().to_json();
        assert_eq!(json["cpu_us_per_call_c16"], 50.0);
        assert_eq!(json["calls_per_s_c64"], 10_000.0);
        assert_eq!(json["append_p50_us"], 200.0);
        assert_eq!(json["added_p50_us_c1"], 100.0);
        assert_eq!(json["rows"].as_array().unwrap().len(), 8);
    }

    #[test]
    fn calls_that_were_sent_are_summed_by_tool() {
        assert_eq!(report().sent(Tool::Echo), 3 * (40_005 + 20_005));
        assert_eq!(report().sent(Tool::Put), 40_005 + 20_005);
    }

    #[test]
    fn the_table_says_whether_each_goal_is_met() {
        let table = report().table();
        assert_eq!(table.matches("; met)").count(), 3, "{table}");
        let mut slow = report();
        let sample = Sample::parse(&line(15_000, 500.0, 1.9)).unwrap();
        for case in CASES {
            slow.samples.insert((case, Way::Through), vec![sample]);
        }
        let table = slow.table();
        assert_eq!(table.matches("; not met)").count(), 3, "{table}");
    }
}
