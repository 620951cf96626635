//! The commands that a held connection runs: what each does, which of its words are keys, and the forms of it that are left out.
//!
//! Keys stand apart from the other arguments, so that bounds of a task and the words for an approver speak of keys, and no option can smuggle one in.
//! A command's effect is the most that it can do. What makes data vanish is `delete`, by whatever name: an expiry, a pop, a rename.

use bailiwick_core::Effect;

/// The longest key, in bytes.
pub const KEY_MAX: usize = 1024;
/// How many keys a command may have.
pub const KEYS_MAX: usize = 64;
/// How many other arguments.
pub const ARGUMENTS_MAX: usize = 256;
/// The longest argument, in bytes.
pub const ARGUMENT_MAX: usize = 256 << 10;
/// All of a command, in bytes.
pub const COMMAND_MAX: usize = 512 << 10;
/// How many items may be asked for by number, and how far a text may be extended.
const COUNT_MAX: i64 = 1000;
const OFFSET_MAX: i64 = 1 << 20;

/// How many keys a command has, and where they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// One, then the arguments.
    One,
    /// A source and a destination, then the arguments.
    Two,
    /// One or more, then the arguments.
    Many,
    /// One or more, each followed by an argument of its own.
    Pairs,
    /// Their number, one or more, then the arguments.
    Counted,
}

/// A command of the table.
struct Entry {
    name: &'static str,
    effect: Effect,
    keys: Keys,
    /// The least and the most of its arguments, without keys.
    arguments: (usize, usize),
    check: fn(&[String]) -> Result<(), &'static str>,
}

const fn entry(name: &'static str, effect: Effect, keys: Keys, least: usize, most: usize) -> Entry {
    Entry { name, effect, keys, arguments: (least, most), check: anything }
}

const fn checked(name: &'static str, effect: Effect, least: usize, most: usize, check: fn(&[String]) -> Result<(), &'static str>) -> Entry {
    Entry { name, effect, keys: Keys::One, arguments: (least, most), check }
}

const MANY: usize = ARGUMENTS_MAX;
use Effect::{Delete, Read, Write};
use Keys::{Counted, Many, One, Pairs, Two};

