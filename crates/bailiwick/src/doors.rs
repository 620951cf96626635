//! How many connections there are at a time, from everywhere and from one address, and a reserve in which people can still revoke and
//! approve when agents hold all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that are served at a time.
const GENERAL_MAX: usize = 4096;
/// Connections beyond these, for one short request each, and not for an agent's.
const RESERVE_MAX: usize = 256;
/// Of the reserve, from one address: a stranger does not take it from the people for whom it is.
const RESERVE_OF_ADDRESS_MAX: usize = 64;
/// Connections from one address, so that no machine takes the places of all others.
const OF_ADDRESS_MAX: usize = 2048;

/// The doors of the house.
#[derive(Debug)]
pub(crate) struct Doors {
    general: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    of_address_max: usize,
    reserve_of_address_max: usize,
    by_address: Counts,
    reserve_by_address: Counts,
}

type Counts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A connection's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    /// It came in by the reserve: only for what people do, and not for long.
    pub(crate) reserve: bool,
    _place: OwnedSemaphorePermit,
    _counted: Counted,
}

impl Default for Doors {
    fn default() -> Self {
        Self::new((GENERAL_MAX, OF_ADDRESS_MAX), (RESERVE_MAX, RESERVE_OF_ADDRESS_MAX))
    }
}

impl Doors {
    /// So many places, and so many of them from one address: of all, and of the reserve.
    fn new((general, of_address_max): (usize, usize), (reserve, reserve_of_address_max): (usize, usize)) -> Self {
        Self {
            general: Arc::new(Semaphore::new(general)),
            reserve: Arc::new(Semaphore::new(reserve)),
            of_address_max,
            reserve_of_address_max,
            by_address: Arc::default(),
            reserve_by_address: Arc::default(),
        }
    }

    /// A place for a connection from this address. `None`: there is none, and the connection is closed.
    pub(crate) fn enter(&self, from: IpAddr) -> Option<Entered> {
        // An address that has many already gets no more of the places of all, but may have one of the reserve.
        if let Some(counted) = count(&self.by_address, from, self.of_address_max)
            && let Ok(place) = Arc::clone(&self.general).try_acquire_owned()
        {
            return Some(Entered { reserve: false, _place: place, _counted: counted });
        }
        let counted = count(&self.reserve_by_address, from, self.reserve_of_address_max)?;
        let place = Arc::clone(&self.reserve).try_acquire_owned().ok()?;
        Some(Entered { reserve: true, _place: place, _counted: counted })
    }
}

fn count(counts: &Counts, from: IpAddr, most: usize) -> Option<Counted> {
    let mut by_address = counts.lock().unwrap_or_else(PoisonError::into_inner);
    let count = by_address.get(&from).copied().unwrap_or_default();
    if count >= most {
        return None;
    }
    by_address.insert(from, count.saturating_add(1));
    Some(Counted { from, by_address: Arc::clone(counts) })
}

/// One connection more from an address, until it is dropped.
#[derive(Debug)]
struct Counted {
    from: IpAddr,
    by_address: Counts,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&self.from) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_address.remove(&self.from);
            }
        }
    }
}

/// What a connection of the reserve is not for: calls, streams and tokens of agents.
pub(crate) fn is_for_agents(path: &str) -> bool {
    crate::mcp::is_mcp(path) || path.starts_with("/oauth/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn when_agents_hold_every_place_there_is_still_one_for_people() {
        let doors = Doors::new((2, 2), (1, 1));
        let held: Vec<Entered> = (1..3).map(|i| doors.enter(address(i)).unwrap()).collect();
        assert!(held.iter().all(|e| !e.reserve));
        let person = doors.enter(address(9)).unwrap();
        assert!(person.reserve);
        assert!(doors.enter(address(9)).is_none());
        drop(held);
        assert!(!doors.enter(address(9)).unwrap().reserve);
    }

    #[test]
    fn one_address_does_not_take_the_places_of_all() {
        let doors = Doors::new((10, 3), (1, 1));
        let held: Vec<Entered> = (0..3).map(|_| doors.enter(address(1)).unwrap()).collect();
        assert!(doors.enter(address(1)).unwrap().reserve);
        assert!(!doors.enter(address(2)).unwrap().reserve);
        drop(held);
        assert!(!doors.enter(address(1)).unwrap().reserve);
        assert!(doors.by_address.lock().unwrap().is_empty());
    }

    #[test]
    fn one_address_does_not_take_the_reserve_from_people_at_others() {
        let doors = Doors::new((2, 2), (8, 3));
        let general: Vec<Entered> = (0..2).map(|_| doors.enter(address(1)).unwrap()).collect();
        let held: Vec<Entered> = std::iter::from_fn(|| doors.enter(address(1))).take(8).collect();
        assert_eq!(held.len(), 3);
        assert!(held.iter().all(|e| e.reserve));
        assert!(doors.enter(address(9)).unwrap().reserve);
        drop((general, held));
        assert!(doors.reserve_by_address.lock().unwrap().is_empty() && doors.by_address.lock().unwrap().is_empty());
    }

    #[test]
    fn the_reserve_is_for_what_people_do() {
        assert!(is_for_agents("/mcp") && is_for_agents("/mcp/s/shop") && is_for_agents("/oauth/token"));
        assert!(!is_for_agents("/v1/tasks/task_1/revoke") && !is_for_agents("/approvals") && !is_for_agents("/healthz"));
    }
}
