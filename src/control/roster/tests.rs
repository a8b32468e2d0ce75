use std::time::Duration;

use super::*;
use crate::config::load::{Options, Source};
use crate::traffic::outcome::Outcome;

fn no_tls() -> watch::Receiver<Arc<Certificates>> {
    watch::channel(Arc::default()).1
}

fn config(backend: &str) -> Config {
    config_of("model", backend)
}

fn config_of(name: &str, backend: &str) -> Config {
    let text = format!(
        "listeners: [{{ name: http, address: 127.0.0.1:8080 }}]\n\
         backends: [{{ name: {name}, {backend} }}]\n\
         routes: [{{ name: r, rules: [{{ name: main, backends: [{{ name: {name} }}] }}] }}]\n"
    );
    Source::of("test.yaml", text).unwrap().load(Options::RUN).unwrap().config
}

fn at(seconds: u64) -> Tick {
    Tick::new(Duration::from_secs(seconds))
}

/// Those that serve, each with the second since which it does.
fn serving(roster: &Roster) -> Vec<(String, Option<u64>)> {
    let serving = roster.serving(&"model".into());
    let second = |since: Option<Tick>| since.map(|tick| tick.since_start().as_secs());
    serving.iter().map(|one| (one.address.to_string(), second(one.since))).collect()
}

fn of(endpoints: &[(&str, Option<u64>)]) -> Vec<(String, Option<u64>)> {
    endpoints.iter().map(|(address, since)| ((*address).to_owned(), *since)).collect()
}

/// In the order in which they were begun.
fn found(roster: &mut Roster, id: u64, addresses: &[&str], second: u64) -> bool {
    let answer = match addresses {
        [] => Err("SERVFAIL".to_owned()),
        some => Ok(some.iter().map(|one| one.parse().unwrap()).collect()),
    };
    roster.take_in(Report::Found(Found { id, answer }), at(second));
    roster.ask();
    roster.settle(at(second))
}

fn asked(roster: &mut Roster, id: u64, is_well: bool, second: u64) -> bool {
    let well = if is_well { Ok(()) } else { Err("status 503".to_owned()) };
    roster.take_in(Report::Health(health::Answer { id, well }), at(second));
    roster.settle(at(second))
}

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";
const C: &str = "10.0.0.3:80";

#[tokio::test]
async fn names_are_followed_and_a_failure_keeps_what_is_known() {
    let config = config("dns: models.svc:80");
    let (mut roster, _reports) = Roster::new(&config, 1, &Arc::default(), Clock::start(), no_tls());
    roster.ask();
    assert!(!roster.is_known() && !roster.is_ready(&"model".into()));
    assert!(found(&mut roster, 0, &[A, B], 1));
    assert!(roster.is_known());
    // Found first: they were there before Serin.
    assert_eq!(serving(&roster), of(&[(A, None), (B, None)]));
    assert!(found(&mut roster, 0, &[B, C], 9));
    assert_eq!(serving(&roster), of(&[(B, None), (C, Some(9))]));
    assert!(!found(&mut roster, 0, &[], 14));
    assert_eq!(serving(&roster), of(&[(B, None), (C, Some(9))]));
    assert_eq!(roster.searches(), [("model".into(), false)]);
    // One that is not asked any more is not heard.
    assert!(!found(&mut roster, 7, &[A], 15));
    assert!(found(&mut roster, 0, &[A, B], 20));
    assert_eq!(serving(&roster), of(&[(B, None), (A, Some(20))]));
    assert_eq!(roster.searches(), [("model".into(), true)]);
}

#[tokio::test]
async fn a_name_that_never_answered_is_known_to_lead_nowhere() {
    let config = config("dns: models.svc:80");
    let (mut roster, _reports) = Roster::new(&config, 1, &Arc::default(), Clock::start(), no_tls());
    roster.ask();
    found(&mut roster, 0, &[], 1);
    assert!(roster.is_known() && !roster.is_ready(&"model".into()));
}