const TABLE: &[Entry] = &[
    // Texts.
    entry("GET", Read, One, 0, 0),
    entry("MGET", Read, Many, 0, 0),
    entry("STRLEN", Read, One, 0, 0),
    entry("GETRANGE", Read, One, 2, 2),
    entry("GETBIT", Read, One, 1, 1),
    entry("BITCOUNT", Read, One, 0, 3),
    checked("SET", Write, 1, 5, set_options),
    entry("MSET", Write, Pairs, 0, 0),
    entry("MSETNX", Write, Pairs, 0, 0),
    entry("APPEND", Write, One, 1, 1),
    checked("SETRANGE", Write, 2, 2, near),
    checked("SETBIT", Write, 2, 2, near),
    entry("INCR", Write, One, 0, 0),
    entry("DECR", Write, One, 0, 0),
    entry("INCRBY", Write, One, 1, 1),
    entry("DECRBY", Write, One, 1, 1),
    entry("INCRBYFLOAT", Write, One, 1, 1),
    entry("GETDEL", Delete, One, 0, 0),
    // Keys.
    entry("EXISTS", Read, Many, 0, 0),
    entry("TYPE", Read, One, 0, 0),
    entry("TTL", Read, One, 0, 0),
    entry("PTTL", Read, One, 0, 0),
    entry("PERSIST", Write, One, 0, 0),
    entry("DEL", Delete, Many, 0, 0),
    entry("UNLINK", Delete, Many, 0, 0),
    entry("EXPIRE", Delete, One, 1, 2),
    entry("PEXPIRE", Delete, One, 1, 2),
    entry("EXPIREAT", Delete, One, 1, 2),
    entry("PEXPIREAT", Delete, One, 1, 2),
    entry("RENAME", Delete, Two, 0, 0),
    entry("RENAMENX", Delete, Two, 0, 0),
    // Hashes.
    entry("HGET", Read, One, 1, 1),
    entry("HMGET", Read, One, 1, MANY),
    entry("HGETALL", Read, One, 0, 0),
    entry("HKEYS", Read, One, 0, 0),
    entry("HVALS", Read, One, 0, 0),
    entry("HLEN", Read, One, 0, 0),
    entry("HEXISTS", Read, One, 1, 1),
    entry("HSTRLEN", Read, One, 1, 1),
    checked("HSCAN", Read, 1, 5, scan),
    checked("HSET", Write, 2, MANY, even),
    entry("HSETNX", Write, One, 2, 2),
    entry("HINCRBY", Write, One, 2, 2),
    entry("HINCRBYFLOAT", Write, One, 2, 2),
    entry("HDEL", Delete, One, 1, MANY),
    // Lists.
    entry("LLEN", Read, One, 0, 0),
    entry("LRANGE", Read, One, 2, 2),
    entry("LINDEX", Read, One, 1, 1),
    entry("LPOS", Read, One, 1, 7),
    entry("LPUSH", Write, One, 1, MANY),
    entry("RPUSH", Write, One, 1, MANY),
    entry("LPUSHX", Write, One, 1, MANY),
    entry("RPUSHX", Write, One, 1, MANY),
    entry("LSET", Write, One, 2, 2),
    entry("LINSERT", Write, One, 3, 3),
    checked("LPOP", Delete, 0, 1, count),
    checked("RPOP", Delete, 0, 1, count),
    entry("LREM", Delete, One, 2, 2),
    entry("LTRIM", Delete, One, 2, 2),
    entry("LMOVE", Delete, Two, 2, 2),
    // Sets.
    entry("SCARD", Read, One, 0, 0),
    entry("SISMEMBER", Read, One, 1, 1),
    entry("SMISMEMBER", Read, One, 1, MANY),
    entry("SMEMBERS", Read, One, 0, 0),
    checked("SRANDMEMBER", Read, 0, 1, count),
    checked("SSCAN", Read, 1, 5, scan),
    entry("SINTER", Read, Many, 0, 0),
    entry("SUNION", Read, Many, 0, 0),
    entry("SDIFF", Read, Many, 0, 0),
    entry("SINTERCARD", Read, Counted, 0, 2),
    entry("SADD", Write, One, 1, MANY),
    entry("SREM", Delete, One, 1, MANY),
    checked("SPOP", Delete, 0, 1, count),
    entry("SMOVE", Delete, Two, 1, 1),
    // Sorted sets.
    entry("ZCARD", Read, One, 0, 0),
    entry("ZSCORE", Read, One, 1, 1),
    entry("ZMSCORE", Read, One, 1, MANY),
    entry("ZCOUNT", Read, One, 2, 2),
    entry("ZLEXCOUNT", Read, One, 2, 2),
    entry("ZRANK", Read, One, 1, 1),
    entry("ZREVRANK", Read, One, 1, 1),
    entry("ZRANGE", Read, One, 2, 8),
    checked("ZSCAN", Read, 1, 5, scan),
    entry("ZADD", Write, One, 2, MANY),
    entry("ZINCRBY", Write, One, 2, 2),
    entry("ZREM", Delete, One, 1, MANY),
    checked("ZPOPMIN", Delete, 0, 1, count),
    checked("ZPOPMAX", Delete, 0, 1, count),
    entry("ZREMRANGEBYRANK", Delete, One, 2, 2),
    entry("ZREMRANGEBYSCORE", Delete, One, 2, 2),
    entry("ZREMRANGEBYLEX", Delete, One, 2, 2),
    // Places, streams.
    entry("GEOPOS", Read, One, 1, MANY),
    entry("GEODIST", Read, One, 2, 3),
    entry("GEOSEARCH", Read, One, 5, 16),
    entry("GEOADD", Write, One, 3, MANY),
    entry("XLEN", Read, One, 0, 0),
    entry("XRANGE", Read, One, 2, 4),
    entry("XREVRANGE", Read, One, 2, 4),
    checked("XADD", Write, 3, MANY, no_trim),
    entry("XDEL", Delete, One, 1, MANY),
    entry("XTRIM", Delete, One, 2, 6),
];

/// A command that may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    words: Vec<String>,
    effect: Effect,
}

