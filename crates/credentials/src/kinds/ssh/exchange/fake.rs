//! The other side of a key exchange, for tests: a host that may show one key and sign with another, and then says whatever a test likes.

use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::rand::SystemRandom;
use tokio::net::TcpStream;

use super::{ECDH_REPLY, HostKeys, NEWKEYS, derive, our_offer};
use crate::kinds::ssh::key::Key;
use crate::kinds::ssh::transport::{Cipher, Direction, Transport};
use crate::kinds::ssh::wire::{Reader, put_mpint, put_string};

const OURS: &str = "SSH-2.0-fake";

/// Accepts a client and agrees on keys with it.
pub(in crate::kinds::ssh) async fn accept(stream: TcpStream, shown: &Key, signer: &Key) -> Option<Transport> {
    let (mut transport, theirs) = Transport::open(stream, OURS).await.ok()?;
    let keys = HostKeys::parse(&[shown.public_line()])?;
    let offer = our_offer(&keys, true).ok()?;
    transport.send(&offer).await.ok()?;
    let asked = transport.receive().await.ok()?;
    let init = transport.receive().await.ok()?;
    let point = Reader(init.get(1..)?).string()?;
    let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).ok()?;
    let public = private.compute_public_key().ok()?;
    let shared = agreement::agree_ephemeral(private, UnparsedPublicKey::new(&X25519, point), (), |shared| {
        let mut number = Vec::new();
        put_mpint(&mut number, shared);
        Ok(number)
    });
    let shared = shared.ok()?;
    let mut all = Vec::new();
    for part in [theirs.as_slice(), OURS.as_bytes(), &asked, &offer, &shown.blob(), point, public.as_ref()] {
        put_string(&mut all, part);
    }
    all.extend_from_slice(&shared);
    let hash = digest::digest(&SHA256, &all).as_ref().to_vec();
    let mut reply = vec![ECDH_REPLY];
    for part in [shown.blob().as_slice(), public.as_ref(), &signer.sign(&hash)] {
        put_string(&mut reply, part);
    }
    transport.send(&reply).await.ok()?;
    transport.send(&[NEWKEYS]).await.ok()?;
    let direction = |iv: u8, key: u8| {
        let iv = derive(&shared, &hash, iv, &hash);
        Direction::new(Cipher::Aes256Gcm, &derive(&shared, &hash, key, &hash), iv.first_chunk()?)
    };
    transport.seal_with(direction(b'B', b'D')?);
    (transport.receive().await.ok()? == [NEWKEYS]).then_some(())?;
    transport.open_with(direction(b'A', b'C')?);
    Some(transport)
}
