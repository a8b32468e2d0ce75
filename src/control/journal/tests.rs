use super::*;
use crate::rollout::judge::SlotCounts;
use crate::rollout::machine::Word;
use crate::rollout::record::{Change, parse};
use crate::units::Tick;

fn record(rollout: &str, what: What) -> Record {
    Record {
        at: "2026-11-21T10:00:00Z".to_owned(),
        tick: 0,
        rollout: rollout.to_owned(),
        version: "1".to_owned(),
        what,
    }
}

fn told(rollout: &str) -> Record {
    record(rollout, What::Told { word: Word::Pause, by: None })
}

fn changed(state: &str) -> Record {
    record(
        "chat",
        What::Changed(Change {
            state: state.to_owned(),
            step: None,
            share: 0.0,
            hold_reason: None,
            reason: None,
            objective: None,
            config: String::new(),
            objectives: Vec::new(),
            failing: Vec::new(),
        }),
    )
}

fn slot(journal: &mut Journal, rollout: &str) {
    let head = record(rollout, What::Slots { slots: Vec::new() });
    journal.slot(head, Packed::new(Tick::ZERO, &SlotCounts::default()));
}

fn kinds(path: &Path) -> Vec<&'static str> {
    let (records, broken) = parse(&fs::read(path).unwrap());
    assert_eq!(broken, 0);
    let kind = |record: &Record| match &record.what {
        What::Slots { .. } => "slots",
        What::Changed(_) => "changed",
        What::Told { .. } => "told",
        _ => "other",
    };
    records.iter().map(kind).collect()
}

#[test]
fn slots_are_written_before_what_came_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("serin-state.json");
    let mut journal = Journal::open(Some(&state));
    slot(&mut journal, "chat");
    slot(&mut journal, "chat");
    slot(&mut journal, "other");
    let path = folder.path().join("serin-state.journal");
    assert_eq!(kinds(&path), [""; 0]);
    journal.write(changed("holding"));
    assert_eq!(kinds(&path), ["slots", "slots", "changed"]);
    (0..SLOTS_MAX).for_each(|_| slot(&mut journal, "chat"));
    assert_eq!(kinds(&path).len(), 4, "a full batch does not wait");
}

#[test]
fn what_was_told_is_there_after_a_restart_wherever_a_crash_has_cut() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.json");
    let path = path_of(&state);
    let mut journal = Journal::open(Some(&state));
    journal.write(told("chat"));
    journal.write(changed("aborted"));
    drop(journal);
    let whole = fs::read(&path).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap();
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let mut journal = Journal::open(Some(&state));
        let kept = usize::from(cut >= first) + usize::from(cut + 1 >= whole.len());
        assert_eq!(journal.told().len(), kept, "{cut}");
        journal.write(told("after"));
        let (records, broken) = parse(&fs::read(&path).unwrap());
        assert_eq!(records.last().unwrap().rollout, "after");
        assert!(broken <= 1 && records.len() == kept + 1, "{cut}");
    }
}

#[test]
fn it_never_grows_without_bound() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.journal");
    let mut journal = Journal::open_bounded(Some(path.clone()), 2000);
    let mut turns = 0;
    for _ in 0..1000 {
        journal.write(told("chat"));
        turns += u32::from(journal.rotate().is_some());
    }
    assert!(turns > 10);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    for file in fs::read_dir(folder.path()).unwrap() {
        assert!(file.unwrap().metadata().unwrap().len() < 2200);
    }
    assert_eq!(journal.told().len(), TOLD_MAX);
}

#[test]
fn a_disk_that_is_full_or_gone_stops_nobody() {
    for path in ["/dev/full", "/proc/none/state.journal"] {
        let mut journal = Journal::open_bounded(Some(PathBuf::from(path)), 2000);
        journal.write(told("chat"));
        journal.write(changed("aborted"));
        assert_eq!(journal.told().len(), 2);
    }
    let mut nowhere = Journal::open(None);
    nowhere.write(changed("aborted"));
    assert_eq!(nowhere.told().len(), 1);
}
