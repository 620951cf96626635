//! What a log and a witness say to each other (C2SP tlog-witness): requests and answers as bytes, read strictly. No sockets.

use std::fmt;
use std::str::FromStr;

use crate::checkpoint::{Checkpoint, CheckpointError, Origin, parse_decimal};
use crate::hash::{Hash, sha256};
use crate::note::{KeyKind, MAX_NOTE, Note, NoteError, Signature, VerifierKey, parse_signatures};
use crate::{MAX_SIZE, note};

/// The most hashes of a consistency proof: a client MUST NOT send more.
pub const MAX_PROOF: usize = 63;

/// The most bytes of an answer that are read: room for the note that a witness shows.
pub const MAX_ANSWER: usize = MAX_NOTE;

/// The most bytes of a request: a note and its proof.
pub const MAX_REQUEST: usize = MAX_NOTE + 64 * 64;

/// The path of a call to a witness, to be put behind its submission prefix.
pub const ADD_CHECKPOINT: &str = "add-checkpoint";

/// The media type of the size in an answer of status 409.
pub const SIZE_TYPE: &str = "text/x.tlog.size";

/// The path at which a witness shows the checkpoint of this log that it cosigned last, to be put behind its monitoring prefix.
#[must_use]
pub fn monitor_path(origin: &Origin) -> String {
    let hash = sha256(origin.as_str().as_bytes());
    let hex: String = hash.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}/checkpoint")
}

/// Why a request or an answer is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WitnessError {
    /// Not the form of a request.
    #[error("not a request to a witness: {0}")]
    Request(&'static str),
    /// The checkpoint in it.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The signature lines: not in their form, or one by the witness's own key that is wrong.
    #[error("the cosignature: {0}")]
    Cosignature(#[from] NoteError),
    /// There is no cosignature by the witness's key in an answer that says that it cosigned.
    #[error("the answer has no cosignature by the witness's key")]
    NotCosigned,
    /// A cosignature without a time, which says nothing about when the tree was the largest.
    #[error("the cosignature has no time")]
    NoTime,
    /// The answer says that it has another size, and not which one.
    #[error("the answer does not say which size it has")]
    Size,
    /// A status that the protocol does not have, a redirect for instance.
    #[error("an answer of status {0} is none of the protocol's")]
    Status(u16),
}

/// The request that a new checkpoint be cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    old: u64,
    proof: Vec<Hash>,
    checkpoint: Note,
}

impl AddCheckpoint {
    /// A request; `proof` is the consistency proof from the size that the witness cosigned last to that of the checkpoint.
    pub fn new(old: u64, proof: Vec<Hash>, checkpoint: Note) -> Result<Self, WitnessError> {
        if proof.len() > MAX_PROOF {
            return Err(WitnessError::Request("too many hashes"));
        }
        Ok(Self { old, proof, checkpoint })
    }

    /// The size that the sender believes the witness to have.
    #[must_use]
    pub const fn old(&self) -> u64 {
        self.old
    }

    /// The consistency proof.
    #[must_use]
    pub fn proof(&self) -> &[Hash] {
        &self.proof
    }

    /// The signed checkpoint; unverified.
    #[must_use]
    pub const fn checkpoint(&self) -> &Note {
        &self.checkpoint
    }
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", hash.to_base64()))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for AddCheckpoint {
    type Err = WitnessError;

