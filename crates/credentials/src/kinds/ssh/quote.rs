//! Words for a POSIX shell: whatever stands in them is one argument, and nothing of it is read as anything else.

/// One word, in quotes where it needs them.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | ',' | '@' | '%' | '+');
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A command line.
pub(crate) fn line(words: &[String]) -> String {
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_shell_reads_the_very_words_that_were_quoted(words in prop::collection::vec("[^\\x00]{0,12}", 1..6)) {
            let script = format!("printf '%s\\0' {}", line(&words));
            let out = Command::new("/bin/sh").arg("-c").arg(script).env("LC_ALL", "C.UTF-8").output().unwrap();
            let read: Vec<_> = out.stdout.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            prop_assert_eq!(&read[..read.len() - 1], words.as_slice());
        }
    }

    #[test]
    fn tricks_of_shells_are_only_words() {
        for word in ["$(reboot)", "`reboot`", ";reboot", "a b", "'", "\"", "\\", "*", "~", "", "-rf", "\n", "$HOME", "&&", ">x", "!1", "{a,b}", "#"] {
            let script = format!("printf '%s\\0' {}", quote(word));
            let out = Command::new("/bin/sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), format!("{word}\0"));
        }
    }
}
