//! A light load generator for MCP over HTTP: one thread, hand-written HTTP/1.1 with keep-alive, modern (2026-07-28) `tools/call` requests.
//!
//! `mcp-load --port PORT --tool NAME [--kind echo|put] [--path /mcp] [--connections N] [--seconds S] [--warm-up S] [--token-file FILE]
//! [--watch NAME=PID]...`
//!
//! Each connection calls, waits for the answer and calls again. Every request has an id of its own, also in its text, and every answer is
//! compared with what it must be: one that is not is counted as an error and measured nowhere. The last line is one JSON object, with the CPU
//! time of this process (`client`), of the watched ones and of the whole machine in the same window. A lost connection or a broken frame ends
//! the run.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Write as _, stdout};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bailiwick_testkit::Flags;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const FLAGS: [&str; 9] = ["--port", "--path", "--tool", "--kind", "--connections", "--seconds", "--warm-up", "--token-file", "--watch"];
const CONNECTIONS_MAX: u64 = 300;
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// As much of a wrong answer is shown.
const SHOWN_BYTES_MAX: usize = 1 << 10;
/// The size of a request's body.
const BODY_BYTES: usize = 500;
/// Ids have ten digits, so that all requests of a run have one length: 10 000 000 of them for each connection.
const ID_FIRST: u64 = 1_000_000_000;
const IDS_PER_CONNECTION: u64 = 10_000_000;
const ID_DIGITS: usize = 10;

fn main() -> Result<()> {
    let plan = Plan::from_flags(&Flags::from_env(&FLAGS)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let summary = runtime.block_on(run(plan))?;
    writeln!(stdout(), "{summary}")?;
    Ok(())
}

/// What to do, from the command line.
struct Plan {
    port: u16,
    path: String,
    tool: String,
    kind: Kind,
    token: Option<String>,
    connections: u64,
    warm_up: Duration,
    window: Duration,
    watched: Vec<(String, u32)>,
}

/// What a tool does with its arguments, as the echo fixture has it.
#[derive(Clone, Copy)]
enum Kind {
    /// Gives `text` back.
    Echo,
    /// Takes `key` and `value`, says `stored`.
    Put,
}

impl Plan {
    fn from_flags(flags: &Flags) -> Result<Self> {
        let seconds = |flag, default| -> Result<Duration> { Ok(Duration::try_from_secs_f64(flags.optional(flag)?.unwrap_or(default))?) };
        let token = flags
            .optional::<String>("--token-file")?
            .map(|file| fs::read_to_string(&file).with_context(|| format!("cannot read `{file}`")))
            .transpose()?;
        let connections = flags.optional("--connections")?.unwrap_or(1);
        ensure!((1..=CONNECTIONS_MAX).contains(&connections), "`--connections` is 1 to {CONNECTIONS_MAX}");
        Ok(Self {
            port: flags.required("--port")?,
            path: flags.optional("--path")?.unwrap_or("/mcp".to_owned()),
            tool: flags.required("--tool")?,
            kind: match flags.optional::<String>("--kind")?.as_deref() {
                None | Some("echo") => Kind::Echo,
                Some("put") => Kind::Put,
                Some(other) => bail!("no kind `{other}`; there are: echo, put"),
            },
            token: token.map(|token| token.trim().to_owned()),
            connections,
            warm_up: seconds("--warm-up", 0.3)?,
            window: seconds("--seconds", 2.0)?,
            watched: flags.all("--watch").map(watched).collect::<Result<Vec<_>>>()?,
        })
    }
}

fn watched(text: &str) -> Result<(String, u32)> {
    let (name, pid) = text.split_once('=').context("`--watch` wants NAME=PID")?;
    Ok((name.to_owned(), pid.parse()?))
}

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

async fn run(plan: Plan) -> Result<Value> {
    let phase = Arc::new(AtomicU8::new(WARMING));
    let mut callers = Vec::new();
    for number in 0..plan.connections {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, plan.port)).await?;
        stream.set_nodelay(true)?;
        let caller = Caller { stream, request: Request::new(&plan, number), answer: Answer::new(plan.kind), buffer: vec![0; ANSWER_BYTES_MAX] };
        callers.push(tokio::spawn(caller.run(number, Arc::clone(&phase))));
    }
    tokio::time::sleep(plan.warm_up).await;
    let cpu_before = cpu(&plan.watched)?;
    let begin = Instant::now();
    phase.store(MEASURING, Ordering::Relaxed);
    tokio::time::sleep(plan.window).await;
    phase.store(OVER, Ordering::Relaxed);
    let window = begin.elapsed();
    let cpu_after = cpu(&plan.watched)?;
    let mut tally = Tally::default();
    for caller in callers {
        tally.add(caller.await??);
    }
    Ok(tally.summary(window, &cpu_before, &cpu_after))
}