#[tokio::test]
async fn another_name_serves_what_the_old_one_led_to_until_it_has_an_answer() {
    let (mut roster, _reports) =
        Roster::new(&config("dns: one.svc:80"), 1, &Arc::default(), Clock::start(), no_tls());
    roster.ask();
    found(&mut roster, 0, &[A], 1);
    roster.take_over(&config("dns: two.svc:80"), at(5));
    roster.settle(at(5));
    roster.ask();
    assert_eq!(serving(&roster), of(&[(A, None)]));
    assert!(found(&mut roster, 1, &[B], 6));
    assert_eq!(serving(&roster), of(&[(B, Some(6))]));
}

#[tokio::test]
async fn who_came_back_is_new_and_who_was_well_at_the_start_is_not() {
    let config =
        config(&format!("endpoints: [{A}, {B}], health: {{ tcp: true, unhealthy_threshold: 1 }}"));
    let (mut roster, _reports) = Roster::new(&config, 1, &Arc::default(), Clock::start(), no_tls());
    roster.ask();
    assert!(serving(&roster).is_empty());
    assert!(asked(&mut roster, 0, true, 1));
    assert!(!asked(&mut roster, 1, false, 1) && roster.is_known());
    assert_eq!(serving(&roster), of(&[(A, None)]));
    assert!(asked(&mut roster, 1, true, 3) && asked(&mut roster, 0, false, 4));
    assert_eq!(serving(&roster), of(&[(B, Some(3))]));
    assert!(asked(&mut roster, 0, true, 5));
    assert_eq!(serving(&roster), of(&[(A, Some(5)), (B, Some(3))]));
}

#[tokio::test]
async fn who_failed_too_often_is_out_and_comes_back_with_a_clean_record() {
    let config = config(&format!("endpoints: [{A}, {B}]"));
    let (mut roster, _reports) = Roster::new(&config, 2, &Arc::default(), Clock::start(), no_tls());
    let fail = |roster: &Roster, times| {
        let bad = &roster.serving(&"model".into())[0].signs;
        (0..times).for_each(|_| bad.count(1, Outcome::Bad));
    };
    fail(&roster, 4);
    roster.look(at(1));
    assert!(!roster.settle(at(1)));
    fail(&roster, 1);
    roster.look(at(2));
    assert!(roster.settle(at(2)));
    assert_eq!(serving(&roster), of(&[(B, None)]));
    assert!(roster.gauges()[0].is_out);
    // It may still be told of attempts that were under way.
    roster.look(at(11));
    assert!(!roster.settle(at(11)));
    roster.look(at(12));
    assert!(roster.settle(at(12)));
    assert_eq!(serving(&roster), of(&[(A, Some(12)), (B, None)]));
    assert_eq!(roster.serving(&"model".into())[0].signs.ended(), 0);
}

#[tokio::test]
async fn who_is_replaced_serves_until_one_that_is_named_is_well() {
    let checked = |endpoints: &str| {
        config(&format!("endpoints: [{endpoints}], health: {{ tcp: true, interval: 1h }}"))
    };
    let (mut roster, _reports) =
        Roster::new(&checked(A), 1, &Arc::default(), Clock::start(), no_tls());
    roster.ask();
    assert!(asked(&mut roster, 0, true, 1));
    assert_eq!(serving(&roster), of(&[(A, None)]));
    // Another one altogether: nobody knows yet whether it is well.
    roster.take_over(&checked(B), at(10));
    roster.ask();
    roster.settle(at(10));
    assert_eq!(serving(&roster), of(&[(A, None)]));
    assert!(asked(&mut roster, 1, true, 11));
    assert_eq!(serving(&roster), of(&[(B, Some(11))]));
    // And one that turns out to be unwell does not keep the old one for ever.
    roster.take_over(&checked(C), at(20));
    roster.ask();
    roster.settle(at(20));
    assert_eq!(serving(&roster), of(&[(B, Some(11))]));
    for second in 21..24 {
        asked(&mut roster, 2, false, second);
    }
    assert_eq!(serving(&roster), of(&[]));
}