    fn from_str(text: &str) -> Result<Self, WitnessError> {
        if text.len() > MAX_REQUEST {
            return Err(WitnessError::Request("too long"));
        }
        let (head, checkpoint) = text.split_once("\n\n").ok_or(WitnessError::Request("no empty line"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old ")).and_then(parse_decimal).filter(|old| *old <= MAX_SIZE);
        let old = old.ok_or(WitnessError::Request("bad old size"))?;
        let mut proof = vec![];
        for line in lines {
            if proof.len() == MAX_PROOF {
                return Err(WitnessError::Request("too many hashes"));
            }
            proof.push(Hash::from_base64(line).map_err(|_| WitnessError::Request("bad hash"))?);
        }
        let checkpoint = Note::parse(checkpoint).map_err(CheckpointError::from)?;
        Ok(Self { old, proof, checkpoint })
    }
}

/// What a witness answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200: these lines by the witness's key, verified against the checkpoint that was sent, with the time that it gave.
    Cosigned {
        /// The lines, to be added to the checkpoint.
        lines: Vec<Signature>,
        /// In seconds of Unix time; never 0.
        time: u64,
    },
    /// 400: it does not understand what was sent.
    NotUnderstood,
    /// 403: no signature by a key that it trusts for this log.
    NotTrusted,
    /// 404: it does not know the log.
    UnknownLog,
    /// 409: the last checkpoint that it cosigned has another size. Nobody signs this answer.
    Size(u64),
    /// 422: the proof does not lead from what it cosigned to what was sent. Nobody signs this answer.
    Inconsistent,
}

/// Reads the answer to a request for `checkpoint` by the witness with this key, a key of kind [`KeyKind::Cosignature`]. Lines by
/// other keys are ignored.
pub fn read_answer(status: u16, content_type: Option<&str>, body: &[u8], checkpoint: &Note, key: &VerifierKey) -> Result<Answer, WitnessError> {
    match status {
        200 => cosigned(body, checkpoint, key),
        400 => Ok(Answer::NotUnderstood),
        403 => Ok(Answer::NotTrusted),
        404 => Ok(Answer::UnknownLog),
        409 => {
            let media = content_type.and_then(|given| given.split(';').next()).unwrap_or_default().trim();
            let text = std::str::from_utf8(body).ok().and_then(|text| text.strip_suffix('\n')).and_then(parse_decimal);
            let size = text.filter(|size| *size <= MAX_SIZE && media.eq_ignore_ascii_case(SIZE_TYPE));
            size.map(Answer::Size).ok_or(WitnessError::Size)
        }
        422 => Ok(Answer::Inconsistent),
        other => Err(WitnessError::Status(other)),
    }
}

fn cosigned(body: &[u8], checkpoint: &Note, key: &VerifierKey) -> Result<Answer, WitnessError> {
    if key.kind() != KeyKind::Cosignature {
        return Err(WitnessError::NotCosigned);
    }
    if body.len() > MAX_ANSWER {
        return Err(NoteError::Form("too long").into());
    }
    let text = std::str::from_utf8(body).map_err(|_| NoteError::Form("not text"))?;
    let by_it = |line: &Signature| (line.name(), line.key_id()) == (key.name(), key.id());
    let lines: Vec<_> = parse_signatures(text)?.into_iter().filter(by_it).collect();
    let (Some(first), more) = (lines.first(), lines.iter().skip(1)) else {
        return Err(WitnessError::NotCosigned);
    };
    // Not added to the checkpoint itself, whose own lines are for others to judge.
    let mut claimed = Note::new(checkpoint.text().clone(), first.clone());
    for line in more {
        claimed.add(line.clone())?;
    }
    let time = match claimed.verify(std::slice::from_ref(key))?.as_slice() {
        [note::Verified { time: Some(time), .. }] => *time,
        _ => return Err(WitnessError::NotCosigned),
    };
    //= tlog-witness: the cosignature MUST NOT omit the timestamp, i.e. the timestamp MUST NOT be zero
    if time == 0 {
        return Err(WitnessError::NoTime);
    }
    Ok(Answer::Cosigned { lines: claimed.signatures().to_vec(), time })
}

/// Reads what a witness shows under [`monitor_path`]. That the witness says so proves nothing about the log; that the log's own key
/// signed it does, so this is what is checked, whoever showed it.
pub fn read_shown(body: &[u8], origin: &Origin, log: &VerifierKey) -> Result<(Checkpoint, Note), WitnessError> {
    let text = std::str::from_utf8(body).map_err(|_| CheckpointError::Lines)?;
    let opened = Checkpoint::open(text, origin, log, &[])?;
    Ok((opened.checkpoint, Note::parse(text)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hash::leaf_hash;
    use crate::note::{CosigningKey, SigningKey};
    use crate::tree::{Leaves, consistency_proof, tests::leaves, tests::mth, verify_consistency};

    fn origin() -> Origin {
        "example.com/log".parse().unwrap()
    }

    fn log() -> SigningKey {
        SigningKey::from_seed(origin().key_name().clone(), &[1; 32]).unwrap()
    }

    fn witness() -> CosigningKey {
        CosigningKey::from_seed("witness.example/w".parse().unwrap(), &[2; 32]).unwrap()
    }

    fn head(size: u64) -> Note {
        Checkpoint { origin: origin(), size, root: mth(&leaves(size)) }.sign(&log()).unwrap()
    }

    const EXAMPLE: &str = "old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

\u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
\u{2014} example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
";

    #[test]
    fn the_request_of_the_specification_is_read_and_written() {
        let request: AddCheckpoint = EXAMPLE.parse().unwrap();
        assert_eq!((request.old(), request.proof().len(), request.checkpoint().signatures().len()), (20_852_014, 4, 2));
        assert_eq!(request.to_string(), EXAMPLE);
    }

    #[test]
    fn requests_that_are_not_in_the_form_are_refused() {
        for bad in [
            String::new(),
            EXAMPLE.replace("old 2", "old 02"),
            EXAMPLE.replace("old 2", "old  2"),
            EXAMPLE.replace("old ", "old -"),
            EXAMPLE.replace("old 20852014", "old 9223372036854775808"),
            EXAMPLE.replace("old 20852014\n", ""),
            EXAMPLE.replace("Kj/0=\n", "Kj/0=\nAAAA\n"),
            EXAMPLE.replace("Kj/0=\n\n", "Kj/0=\n"),
            EXAMPLE.replace('\n', "\r\n"),
            format!("old 1\n{}\n{}", format!("{}\n", leaf_hash(b"").to_base64()).repeat(64), head(2)),
            EXAMPLE.strip_suffix('\n').unwrap().to_owned(),
        ] {
            assert!(bad.parse::<AddCheckpoint>().is_err(), "{bad:?}");
        }
        assert!(AddCheckpoint::new(1, vec![leaf_hash(b""); 64], head(2)).is_err());
        assert!(AddCheckpoint::new(1, vec![leaf_hash(b""); 63], head(2)).is_ok());
    }

    #[test]
    fn the_monitoring_path_is_the_hash_of_the_origin_in_hex() {
        // printf %s example.com/log | sha256sum
        assert_eq!(monitor_path(&origin()), "4d3203c8f35cdf600e475f55fede6081a703d3d322f208865fca2ec4f0e030f8/checkpoint");
    }

    #[test]
    fn a_cosignature_is_taken_only_from_the_witness_that_was_asked_and_only_for_what_was_sent() {
        let (sent, key) = (head(7), witness());
        let line = key.cosign(sent.text(), 1_679_315_147).unwrap();
        let stranger = CosigningKey::from_seed("witness.example/w".parse().unwrap(), &[3; 32]).unwrap();
        let noise = stranger.cosign(sent.text(), 5).unwrap();
        let read = |body: String| read_answer(200, None, body.as_bytes(), &sent, key.verifier());
        assert_eq!(read(line.to_string()), Ok(Answer::Cosigned { lines: vec![line.clone()], time: 1_679_315_147 }));
        assert_eq!(read(format!("{noise}{line}")), Ok(Answer::Cosigned { lines: vec![line.clone()], time: 1_679_315_147 }));
        assert_eq!(read(noise.to_string()), Err(WitnessError::NotCosigned));
        assert_eq!(read(key.cosign(sent.text(), 0).unwrap().to_string()), Err(WitnessError::NoTime));
        let of_another = key.cosign(head(8).text(), 5).unwrap();
        assert!(matches!(read(of_another.to_string()), Err(WitnessError::Cosignature(NoteError::Signature(_)))));
        for bad in ["", "\n", "ok\n", line.to_string().trim_end(), &format!("{line}\n")] {
            assert!(read(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert!(read_answer(200, None, &[0xff, b'\n'], &sent, key.verifier()).is_err());
        // The log's own key is no witness's.
        assert_eq!(read_answer(200, None, line.to_string().as_bytes(), &sent, log().verifier()), Err(WitnessError::NotCosigned));
    }

    #[test]
    fn other_answers_are_those_of_the_specification_and_no_others() {
        let (sent, key) = (head(7), witness());
        let read = |status, kind, body: &str| read_answer(status, kind, body.as_bytes(), &sent, key.verifier());
        assert_eq!(read(400, None, "?"), Ok(Answer::NotUnderstood));
        assert_eq!(read(403, None, ""), Ok(Answer::NotTrusted));
        assert_eq!(read(404, None, ""), Ok(Answer::UnknownLog));
        assert_eq!(read(422, None, ""), Ok(Answer::Inconsistent));
        assert_eq!(read(409, Some("text/x.tlog.size"), "12\n"), Ok(Answer::Size(12)));
        assert_eq!(read(409, Some("text/x.tlog.size; charset=utf-8"), "0\n"), Ok(Answer::Size(0)));
        for (kind, body) in [
            (None, "12\n"),
            (Some("text/plain"), "12\n"),
            (Some(SIZE_TYPE), "12"),
            (Some(SIZE_TYPE), "012\n"),
            (Some(SIZE_TYPE), "-1\n"),
            (Some(SIZE_TYPE), "9223372036854775808\n"),
            (Some(SIZE_TYPE), ""),
        ] {
            assert_eq!(read(409, kind, body), Err(WitnessError::Size), "{kind:?} {body:?}");
        }
        for status in [100, 201, 204, 301, 302, 307, 401, 429, 500, 503] {
            assert_eq!(read(status, None, ""), Err(WitnessError::Status(status)));
        }
    }

    #[test]
    fn what_a_witness_shows_counts_only_if_the_log_signed_it() {
        let (mut shown, key) = (head(7), witness());
        let line = key.cosign(shown.text(), 5).unwrap();
        let alone = Note::new(shown.text().clone(), line.clone());
        shown.add(line).unwrap();
        let read = |text: String| read_shown(text.as_bytes(), &origin(), log().verifier());
        assert_eq!(read(shown.to_string()).unwrap().0.size, 7);
        assert_eq!(read(alone.to_string()), Err(WitnessError::Checkpoint(CheckpointError::Note(NoteError::Unsigned))));
        let thief = SigningKey::from_seed(origin().key_name().clone(), &[9; 32]).unwrap();
        let forged = Checkpoint { origin: origin(), size: 70, root: leaf_hash(b"") }.sign(&thief).unwrap();
        assert!(read(forged.to_string()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn requests_go_round_and_carry_a_proof_that_a_witness_can_check(size in 1_u64..3000, at in any::<u64>()) {
            let (all, old) = (leaves(size), at % (size + 1));
            let proof = consistency_proof(&Leaves(&all), old, size).unwrap();
            let request = AddCheckpoint::new(old, proof, head(size)).unwrap();
            let read: AddCheckpoint = request.to_string().parse().unwrap();
            prop_assert_eq!(&read, &request);
            let root = mth(&all[..old as usize]);
            prop_assert_eq!(verify_consistency(old, &root, size, &mth(&all), read.proof()), Ok(()));
        }

        #[test]
        fn no_bytes_of_a_stranger_are_taken_for_a_cosignature(status in 0_u16..700, kind in prop::option::of(".{0,20}"), body in prop::collection::vec(any::<u8>(), 0..300)) {
            let answer = read_answer(status, kind.as_deref(), &body, &head(3), witness().verifier());
            let cosigned = matches!(answer, Ok(Answer::Cosigned { .. }));
            prop_assert!(!cosigned);
        }
    }
}
