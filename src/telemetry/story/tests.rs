use super::*;
use crate::telemetry::counts::LegKey;

struct World {
    telling: Arc<Telling>,
    ends: Vec<Receiver<Told>>,
}

fn world(share: f64, bad_per_second: u32, lines: Option<f64>) -> World {
    let (outlets, ends) = Outlets::new(1);
    let ratio = |value| Ratio::new(value).unwrap();
    let traces = Some(Traces { share: ratio(share), bad_per_second });
    let headers = vec![HeaderName::from_static("x-tenant")];
    let lines = lines.map(|share| Lines { share: ratio(share), headers });
    World { telling: Arc::new(Telling { traces, lines, outlets }), ends }
}

fn end(code: u16, outcome: Outcome) -> End {
    let key = LegKey { route: "r".into(), rule: "m".into(), backend: "b".into() };
    let leg = Some(Arc::new(Leg::new(key, 1)));
    End { leg, at: Tick::default(), code, outcome, failure: None, received: 0, sent: 0 }
}

impl World {
    fn request(&self, traceparent: Option<&str>, is_trusted: bool) -> (Rc<Story>, Fields) {
        let mut head = RequestHead::new(Method::GET, "/a?secret=1".parse().unwrap());
        head.fields = Fields::of(&[("x-tenant", "t1")]);
        if let Some(value) = traceparent {
            head.fields.insert(Known::Traceparent, value);
        }
        let from = From { client: [127, 0, 0, 1].into(), is_encrypted: false, is_trusted };
        let clock = Clock::start();
        let story = Story::begin(&self.telling, (0, clock), &head, from, clock.now());
        (story, head.fields)
    }

    fn told(&self) -> Option<Box<ToldRequest>> {
        match self.ends[0].try_recv().ok()? {
            Told::Request(one) => Some(one),
            Told::Copy(_) | Told::Refused(_) => None,
        }
    }
}

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

#[test]
fn a_parents_word_counts_if_it_is_trusted_else_the_share_does() {
    for (share, parent, trusted, is_told) in [
        (0.0, Some(SAMPLED), true, true),
        (0.0, Some(SAMPLED), false, false),
        (1.0, Some(UNSAMPLED), true, false),
        (1.0, None, true, true),
        (0.0, None, true, false),
    ] {
        let world = world(share, 0, None);
        let (story, mut fields) = world.request(parent, trusted);
        let tale = story.attempt(&mut fields, Why::First);
        tale.end(end(200, Outcome::Good), true);
        let sent = fields.get(Known::Traceparent).and_then(TraceContext::parse).unwrap();
        assert_eq!(sent.sampled, is_told, "{parent:?} {trusted}");
        drop(story);
        let told = world.told();
        assert_eq!(told.is_some(), is_told, "{parent:?} {trusted}");
        if let Some(told) = told {
            assert_eq!(told.attempts[0].span, sent.span);
            assert_eq!(told.context.trace, sent.trace);
        }
        if parent.is_some() {
            assert_eq!(sent.trace, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
            assert_ne!(sent.span, 0xb7ad_6b71_6920_3331);
        }
    }
}

#[test]
fn nobody_gets_a_place_among_the_told_by_the_trace_that_he_chooses() {
    // Of all that there are, the one that is told of at any share.
    let chosen = "00-00000000000000010000000000000000-b7ad6b7169203331-00";
    let told = |is_trusted| {
        let world = world(0.01, 0, None);
        let all = (0..500).filter(|_| {
            let (story, mut fields) = world.request(Some(chosen), is_trusted);
            let tale = story.attempt(&mut fields, Why::First);
            tale.end(end(200, Outcome::Good), true);
            story.end(end(200, Outcome::Good));
            world.told().is_some()
        });
        all.count()
    };
    assert!(told(false) < 50, "{} of 500 at 1 %", told(false));
}

#[test]
fn bad_ones_are_told_at_a_bounded_rate() {
    let world = world(0.0, 3, None);
    for _ in 0..1000 {
        let (story, mut fields) = world.request(None, true);
        story.attempt(&mut fields, Why::First).end(end(500, Outcome::Bad), false);
        story.attempt(&mut fields, Why::Failover).end(end(200, Outcome::Good), true);
    }
    let told: Vec<_> = std::iter::from_fn(|| world.told()).collect();
    // The second may end while the test runs.
    assert!((3..=6).contains(&told.len()), "{}", told.len());
    assert!(told.iter().all(|one| one.attempts.len() == 2 && one.end.code == 200));
}

#[test]
fn bad_ones_have_a_line_whatever_the_share_and_no_query() {
    let world = world(0.0, 0, Some(0.0));
    drop(world.request(None, true));
    assert!(world.told().is_none());
    let (story, _) = world.request(None, true);
    story.end(end(503, Outcome::Neutral));
    drop(story);
    let told = world.told().unwrap();
    assert!(told.is_logged && !told.is_traced);
    assert_eq!((told.path.as_str(), told.fields.len()), ("/a", 1));
}

#[test]
fn what_finds_no_room_is_counted() {
    let world = world(1.0, 0, Some(1.0));
    for _ in 0..QUEUE_MAX + 5 {
        let (story, mut fields) = world.request(None, true);
        story.attempt(&mut fields, Why::First).end(end(200, Outcome::Good), true);
    }
    assert_eq!(world.telling.outlets.lines_dropped(), 5);
    assert_eq!(world.telling.outlets.spans_dropped(), 10);
}

#[test]
fn a_copy_has_a_trace_of_its_own_that_leads_back() {
    let world = world(1.0, 0, None);
    let (story, mut fields) = world.request(None, true);
    let leg = end(200, Outcome::Good).leg.unwrap();
    let tale = story.copy((&mut fields, &Method::GET), leg, ([127, 0, 0, 1], 1).into());
    tale.unwrap().end("ok", Some(200));
    let Ok(Told::Copy(copy)) = world.ends[0].try_recv() else { panic!("no copy") };
    drop(story);
    let request = world.told().unwrap();
    assert_eq!(fields.get(Known::Traceparent).and_then(TraceContext::parse), Some(copy.context));
    assert_eq!((copy.of.trace, copy.of.span), (request.context.trace, request.span));
    assert_ne!(copy.context.trace, request.context.trace);
}
