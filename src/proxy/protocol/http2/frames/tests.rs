use super::*;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

fn feed(frames: &mut Frames, bytes: &[u8], step: usize) -> Result<Vec<(u8, usize)>, Reason> {
    let mut found = Vec::new();
    for piece in bytes.chunks(step) {
        let fed = frames.feed(piece, |frame| found.push((frame.kind, frame.length)));
        fed.map_err(|wrong| wrong.reason)?;
    }
    Ok(found)
}

#[test]
fn frames_are_found_in_pieces_of_any_size() {
    let sent = [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1, 0, 4, 0, 0, 0, 2]),
        frame(HEADERS, 0, 1, b"abc"),
        frame(CONTINUATION, END_HEADERS, 1, b"de"),
        frame(DATA, END_STREAM, 1, &[0; 200]),
    ]
    .concat();
    for step in 1..30 {
        let mut frames = Frames::from_preface();
        let all = vec![(SETTINGS, 12), (HEADERS, 3), (CONTINUATION, 2), (DATA, 200)];
        assert_eq!(feed(&mut frames, &sent, step), Ok(all), "in steps of {step}");
        assert!(frames.is_whole());
    }
}

#[test]
fn a_head_is_whole_with_its_last_byte() {
    let fields = frame(CONTINUATION, END_HEADERS, 1, b"de");
    let sent = [frame(HEADERS, 0, 1, b"abc"), fields].concat();
    let mut frames = Frames::from_preface();
    feed(&mut frames, PREFACE, 24).unwrap();
    for byte in &sent[..sent.len() - 1] {
        feed(&mut frames, &[*byte], 1).unwrap();
        assert!(!frames.is_whole());
    }
    feed(&mut frames, &sent[sent.len() - 1..], 1).unwrap();
    assert!(frames.is_whole() && frames.fields().is_some());
}

#[test]
fn what_may_not_be_has_its_own_code_and_is_held_back() {
    let open = frame(HEADERS, END_HEADERS, 1, b"a");
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"a");
    let reset = frame(RST_STREAM, 0, 1, &[0; 4]);
    for (before, last, code) in [
        (vec![], frame(PING, 0, 0, &[0; 6]), Some(Reason::FRAME_SIZE_ERROR)),
        (vec![], frame(SETTINGS, ACK, 0, &[0; 6]), Some(Reason::FRAME_SIZE_ERROR)),
        (vec![], frame(CONTINUATION, 0, 1, b"a"), Some(Reason::PROTOCOL_ERROR)),
        (vec![&request], frame(DATA, 0, 1, b"a"), Some(Reason::STREAM_CLOSED)),
        (vec![&request], request.clone(), Some(Reason::STREAM_CLOSED)),
        (vec![&open, &reset], frame(DATA, 0, 1, b"a"), Some(Reason::STREAM_CLOSED)),
        (vec![&open], frame(DATA, END_STREAM, 1, b"a"), None),
        (vec![&open], frame(HEADERS, END_STREAM | END_HEADERS, 1, b"a"), None),
        (vec![], frame(HEADERS, END_HEADERS, 0, b"a"), Some(Reason::PROTOCOL_ERROR)),
        (vec![], frame(HEADERS, END_HEADERS, 2, b"a"), Some(Reason::PROTOCOL_ERROR)),
        (vec![], frame(PING, 0, 1, &[0; 8]), Some(Reason::PROTOCOL_ERROR)),
        (vec![], frame(PUSH_PROMISE, 0, 1, &[0; 8]), Some(Reason::PROTOCOL_ERROR)),
        (vec![], frame(RST_STREAM, 0, 1, &[0; 4]), Some(Reason::PROTOCOL_ERROR)),
        (vec![], frame(WINDOW_UPDATE, 0, 1, &[1; 4]), Some(Reason::PROTOCOL_ERROR)),
        // A window, a priority and a reset may be late.
        (vec![&request], frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), None),
        (vec![&request], reset.clone(), None),
    ] {
        let mut frames = Frames::from_preface();
        let before = [PREFACE.to_vec(), before.into_iter().flatten().copied().collect()];
        frames.feed(&before.concat(), |_| {}).unwrap();
        let fed = frames.feed(&last, |_| {});
        let wrong = code.map(|reason| Wrong { reason, good: HEAD_BYTES - 1 });
        assert_eq!(fed.err(), wrong, "{last:?}");
    }
}

#[test]
fn a_window_beyond_its_limit_is_held_back() {
    let mut frames = Frames::from_preface();
    let sent = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])].concat();
    let wrong = Wrong { reason: Reason::FLOW_CONTROL_ERROR, good: sent.len() - 1 };
    assert_eq!(frames.feed(&sent, |_| {}), Err(wrong));
}

#[test]
fn payloads_that_may_not_be_are_held_back() {
    let protocol = Some(Reason::PROTOCOL_ERROR);
    let open = frame(HEADERS, END_HEADERS, 1, b"a");
    let trailers = |flags, payload: &[u8]| frame(HEADERS, flags | 5, 1, payload);
    for (sent, reason) in [
        (frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]), protocol),
        (frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff]), protocol),
        (frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1, 0, 5, 1, 0, 0, 0]), protocol),
        (frame(SETTINGS, 0, 0, &[0, 5, 0, 0xff, 0xff, 0xff]), None),
        (frame(DATA, PADDED, 1, &[2, b'x']), protocol),
        (frame(DATA, PADDED, 1, &[1, b'x']), None),
        (trailers(0, &[0x83]), protocol),
        (trailers(0, &[0x44, 1, b'/']), protocol),
        (trailers(0, &[0x00, 7, b':', b'm']), protocol),
        (trailers(0, &[0x40, 0x85, 0xb9, 0x58]), protocol),
        (trailers(PADDED | RANKED, &[0, 0, 0, 0, 0, 1, 0x83]), protocol),
        (trailers(0, &[0x00, 1, b'x', 1, b'y']), None),
        (frame(WINDOW_UPDATE, 0, 1, &[0x80, 0, 0, 0]), protocol),
        (frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), None),
        (trailers(0, &[0x90]), None),
        (trailers(0, &[0x5f, 1, b'x']), None),
    ] {
        for step in 1..20 {
            let mut frames = Frames::from_preface();
            let all = [PREFACE.to_vec(), open.clone(), sent.clone()].concat();
            assert_eq!(feed(&mut frames, &all, step).err(), reason, "{sent:?} by {step}");
        }
    }
}

#[test]
fn what_is_known_of_streams_has_a_bound() {
    let mut streams = Streams::default();
    for n in 0..10_000 {
        let frame = Frame { kind: HEADERS, flags: 0, stream: 2 * n + 1, length: 1 };
        streams.take(frame).unwrap();
        let ended = Frame { flags: END_STREAM, stream: 2 * n + 1, ..frame };
        if n % 2 == 0 {
            streams.take(ended).unwrap();
        }
    }
    assert_eq!((streams.open.len(), streams.ended.len()), (OPEN_MAX, ENDED_MAX));
    // Of the oldest nothing is known, so nothing is held against them.
    let late = Frame { kind: DATA, flags: 0, stream: 1, length: 1 };
    assert_eq!(streams.take(late), Ok(()));
}