/// One connection, and what it needs to go round without asking for memory.
struct Caller {
    stream: TcpStream,
    request: Request,
    answer: Answer,
    buffer: Vec<u8>,
}

impl Caller {
    async fn run(mut self, number: u64, phase: Arc<AtomicU8>) -> Result<Tally> {
        let mut tally = Tally::default();
        let first = ID_FIRST + number * IDS_PER_CONNECTION;
        for id in first..first + IDS_PER_CONNECTION {
            if phase.load(Ordering::Relaxed) == OVER {
                return Ok(tally);
            }
            let digits = digits(id);
            self.request.set_id(&digits);
            let sent = Instant::now();
            self.stream.write_all(&self.request.bytes).await?;
            let frame = self.receive().await?;
            let took = sent.elapsed();
            tally.sent += 1;
            let bytes = self.buffer.get(..frame.end).unwrap_or_default();
            let verdict = self.answer.check(&frame, bytes, &digits);
            // What was sent in the warm-up and answered in the window counts: as much is cut off at the window's end.
            tally.count(verdict, took, phase.load(Ordering::Relaxed) == MEASURING);
        }
        bail!("a connection has used all its ids; measure for a shorter time")
    }

    /// Reads exactly one answer into the buffer.
    async fn receive(&mut self) -> Result<Frame> {
        let mut filled = 0;
        let mut frame = None;
        loop {
            let free = self.buffer.get_mut(filled..).unwrap_or_default();
            ensure!(!free.is_empty(), "an answer is longer than {ANSWER_BYTES_MAX} bytes");
            let read = self.stream.read(free).await?;
            let bytes = self.buffer.get(..filled + read).unwrap_or_default();
            ensure!(read > 0, "the server closed a connection: {}", String::from_utf8_lossy(bytes));
            filled += read;
            if frame.is_none() {
                frame = Frame::parse(bytes)?;
            }
            match &frame {
                Some(frame) if filled > frame.end => bail!("bytes follow an answer"),
                Some(found) if filled == found.end => break,
                Some(_) | None => {}
            }
        }
        frame.context("an answer has no frame")
    }
}

/// Where an answer's parts are in its bytes.
struct Frame {
    ok: bool,
    body: usize,
    end: usize,
}

impl Frame {
    /// `None` if the header is not complete yet.
    fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(header) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = bytes.get(..header).unwrap_or_default();
        let length = head
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.split_at_checked(15))
            .find(|(name, _)| name.eq_ignore_ascii_case(b"content-length:"))
            .and_then(|(_, value)| str::from_utf8(value).ok()?.trim().parse::<usize>().ok())
            .with_context(|| {
                let head = String::from_utf8_lossy(head);
                format!("an answer has no content-length:\n{head}")
            })?;
        let body = header + 4;
        Ok(Some(Self { ok: head.starts_with(b"HTTP/1.1 200"), body, end: body.saturating_add(length) }))
    }
}

/// The bytes of a request, and where its id stands in them.
struct Request {
    bytes: Vec<u8>,
    ids: Vec<usize>,
}

