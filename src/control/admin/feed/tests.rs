use super::*;

fn subscriber(room: usize) -> (Subscriber, mpsc::Receiver<Bytes>) {
    let (queue, queued) = mpsc::channel(room);
    (Subscriber { queue, lost: 0, samples: true, quiet: 0 }, queued)
}

fn text(queued: &mut mpsc::Receiver<Bytes>) -> String {
    let mut text = String::new();
    while let Ok(bytes) = queued.try_recv() {
        text += std::str::from_utf8(&bytes).unwrap();
    }
    text
}

#[test]
fn who_is_slow_is_told_how_many_events_were_left_out() {
    let (mut one, mut queued) = subscriber(2);
    for n in 0..5 {
        assert!(one.deliver(&Bytes::from(format!("{n};"))));
    }
    assert_eq!(text(&mut queued), "0;1;");
    assert!(one.deliver(&Bytes::from("5;")));
    assert_eq!(text(&mut queued), "event: lost\ndata: {\"events\":3}\n\n5;");
    assert!(one.deliver(&Bytes::from("6;")));
    assert_eq!(text(&mut queued), "6;");
    drop(queued);
    assert!(!one.deliver(&Bytes::from("7;")), "nobody reads");
}

#[test]
fn the_last_place_of_a_queue_goes_to_what_was_lost() {
    let (mut one, mut queued) = subscriber(1);
    for n in 0..3 {
        one.deliver(&Bytes::from(format!("{n};")));
    }
    assert_eq!(text(&mut queued), "0;");
    // Room for one: the number comes, and the event that did not fit is counted anew.
    one.deliver(&Bytes::from("3;"));
    assert_eq!(text(&mut queued), "event: lost\ndata: {\"events\":2}\n\n");
    one.deliver(&Bytes::from("4;"));
    assert_eq!(text(&mut queued), "event: lost\ndata: {\"events\":1}\n\n");
}

#[test]
fn who_hears_nothing_for_long_hears_a_comment() {
    let (mut one, mut queued) = subscriber(8);
    for _ in 1..BEAT_SAMPLES {
        one.beat();
    }
    assert_eq!(text(&mut queued), "");
    one.beat();
    assert_eq!(text(&mut queued), ": still here\n\n");
    // What comes in between is a sign of life too.
    for _ in 1..BEAT_SAMPLES {
        one.beat();
    }
    one.deliver(&Bytes::from("0;"));
    for _ in 1..BEAT_SAMPLES {
        one.beat();
    }
    assert_eq!(text(&mut queued), "0;");
}