impl Command {
    /// A command of the table, with its keys and its other arguments in their order.
    ///
    /// # Errors
    /// It is not in the table, has too few or too many of either, or a form that is left out: a sentence that says what is expected.
    pub fn new(name: &str, keys: &[String], arguments: &[String]) -> Result<Self, String> {
        let Some(entry) = TABLE.iter().find(|entry| entry.name == name) else {
            return Err(format!("`{}` is none of the commands that can be run", name.chars().take(40).collect::<String>()));
        };
        let keys_fit = match entry.keys {
            Keys::One => keys.len() == 1,
            Keys::Two => keys.len() == 2,
            Keys::Many | Keys::Counted | Keys::Pairs => (1..=KEYS_MAX).contains(&keys.len()),
        };
        if !keys_fit {
            let expected = match entry.keys {
                Keys::One => "one key".to_owned(),
                Keys::Two => "two keys, a source and a destination".to_owned(),
                Keys::Many | Keys::Counted | Keys::Pairs => format!("1 to {KEYS_MAX} keys"),
            };
            return Err(format!("`{name}` takes {expected}"));
        }
        let (least, most) = if entry.keys == Keys::Pairs { (keys.len(), keys.len()) } else { entry.arguments };
        if !(least..=most).contains(&arguments.len()) {
            let expected = if least == most { least.to_string() } else { format!("{least} to {most}") };
            return Err(format!("`{name}` takes {expected} arguments besides its keys"));
        }
        if keys.iter().any(|key| key.is_empty() || key.len() > KEY_MAX) {
            return Err(format!("a key has 1 to {KEY_MAX} bytes"));
        }
        sized(keys.iter().chain(arguments))?;
        (entry.check)(arguments).map_err(|expected| format!("`{name}`: {expected}"))?;
        Ok(Self { words: words(entry, keys, arguments), effect: entry.effect })
    }

    /// `PUBLISH`: a message to whoever listens on a channel. Its effect is `influence`.
    ///
    /// # Errors
    /// The channel is empty or too long, or the message is.
    pub fn publish(channel: &str, message: &str) -> Result<Self, String> {
        if channel.is_empty() || channel.len() > KEY_MAX {
            return Err(format!("a channel has 1 to {KEY_MAX} bytes"));
        }
        let words = ["PUBLISH", channel, message].map(str::to_owned).to_vec();
        sized(words.iter())?;
        Ok(Self { words, effect: Effect::Influence })
    }

    /// The most that it can do.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        self.effect
    }

    /// As it is sent.
    pub fn words(&self) -> impl Iterator<Item = &[u8]> {
        self.words.iter().map(String::as_bytes)
    }
}

/// The commands of an effect, by name.
pub fn names(effect: Effect) -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(move |entry| entry.effect == effect).map(|entry| entry.name)
}

fn words(entry: &Entry, keys: &[String], arguments: &[String]) -> Vec<String> {
    let mut words = vec![entry.name.to_owned()];
    match entry.keys {
        Keys::Pairs => words.extend(keys.iter().zip(arguments).flat_map(|(key, value)| [key.clone(), value.clone()])),
        Keys::Counted => {
            words.push(keys.len().to_string());
            words.extend(keys.iter().chain(arguments).cloned());
        }
        Keys::One | Keys::Two | Keys::Many => words.extend(keys.iter().chain(arguments).cloned()),
    }
    words
}

fn sized<'a>(words: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut all: usize = 0;
    for word in words {
        if word.len() > ARGUMENT_MAX {
            return Err(format!("an argument has at most {ARGUMENT_MAX} bytes"));
        }
        all = all.saturating_add(word.len());
    }
    if all > COMMAND_MAX { Err(format!("a command has at most {COMMAND_MAX} bytes")) } else { Ok(()) }
}

fn anything(_: &[String]) -> Result<(), &'static str> {
    Ok(())
}

fn number_in(text: Option<&String>, range: std::ops::RangeInclusive<i64>) -> bool {
    text.and_then(|text| text.parse().ok()).is_some_and(|number| range.contains(&number))
}

/// A negative count means repetitions without end.
fn count(arguments: &[String]) -> Result<(), &'static str> {
    let fits = arguments.is_empty() || number_in(arguments.first(), 0..=COUNT_MAX);
    if fits { Ok(()) } else { Err("the count is a number from 0 to 1000") }
}

/// A far offset makes the server fill half a gigabyte with zeros.
fn near(arguments: &[String]) -> Result<(), &'static str> {
    if number_in(arguments.first(), 0..=OFFSET_MAX) { Ok(()) } else { Err("the offset is a number from 0 to 1048576") }
}

fn even(arguments: &[String]) -> Result<(), &'static str> {
    if arguments.len().is_multiple_of(2) { Ok(()) } else { Err("expected pairs of a field and a value") }
}

