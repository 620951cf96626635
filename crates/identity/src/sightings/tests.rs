//! Tests of the sightings, against a model that remembers everything.
use super::*;
use proptest::prelude::*;

const WINDOW: Duration = Duration::from_secs(300);

fn agent() -> AgentName {
    "planner".parse().unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_800_000_000 + seconds)
}

fn token(n: u8) -> Used {
    Used::Token(SessionId::from_bytes([n; 16]))
}

fn place(address: &str, copy: u8) -> Place {
    Place { address: address.parse().unwrap(), instance: InstanceId::from_bytes([copy; 16]) }
}

#[test]
fn one_token_from_two_addresses_within_the_window_is_told_once() {
    let mut sightings = Sightings::new(WINDOW);
    assert_eq!(sightings.see(&agent(), token(1), place("10.0.0.1", 1), at(0)), None);
    let told = sightings.see(&agent(), token(1), place("10.0.0.2", 2), at(10)).unwrap();
    assert_eq!((told.used, told.before, told.before_at), (token(1), place("10.0.0.1", 1), at(0)));
    assert_eq!((told.now, told.now_at), (place("10.0.0.2", 2), at(10)));
    let words = told.to_string();
    assert!(words.contains("`planner`") && words.contains("10.0.0.1") && words.contains("10.0.0.2"), "{words}");
    for second in 11..100 {
        let address = if second % 2 == 0 { "10.0.0.1" } else { "10.0.0.2" };
        assert_eq!(sightings.see(&agent(), token(1), place(address, if second % 2 == 0 { 1 } else { 2 }), at(second)), None);
    }
    assert!(sightings.see(&agent(), token(1), place("10.0.0.3", 3), at(101)).is_some(), "a third place is a new pair");
}

#[test]
fn it_is_told_again_after_a_window() {
    let mut sightings = Sightings::new(WINDOW);
    sightings.see(&agent(), token(1), place("10.0.0.1", 1), at(0));
    assert!(sightings.see(&agent(), token(1), place("10.0.0.2", 2), at(10)).is_some());
    assert_eq!(sightings.see(&agent(), token(1), place("10.0.0.1", 1), at(309)), None);
    assert!(sightings.see(&agent(), token(1), place("10.0.0.2", 2), at(310)).is_some());
}

#[test]
fn moving_after_the_window_is_no_incident() {
    let mut sightings = Sightings::new(WINDOW);
    sightings.see(&agent(), token(1), place("10.0.0.1", 1), at(0));
    assert_eq!(sightings.see(&agent(), token(1), place("10.0.0.2", 2), at(300)), None);
}

#[test]
fn one_running_copy_at_two_addresses_is_told_even_with_fresh_tokens() {
    let mut sightings = Sightings::new(WINDOW);
    sightings.see(&agent(), token(1), place("10.0.0.1", 7), at(0));
    let told = sightings.see(&agent(), token(2), place("10.0.0.2", 7), at(1)).unwrap();
    assert_eq!(told.used, Used::Instance(InstanceId::from_bytes([7; 16])));
}

#[test]
fn two_copies_on_one_host_and_two_spellings_of_a_host_are_one_place() {
    let mut sightings = Sightings::new(WINDOW);
    sightings.see(&agent(), token(1), place("127.0.0.1", 1), at(0));
    for (address, copy) in [("::1", 1), ("127.0.0.1", 2), ("127.0.0.9", 1), ("::ffff:127.0.0.1", 3)] {
        assert_eq!(sightings.see(&agent(), token(1), place(address, copy), at(1)), None, "{address}");
    }
    sightings.see(&agent(), token(2), place("10.0.0.1", 5), at(2));
    assert_eq!(sightings.see(&agent(), token(2), place("::ffff:10.0.0.1", 5), at(3)), None);
}

proptest! {
    #[test]
    fn it_tells_what_a_model_with_endless_memory_tells(steps in proptest::collection::vec((0u8..3, 0u8..4, 0i64..200), 1..60)) {
        let mut sightings = Sightings::new(WINDOW);
        let mut seen: Vec<(Used, IpAddr, Timestamp)> = Vec::new();
        let mut told: Vec<(Used, IpAddr, IpAddr, Timestamp)> = Vec::new();
        let mut now = at(0);
        for (n, host, step) in steps {
            now = now.plus(Duration::from_secs(u64::try_from(step).unwrap()));
            // A fresh copy for each address, so that only the token is in two places.
            let here = place(&format!("10.0.0.{host}"), 100 + n * 10 + host);
            let used = token(n);
            let fresh = |at: Timestamp| at > now.minus(WINDOW);
            let known = |other: IpAddr, told: &[(Used, IpAddr, IpAddr, Timestamp)]| {
                told.iter().any(|(u, a, b, t)| *u == used && fresh(*t) && ((*a, *b) == (other, here.address) || (*b, *a) == (other, here.address)))
            };
            let other = seen.iter().rev().find(|(u, a, t)| *u == used && *a != here.address && fresh(*t) && !known(*a, &told)).map(|(_, a, _)| *a);
            let told_now = sightings.see(&agent(), used, here, now);
            prop_assert_eq!(told_now.as_ref().map(|t| t.before.address), other);
            if let Some(other) = other {
                told.push((used, other, here.address, now));
            }
            seen.push((used, here.address, now));
        }
    }

    #[test]
    fn memory_stays_within_its_bound(steps in proptest::collection::vec((any::<u8>(), any::<u32>(), 0u64..5), 1..200)) {
        let mut sightings = Sightings::bounded(WINDOW, 10);
        let mut now = at(0);
        for (n, address, step) in steps {
            now = now.plus(Duration::from_secs(step));
            let here = Place { address: IpAddr::V4(address.into()), instance: InstanceId::from_bytes([n; 16]) };
            sightings.see(&agent(), token(n), here, now);
            prop_assert!(sightings.remembered() <= 10);
            prop_assert_eq!(sightings.order.len(), sightings.seen.len());
            prop_assert!(sightings.seen.values().all(|s| s.places.len() <= PLACES_MAX && s.told.len() <= PLACES_MAX * PLACES_MAX));
        }
    }
}