impl Request {
    fn new(plan: &Plan, number: u64) -> Self {
        let id = ID_FIRST;
        let body = |padding: usize| {
            let words = "as long as a usual call is: ".chars().cycle();
            let text = format!("{id} {}", words.take(padding).collect::<String>());
            let arguments = match plan.kind {
                Kind::Echo => json!({ "text": text }),
                Kind::Put => json!({ "key": format!("bench-{number}"), "value": text }),
            };
            json!({
                "jsonrpc": "2.0",
                "id": id,
                "method": "tools/call",
                "params": {
                    "name": plan.tool,
                    "arguments": arguments,
                    "_meta": {
                        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                        "io.modelcontextprotocol/clientInfo": { "name": "mcp-load", "version": "1" },
                        "io.modelcontextprotocol/clientCapabilities": {},
                    },
                },
            })
            .to_string()
        };
        let body = body(BODY_BYTES.saturating_sub(body(0).len()));
        let token = plan.token.as_ref();
        let authorization = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{authorization}Content-Type: application/json\r\nAccept: application/json, \
             text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {}\r\nContent-Length: {}\r\n\r\n{body}",
            plan.path,
            plan.port,
            plan.tool,
            body.len()
        );
        let header = request.len() - body.len();
        let bytes = request.into_bytes();
        Self { ids: places(&bytes, header, &digits(id)), bytes }
    }

    fn set_id(&mut self, digits: &[u8; ID_DIGITS]) {
        put(&mut self.bytes, &self.ids, digits);
    }
}

/// What a right answer looks like. The first one, and any that differs from the last, is read as JSON; where only the id moved on, bytes are
/// compared.
struct Answer {
    kind: Kind,
    body: Vec<u8>,
    ids: Vec<usize>,
}

/// What an answer turned out to be.
enum Verdict {
    Right,
    /// Right, but not of the last one's form.
    RightAndRead,
    Wrong(String),
}

impl Answer {
    const fn new(kind: Kind) -> Self {
        Self { kind, body: Vec::new(), ids: Vec::new() }
    }

    fn check(&mut self, frame: &Frame, bytes: &[u8], digits: &[u8; ID_DIGITS]) -> Verdict {
        let body = bytes.get(frame.body..).unwrap_or_default();
        put(&mut self.body, &self.ids, digits);
        if frame.ok && !body.is_empty() && self.body == body {
            return Verdict::Right;
        }
        if frame.ok && self.is_right(body, digits) {
            body.clone_into(&mut self.body);
            self.ids = places(body, 0, digits);
            return Verdict::RightAndRead;
        }
        let shown = bytes.get(..SHOWN_BYTES_MAX).unwrap_or(bytes);
        Verdict::Wrong(String::from_utf8_lossy(shown).into_owned())
    }

    fn is_right(&self, body: &[u8], digits: &[u8; ID_DIGITS]) -> bool {
        let Ok(answer) = serde_json::from_slice::<Value>(body) else {
            return false;
        };
        let id = answer.get("id").map(Value::to_string);
        let text = answer.pointer("/result/content/0/text").and_then(Value::as_str).unwrap_or_default();
        let failed = answer.pointer("/result/isError") == Some(&Value::Bool(true));
        id.is_some_and(|id| id.as_bytes() == digits)
            && !failed
            && match self.kind {
                Kind::Echo => text.as_bytes().starts_with(digits),
                Kind::Put => text == "stored",
            }
    }
}

/// What came of the calls of one connection, or of all.
#[derive(Default)]
struct Tally {
    /// All calls, those outside the window too: as many must have reached the server.
    sent: u64,
    read: u64,
    errors: u64,
    first_error: Option<String>,
    /// Of the right answers in the window, in nanoseconds.
    latencies: Vec<u32>,
}

