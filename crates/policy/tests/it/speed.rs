//! How long one question takes. Run in release: `cargo test --release -p bailiwick-policy speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use bailiwick_core::{Effect, Facts, Policy as _};
use bailiwick_policy::{Engine, default_pack};

use crate::world::{Ask, NOW, people, source, tool, world};

fn microseconds(what: &str, times: u32, mut f: impl FnMut()) {
    for _ in 0..times / 10 {
        f();
    }
    let mut rounds: Vec<f64> = (0..11)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..times {
                f();
            }
            start.elapsed().as_secs_f64() * 1e6 / f64::from(times)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{what:<60} {:>8.2} us", rounds[5]);
}

#[test]
#[ignore = "measures, for a person to read"]
fn speed() {
    let mut world = world();
    for i in 0..300 {
        world.tools.push(tool(&format!("big.tool{i}"), Effect::ALL[i % 6], r#"{"properties":{"a":{"type":"string"},"n":{"type":"integer"}}}"#));
    }
    microseconds("Engine::new, default pack, 306 tools", 2, || {
        black_box(Engine::new(&[default_pack()], world.clone()).unwrap());
    });
    let plain = Engine::new(&[default_pack()], world.clone()).unwrap();
    let more = r#"@id("big") forbid (principal, action == Action::"shop.refund_order", resource) when { context.input.cents > 500000 };"#;
    let reading = Engine::new(&[default_pack(), source("more", more)], world).unwrap();
    let none = bailiwick_core::Labels::default();
    let ask = |engine: &Engine, tool: &str, approved: &[&str], what: &str| {
        let call = Ask::new("low", tool, r#"{"order":"1234","cents":1999,"tags":["a","b"]}"#).bound();
        let approved = people(approved);
        microseconds(what, 5000, || {
            black_box(engine.ask(&call, Facts { approved: &approved, now: NOW, calls_before: 3, labels: &none }));
        });
    };
    ask(&plain, "shop.show_order", &[], "ask: a read");
    ask(&plain, "shop.refund_order", &[], "ask: a transfer, not approved");
    ask(&plain, "shop.refund_order", &["ana"], "ask: a transfer, approved");
    ask(&reading, "shop.refund_order", &["ana"], "ask: a transfer, approved, reading an argument");
    let mut i = 0;
    microseconds("ask: first call of a task", 500, || {
        i += 1;
        let call = Ask { purpose: format!("{i}"), ..Ask::new("low", "shop.show_order", "{}") }.bound();
        black_box(plain.ask(&call, Facts { approved: &[], now: NOW, calls_before: 3, labels: &none }));
    });
}