/// `value [NX | XX] [KEEPTTL | EX seconds]`. A value that vanishes within a second, or was to vanish before now, is a deletion.
fn set_options(arguments: &[String]) -> Result<(), &'static str> {
    let mut options = arguments.iter().skip(1);
    let (mut condition, mut life) = (0, 0);
    while let Some(option) = options.next() {
        match option.as_str() {
            "NX" | "XX" => condition += 1,
            "KEEPTTL" => life += 1,
            "EX" if number_in(options.next(), 1..=i64::from(i32::MAX)) => life += 1,
            _ => return Err("expected a value, then NX or XX, then KEEPTTL or EX and a number of seconds"),
        }
    }
    if condition <= 1 && life <= 1 { Ok(()) } else { Err("expected at most one of NX and XX, and one of KEEPTTL and EX") }
}

/// `cursor [MATCH pattern] [COUNT n]`.
fn scan(arguments: &[String]) -> Result<(), &'static str> {
    let expected = Err("expected a cursor, then MATCH and a pattern, then COUNT and a number up to 1000");
    if arguments.first().is_none_or(|cursor| cursor.parse::<u64>().is_err()) {
        return expected;
    }
    let mut options = arguments.iter().skip(1);
    while let Some(option) = options.next() {
        let value = options.next();
        let fits = match option.as_str() {
            "MATCH" => value.is_some_and(|pattern| pattern.len() <= KEY_MAX),
            "COUNT" => number_in(value, 1..=COUNT_MAX),
            _ => false,
        };
        if !fits {
            return expected;
        }
    }
    Ok(())
}