impl Tally {
    fn count(&mut self, verdict: Verdict, took: Duration, measuring: bool) {
        match verdict {
            Verdict::Wrong(answer) => {
                self.errors += 1;
                self.first_error.get_or_insert(answer);
                return;
            }
            Verdict::RightAndRead => self.read += 1,
            Verdict::Right => {}
        }
        if measuring {
            let nanoseconds = u32::try_from(took.as_nanos()).unwrap_or(u32::MAX);
            self.latencies.push(nanoseconds);
        }
    }

    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.read += other.read;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.latencies.extend(other.latencies);
    }

    fn summary(mut self, window: Duration, before: &CpuTimes, after: &CpuTimes) -> Value {
        self.latencies.sort_unstable();
        let microseconds = |share: f64| {
            let rank = (self.latencies.len() as f64 * share) as usize;
            let last = self.latencies.len().saturating_sub(1);
            self.latencies.get(rank.min(last)).map(|nanoseconds| f64::from(*nanoseconds) / 1e3)
        };
        let calls = self.latencies.len();
        let cpu: BTreeMap<&str, f64> = after.iter().zip(before.values()).map(|((name, after), before)| (name.as_str(), after - before)).collect();
        json!({
            "sent": self.sent,
            "calls": calls,
            "errors": self.errors,
            "first_error": self.first_error,
            "read_as_json": self.read,
            "seconds": window.as_secs_f64(),
            "calls_per_s": calls as f64 / window.as_secs_f64(),
            "p50_us": microseconds(0.50),
            "p99_us": microseconds(0.99),
            "max_us": microseconds(1.0),
            "cpu_seconds": cpu,
        })
    }
}

/// Seconds of CPU time, by the name under which a process is watched.
type CpuTimes = BTreeMap<String, f64>;

fn cpu(watched: &[(String, u32)]) -> Result<CpuTimes> {
    let others = watched.iter().map(|(name, pid)| Ok((name.clone(), cpu_seconds(&pid.to_string())?)));
    others.chain([Ok(("client".to_owned(), cpu_seconds("self")?)), Ok(("machine".to_owned(), machine_cpu_seconds()?))]).collect()
}

/// `USER_HZ`, which Linux shows to programs on every architecture that this project builds for.
const TICKS_PER_SECOND: f64 = 100.0;

/// What all processors did since the start, but idle and wait: proc_stat(5), where `idle` and `iowait` are the fourth and fifth number.
/// Time that a hypervisor took away (`steal`) counts: it was not there for us.
fn machine_cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let all = stat.lines().next().unwrap_or_default();
    let busy = all
        .split_ascii_whitespace()
        .skip(1)
        .take(8)
        .enumerate()
        .filter(|(place, _)| ![3, 4].contains(place))
        .map(|(_, ticks)| ticks.parse::<u64>())
        .sum::<Result<u64, _>>()?;
    Ok(busy as f64 / TICKS_PER_SECOND)
}

