//! One identity seen from two places at once: a state machine over what was seen, bounded in memory. It decides nothing; it tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bailiwick_core::{AgentName, InstanceId, SessionId, Timestamp};

use crate::keys::KeyId;

/// Identities that are remembered.
pub const REMEMBERED_MAX: usize = 20_000;
/// Addresses that are remembered of one identity.
const PLACES_MAX: usize = 8;

/// What can be in one place only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Used {
    /// A key of an agent.
    Key(KeyId),
    /// A token, by its `jti`.
    Token(SessionId),
    /// A running copy of an agent.
    Instance(InstanceId),
}

/// Where something was used from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The peer's address as the listener saw it.
    pub address: IpAddr,
    /// The running copy that said it used it.
    pub instance: InstanceId,
}

/// One identity in two places within the window: an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwoPlaces {
    /// The agent.
    pub agent: AgentName,
    /// What was in two places.
    pub used: Used,
    /// Where it was before.
    pub before: Place,
    /// When it was last seen there.
    pub before_at: Timestamp,
    /// Where it is now.
    pub now: Place,
    /// When: now.
    pub now_at: Timestamp,
}

impl fmt::Display for TwoPlaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (was, is) = (&self.before, &self.now);
        write!(
            f,
            "{} of agent `{}` was used from {} ({}) at {} and from {} ({}) at {}",
            self.used, self.agent, was.address, was.instance, self.before_at, is.address, is.instance, self.now_at
        )
    }
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "key {id}"),
            Self::Token(id) => write!(f, "token {id}"),
            Self::Instance(id) => write!(f, "instance {id}"),
        }
    }
}

/// What was seen lately. Each identity is remembered for one window after it was last seen.
#[derive(Debug)]
pub struct Sightings {
    window: Duration,
    most: usize,
    seen: BTreeMap<Used, Seen>,
    /// By when it was last seen, so that the oldest is found at once.
    order: BTreeSet<(Timestamp, Used)>,
}

#[derive(Debug, Default)]
struct Seen {
    last: Timestamp,
    places: Vec<(Place, Timestamp)>,
    /// Pairs that were told, with the time; the smaller address first.
    told: BTreeMap<(IpAddr, IpAddr), Timestamp>,
}

impl Sightings {
    /// Two places within `window` (usually the life of a token) are an incident. At most [`REMEMBERED_MAX`] identities are
    /// remembered: beyond that the one that was not seen for longest is forgotten.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self::bounded(window, REMEMBERED_MAX)
    }

    /// As [`Sightings::new`], with another bound.
    #[must_use]
    pub fn bounded(window: Duration, most: usize) -> Self {
        Self { window, most: most.max(2), seen: BTreeMap::new(), order: BTreeSet::new() }
    }

    /// Notes that a proved identity was used, and tells if it, or the running copy, was elsewhere within the window. Each pair of
    /// addresses is told once in a window.
    pub fn see(&mut self, agent: &AgentName, used: Used, place: Place, now: Timestamp) -> Option<TwoPlaces> {
        let place = Place { address: host(place.address), ..place };
        let instance = Used::Instance(place.instance);
        let first = self.note(used, place, now);
        let second = if used == instance { None } else { self.note(instance, place, now) };
        let (used, (before, before_at)) = first.map(|b| (used, b)).or_else(|| second.map(|b| (instance, b)))?;
        Some(TwoPlaces { agent: agent.clone(), used, before, before_at, now: place, now_at: now })
    }

    /// How many identities are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.seen.len()
    }

    fn note(&mut self, used: Used, place: Place, now: Timestamp) -> Option<(Place, Timestamp)> {
        let horizon = now.minus(self.window);
        self.forget(&used, horizon);
        let seen = self.seen.entry(used).or_default();
        self.order.remove(&(seen.last, used));
        seen.last = seen.last.max(now);
        self.order.insert((seen.last, used));
        seen.see(place, now, horizon)
    }

    /// Forgets what is older than the window, and makes room for one that is not there yet.
    fn forget(&mut self, used: &Used, horizon: Timestamp) {
        let wanted = if self.seen.contains_key(used) { self.most } else { self.most.saturating_sub(1) };
        while let Some((at, oldest)) = self.order.first().copied() {
            if at > horizon && self.seen.len() <= wanted {
                return;
            }
            self.order.remove(&(at, oldest));
            self.seen.remove(&oldest);
        }
    }
}

impl Seen {
    /// The last other place within the window, unless this pair was told within the window.
    fn see(&mut self, place: Place, now: Timestamp, horizon: Timestamp) -> Option<(Place, Timestamp)> {
        self.places.retain(|(_, at)| *at > horizon);
        self.told.retain(|_, at| *at > horizon);
        self.places.retain(|(other, _)| other.address != place.address);
        let pair = |other: IpAddr| (other.min(place.address), other.max(place.address));
        let news = self.places.iter().rev().find(|(other, _)| !self.told.contains_key(&pair(other.address))).copied();
        if let Some((other, _)) = news {
            self.told.insert(pair(other.address), now);
        }
        if self.places.len() >= PLACES_MAX {
            self.places.remove(0);
        }
        self.places.push((place, now));
        while self.told.len() > PLACES_MAX.saturating_mul(PLACES_MAX) {
            self.told.pop_first();
        }
        news
    }
}

/// The host of an address: every loopback address is this host, and an IPv4 address is the same when written as IPv6.
fn host(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    if address.is_loopback() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address }
}

#[cfg(test)]
mod tests;