/// `[NOMKSTREAM] id field value ..`: other options cut old entries off.
fn no_trim(arguments: &[String]) -> Result<(), &'static str> {
    let rest = if arguments.first().is_some_and(|first| first == "NOMKSTREAM") { arguments.get(1..).unwrap_or_default() } else { arguments };
    let is_id = |id: &String| id == "*" || (!id.is_empty() && id.len() <= 41 && id.bytes().all(|b| b.is_ascii_digit() || b == b'-' || b == b'*'));
    let fits = rest.first().is_some_and(is_id) && rest.len() >= 3 && !rest.len().is_multiple_of(2);
    if fits { Ok(()) } else { Err("expected an id or `*`, then pairs of a field and a value; entries are cut off with XTRIM") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn made(name: &str, keys: &[&str], arguments: &[&str]) -> Result<String, String> {
        Command::new(name, &strings(keys), &strings(arguments)).map(|command| command.words.join(" "))
    }

    #[test]
    fn keys_stand_where_the_command_has_them() {
        assert_eq!(made("GET", &["a"], &[]).unwrap(), "GET a");
        assert_eq!(made("MSET", &["a", "b"], &["1", "2"]).unwrap(), "MSET a 1 b 2");
        assert_eq!(made("SINTERCARD", &["a", "b"], &["LIMIT", "5"]).unwrap(), "SINTERCARD 2 a b LIMIT 5");
        assert_eq!(made("LMOVE", &["from", "to"], &["LEFT", "RIGHT"]).unwrap(), "LMOVE from to LEFT RIGHT");
        assert_eq!(made("ZADD", &["z"], &["1", "a"]).unwrap(), "ZADD z 1 a");
    }

    #[test]
    fn what_is_not_in_the_table_cannot_be_run() {
        for name in [
            "",
            "get",
            "GET ",
            "KEYS",
            "SCAN",
            "RANDOMKEY",
            "EVAL",
            "EVALSHA",
            "FCALL",
            "FUNCTION",
            "SCRIPT",
            "CONFIG",
            "ACL",
            "DEBUG",
            "SHUTDOWN",
            "FLUSHALL",
            "FLUSHDB",
            "SWAPDB",
            "SELECT",
            "AUTH",
            "HELLO",
            "RESET",
            "QUIT",
            "CLIENT",
            "MULTI",
            "EXEC",
            "WATCH",
            "SUBSCRIBE",
            "PSUBSCRIBE",
            "SSUBSCRIBE",
            "MONITOR",
            "SYNC",
            "PSYNC",
            "REPLICAOF",
            "SLAVEOF",
            "MIGRATE",
            "RESTORE",
            "DUMP",
            "OBJECT",
            "MODULE",
            "SORT",
            "SORT_RO",
            "BLPOP",
            "BRPOP",
            "BLMOVE",
            "BZPOPMIN",
            "XREAD",
            "XREADGROUP",
            "WAIT",
            "GEORADIUS",
            "ZRANGESTORE",
            "SINTERSTORE",
            "COPY",
            "MOVE",
            "CLUSTER",
            "READONLY",
            "ASKING",
            "SAVE",
            "BGSAVE",
            "INFO",
            "MEMORY",
            "LATENCY",
            "SLOWLOG",
            "COMMAND",
            "PUBLISH",
            "PFDEBUG",
            "GET\r\nSET",
        ] {
            assert!(Command::new(name, &strings(&["a"]), &[]).is_err(), "{name}");
        }
    }

    #[test]
    fn numbers_of_keys_and_arguments_are_those_of_the_command() {
        for (name, keys, arguments) in [
            ("GET", &[][..], &[][..]),
            ("GET", &["a", "b"], &[]),
            ("GET", &["a"], &["b"]),
            ("GET", &[""], &[]),
            ("MGET", &[], &[]),
            ("MSET", &["a", "b"], &["1"]),
            ("RENAME", &["a"], &["b"]),
            ("HSET", &["a"], &["f", "v", "g"]),
            ("SET", &["a"], &[]),
        ] {
            assert!(made(name, keys, arguments).is_err(), "{name} {keys:?} {arguments:?}");
        }
        let long = "k".repeat(KEY_MAX + 1);
        assert!(made("GET", &[&long], &[]).is_err());
        assert!(Command::new("MGET", &vec!["a".to_owned(); KEYS_MAX + 1], &[]).is_err());
        let much = vec!["v".repeat(ARGUMENT_MAX); 3];
        assert!(Command::new("SADD", &strings(&["a"]), &much).is_err());
        assert!(Command::new("SET", &strings(&["a"]), &["v".repeat(ARGUMENT_MAX + 1)]).is_err());
    }

    #[test]
    fn options_that_remove_or_never_end_are_left_out_of_what_reads_and_writes() {
        for (name, arguments) in [
            ("SET", &["v", "PX", "1"][..]),
            ("SET", &["v", "EX", "0"]),
            ("SET", &["v", "EXAT", "1"]),
            ("SET", &["v", "GET"]),
            ("SET", &["v", "NX", "XX"]),
            ("SET", &["v", "EX"]),
            ("XADD", &["MAXLEN", "0", "*", "f", "v"]),
            ("XADD", &["NOMKSTREAM", "MINID", "5", "f", "v"]),
            ("XADD", &["*", "f"]),
            ("SRANDMEMBER", &["-1000000000"]),
            ("SRANDMEMBER", &["1001"]),
            ("SETRANGE", &["536870911", "x"]),
            ("SETBIT", &["4294967295", "1"]),
            ("HSCAN", &["0", "COUNT", "1000000"]),
            ("HSCAN", &["x"]),
            ("HSCAN", &["0", "NOVALUES"]),
            ("LPOP", &["-1"]),
        ] {
            assert!(made(name, &["k"], arguments).is_err(), "{name} {arguments:?}");
        }
        for (name, arguments) in [
            ("SET", &["v", "NX", "EX", "10"][..]),
            ("SET", &["v", "KEEPTTL"]),
            ("SET", &["EX"]),
            ("XADD", &["NOMKSTREAM", "*", "f", "v"]),
            ("XADD", &["1-1", "f", "v", "g", "w"]),
            ("SRANDMEMBER", &["10"]),
            ("HSCAN", &["0", "MATCH", "a*", "COUNT", "10"]),
        ] {
            assert!(made(name, &["k"], arguments).is_ok(), "{name} {arguments:?}");
        }
    }

    #[test]
    fn each_command_stands_once_and_has_one_of_three_effects() {
        let names: Vec<_> = [Effect::Read, Effect::Write, Effect::Delete].into_iter().flat_map(names).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert_eq!(names.len(), TABLE.len());
        let publish = Command::publish("news", "bread").unwrap();
        assert_eq!((publish.effect(), publish.words.join(" ")), (Effect::Influence, "PUBLISH news bread".to_owned()));
        assert!(Command::publish("", "x").is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_has_its_own_name_and_no_more_words_than_were_given(
            at in 0..TABLE.len(), keys in proptest::collection::vec("[ -~]{0,9}", 0..4), arguments in proptest::collection::vec("[ -~]{0,9}", 0..6)
        ) {
            if let Ok(command) = Command::new(TABLE[at].name, &keys, &arguments) {
                prop_assert_eq!(&command.words[0], TABLE[at].name);
                prop_assert!(command.words.len() <= keys.len() + arguments.len() + 2);
                prop_assert_eq!(command.effect(), TABLE[at].effect);
                prop_assert!(keys.iter().all(|key| command.words.contains(key)));
            }
        }
    }
}