/// User and system time of a process with all its threads, ended ones too: fields 14 and 15 of proc_pid_stat(5), of which the second may hold spaces.
fn cpu_seconds(pid: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name in a process's stat")?;
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

fn digits(id: u64) -> [u8; ID_DIGITS] {
    let mut digits = [b'0'; ID_DIGITS];
    let mut rest = id;
    for digit in digits.iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    digits
}

/// Where the digits stand in the bytes, from an offset on.
fn places(bytes: &[u8], from: usize, digits: &[u8; ID_DIGITS]) -> Vec<usize> {
    bytes.windows(ID_DIGITS).enumerate().skip(from).filter(|(_, window)| window == digits).map(|(place, _)| place).collect()
}

fn put(bytes: &mut [u8], places: &[usize], digits: &[u8; ID_DIGITS]) {
    for place in places {
        if let Some(old) = bytes.get_mut(*place..*place + ID_DIGITS) {
            old.copy_from_slice(digits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kind: Kind) -> Plan {
        Plan {
            port: 1,
            path: "/mcp".to_owned(),
            tool: "echo.echo".to_owned(),
            kind,
            token: Some("t0ken".to_owned()),
            connections: 1,
            warm_up: Duration::ZERO,
            window: Duration::ZERO,
            watched: Vec::new(),
        }
    }

    fn check(answer: &mut Answer, id: u64, http: &str) -> Verdict {
        let frame = Frame::parse(http.as_bytes()).unwrap().unwrap();
        assert_eq!(frame.end, http.len());
        answer.check(&frame, http.as_bytes(), &digits(id))
    }

    fn http(status: u16, body: &str) -> String {
        format!("HTTP/1.1 {status} X\r\nDate: today\r\ncontent-LENGTH: {}\r\n\r\n{body}", body.len())
    }

    fn echoed(id: u64, text: u64) -> String {
        http(200, &format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"{text} and more"}}],"isError":false}}}}"#))
    }

    #[test]
    fn a_request_has_its_size_and_its_id_everywhere() {
        for kind in [Kind::Echo, Kind::Put] {
            let mut request = Request::new(&plan(kind), 7);
            request.set_id(&digits(1_234_567_890));
            let text = String::from_utf8(request.bytes).unwrap();
            let (header, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(header.contains("Authorization: Bearer t0ken\r\n"));
            assert!(header.contains("Mcp-Name: echo.echo\r\n"));
            assert!(header.contains("Content-Length: 500"));
            assert_eq!(body.len(), BODY_BYTES);
            let body: Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["id"], 1_234_567_890);
            let arguments = body["params"]["arguments"].to_string();
            assert!(arguments.contains("1234567890 as long"), "{arguments}");
        }
    }

    #[test]
    fn an_answer_is_right_only_if_status_id_and_text_are_those_of_its_request() {
        let (one, two) = (1_000_000_001, 1_000_000_002);
        let mut answer = Answer::new(Kind::Echo);
        assert!(matches!(check(&mut answer, one, &echoed(one, one)), Verdict::RightAndRead));
        assert!(matches!(check(&mut answer, two, &echoed(two, two)), Verdict::Right));
        for wrong in [
            echoed(one, one),
            echoed(two, one),
            echoed(one, two),
            echoed(two, two).replace("false", "true "),
            echoed(two, two).replace("200", "202"),
            http(200, ""),
            http(401, r#"{"error":"invalid_token"}"#),
        ] {
            let verdict = check(&mut answer, two, &wrong);
            assert!(matches!(verdict, Verdict::Wrong(_)), "{wrong}");
        }
        assert!(matches!(check(&mut answer, two, &echoed(two, two)), Verdict::Right));
    }

    #[test]
    fn an_answer_in_pieces_has_no_frame_until_its_header_is_whole() {
        let whole = echoed(1, 1);
        assert!(Frame::parse(&whole.as_bytes()[..40]).unwrap().is_none());
        assert!(Frame::parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn wrong_answers_are_counted_and_measured_nowhere() {
        let mut tally = Tally::default();
        tally.count(Verdict::Wrong("no".to_owned()), Duration::from_micros(1), true);
        for microseconds in 1..=100 {
            tally.count(Verdict::Right, Duration::from_micros(microseconds), true);
        }
        tally.count(Verdict::Right, Duration::from_secs(9), false);
        let idle = CpuTimes::from([("client".to_owned(), 1.0)]);
        let busy = CpuTimes::from([("client".to_owned(), 1.5)]);
        let summary = tally.summary(Duration::from_secs(2), &idle, &busy);
        assert_eq!(summary["errors"], 1);
        assert_eq!(summary["first_error"], "no");
        assert_eq!(summary["calls"], 100);
        assert_eq!(summary["calls_per_s"], 50.0);
        assert_eq!(summary["p50_us"], 51.0);
        assert_eq!(summary["max_us"], 100.0);
        assert_eq!(summary["cpu_seconds"]["client"], 0.5);
    }

    #[test]
    fn a_process_has_used_cpu_time_after_work() {
        let before = cpu_seconds("self").unwrap();
        let machine_before = machine_cpu_seconds().unwrap();
        let mut sum = 0_u64;
        while cpu_seconds("self").unwrap() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(machine_cpu_seconds().unwrap() >= machine_before);
    }
}