#[tokio::test]
async fn an_empty_list_and_other_thresholds_are_taken_as_they_are() {
    let checked = |endpoints: &str, more: &str| {
        config(&format!("endpoints: [{endpoints}], health: {{ tcp: true, {more} }}"))
    };
    let two = "unhealthy_threshold: 2, interval:";
    let (mut roster, _reports) = Roster::new(
        &checked(A, &format!("{two} 2h")),
        1,
        &Arc::default(),
        Clock::start(),
        no_tls(),
    );
    roster.ask();
    assert!(asked(&mut roster, 0, true, 1));
    // Asked at another interval, one bad answer is still one too few.
    roster.take_over(&checked(A, &format!("{two} 1h")), at(2));
    roster.ask();
    assert!(!asked(&mut roster, 1, false, 3));
    assert_eq!(serving(&roster), of(&[(A, None)]));
    assert!(asked(&mut roster, 1, false, 4));
    assert!(asked(&mut roster, 1, true, 5) || asked(&mut roster, 1, true, 6));
    assert_eq!(serving(&roster).len(), 1);
    // Nobody is waited for.
    roster.take_over(&checked("", "interval: 1h"), at(10));
    roster.settle(at(10));
    assert_eq!(serving(&roster), of(&[]));
}

#[tokio::test]
async fn what_is_known_goes_on_under_another_name_if_the_question_is_the_same() {
    let checked = |name: &str, path: &str| {
        config_of(name, &format!("endpoints: [{A}], health: {{ path: {path}, interval: 1h }}"))
    };
    let (mut roster, _reports) =
        Roster::new(&checked("old", "/a"), 1, &Arc::default(), Clock::start(), no_tls());
    roster.ask();
    asked(&mut roster, 0, true, 1);
    roster.take_over(&checked("model", "/a"), at(10));
    roster.settle(at(10));
    assert_eq!(serving(&roster), of(&[(A, Some(10))]));
    roster.take_over(&checked("third", "/b"), at(20));
    roster.settle(at(20));
    assert!(!roster.is_ready(&"third".into()));
}

#[tokio::test]
async fn who_is_out_is_back_when_nobody_is_taken_out_any_more() {
    let rules = "ejection: { consecutive_failures: 1, max_share: 100% }";
    let two = format!("endpoints: [{A}, {B}]");
    let first = config(&format!("{two}, {rules}"));
    let (mut roster, _reports) = Roster::new(&first, 1, &Arc::default(), Clock::start(), no_tls());
    roster.serving(&"model".into())[0].signs.count(0, Outcome::Bad);
    roster.look(at(1));
    roster.settle(at(1));
    assert_eq!(serving(&roster), of(&[(B, None)]));
    roster.take_over(&config(&format!("{two}, ejection: off")), at(2));
    roster.settle(at(2));
    assert_eq!(serving(&roster).len(), 2);
}

#[tokio::test]
async fn a_backend_is_young_while_one_that_serves_is() {
    let config = config("dns: models.svc:80");
    let (mut roster, _reports) = Roster::new(&config, 1, &Arc::default(), Clock::start(), no_tls());
    roster.ask();
    found(&mut roster, 0, &[A, B], 1);
    let young =
        |roster: &Roster, second| roster.has_young(&"model".into(), WarmUp::default(), at(second));
    assert!(!young(&roster, 2), "they were there before Serin");
    found(&mut roster, 0, &[B, C], 9);
    assert!(young(&roster, 10) && young(&roster, 128) && !young(&roster, 129));
    let signs = &roster.serving(&"model".into())[1].signs;
    (0..20).for_each(|_| signs.count(0, Outcome::Good));
    assert!(young(&roster, 38) && !young(&roster, 39), "it has answered enough");
    let never = WarmUp { time: Duration::ZERO, requests: 0 };
    assert!(!roster.has_young(&"model".into(), never, at(9)));
    found(&mut roster, 0, &[B], 40);
    assert!(!young(&roster, 41));
}
