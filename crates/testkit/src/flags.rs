//! The few `--name value` flags that the fixture programs take.

use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

/// The command line of a fixture program: values by flag, in order of appearance.
#[derive(Debug, Clone)]
pub struct Flags {
    given: Vec<(String, String)>,
}

impl Flags {
    /// Reads this process's arguments. Every flag takes one value, and a flag that is not in `known` is an error.
    pub fn from_env(known: &[&str]) -> Result<Self> {
        Self::parse(known, std::env::args().skip(1))
    }

    fn parse(known: &[&str], arguments: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut given = Vec::new();
        let mut arguments = arguments.into_iter();
        while let Some(flag) = arguments.next() {
            if !known.contains(&flag.as_str()) {
                bail!("unknown argument `{flag}`; known are: {}", known.join(", "));
            }
            let value = arguments.next().with_context(|| format!("`{flag}` needs a value"))?;
            given.push((flag, value));
        }
        Ok(Self { given })
    }

    /// The last value of a flag, if it was given.
    pub fn optional<T>(&self, flag: &str) -> Result<Option<T>>
    where
        T: FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.all(flag).last().map(|text| text.parse().with_context(|| format!("`{flag} {text}` cannot be read"))).transpose()
    }

    /// The last value of a flag that must be given.
    pub fn required<T>(&self, flag: &str) -> Result<T>
    where
        T: FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.optional(flag)?.with_context(|| format!("`{flag}` is missing"))
    }

    /// Every value of a flag.
    pub fn all<'a>(&'a self, flag: &'a str) -> impl Iterator<Item = &'a str> {
        self.given.iter().filter(move |(name, _)| name == flag).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags> {
        Flags::parse(&["--port", "--header"], line.split(' ').map(str::to_owned))
    }

    #[test]
    fn the_last_value_of_a_flag_counts_and_all_can_be_had() {
        let flags = parse("--port 1 --header a --port 2 --header b").unwrap();
        assert_eq!(flags.required::<u16>("--port").unwrap(), 2);
        assert_eq!(flags.all("--header").collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn unknown_flags_missing_values_and_wrong_values_are_errors() {
        assert!(parse("--prot 1").is_err());
        assert!(parse("--port").is_err());
        assert!(parse("--port x").unwrap().required::<u16>("--port").is_err());
        assert!(parse("--header a").unwrap().required::<u16>("--port").is_err());
    }
}
