use super::*;
use proptest::prelude::*;

const RECORD: usize = 3;

fn record(value: u64) -> [f32; RECORD] {
    [value as f32, value as f32 + 0.25, -(value as f32)]
}

fn contents(ring: &mut Ring) -> Vec<u64> {
    (0..ring.len())
        .map(|index| {
            let mut found = [0.0; RECORD];
            ring.read(index, &mut found).unwrap();
            assert_eq!(found, record(found[0] as u64));
            found[0] as u64
        })
        .collect()
}

#[test]
fn the_oldest_leaves_when_it_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let mut ring =
        Ring::create(&folder.path().join("b.ring"), RingSpec::new(RECORD, 4, 100)).unwrap();
    assert!(ring.is_empty());
    for value in 0..11 {
        ring.append(&record(value)).unwrap();
    }
    assert_eq!(contents(&mut ring), [7, 8, 9, 10]);
    assert_eq!(ring.head(), 11);
    assert!(ring.read(4, &mut [0.0; RECORD]).is_err());
    assert!(ring.append(&[0.0]).is_err());
}

#[test]
fn a_mark_survives_any_number_of_later_appends_at_twice_the_capacity() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.ring");
    let spec = RingSpec::new(RECORD, 4, usize::MAX);
    assert_eq!(spec.slots, 8);
    let mut ring = Ring::create(&path, spec).unwrap();
    for value in 0..6 {
        ring.append(&record(value)).unwrap();
    }
    let mark = ring.mark().unwrap();
    ring.release_before(mark).unwrap();
    for value in 100..150 {
        ring.append(&record(value)).unwrap();
    }
    assert_eq!(contents(&mut ring), [146, 147, 148, 149]);
    drop(ring);
    let mut ring = Ring::open(&path, spec, mark).unwrap();
    assert_eq!((contents(&mut ring), ring.head()), (vec![2, 3, 4, 5], 6));
}

#[test]
fn little_room_is_enough_when_marks_are_frequent_and_told_when_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut ring =
        Ring::create(&folder.path().join("b.ring"), RingSpec::new(RECORD, 8, 2)).unwrap();
    for value in 0..40 {
        ring.append(&record(value)).unwrap();
        if value % 2 == 1 {
            let mark = ring.mark().unwrap();
            ring.release_before(mark).unwrap();
        }
    }
    ring.append(&record(40)).unwrap();
    ring.append(&record(41)).unwrap();
    let told = ring.append(&record(42)).unwrap_err().to_string();
    assert!(told.contains("room was made for 2 records"), "{told}");
}

#[test]
fn a_crash_between_mark_and_release_leaves_no_slot_held() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.ring");
    let spec = RingSpec::new(RECORD, 8, 2);
    let mut ring = Ring::create(&path, spec).unwrap();
    for value in 0..20 {
        ring.append(&record(value)).unwrap();
        if value % 2 == 1 {
            // The release before this mark is what the crash cut off.
            let mark = ring.mark().unwrap();
            drop(ring);
            ring = Ring::open(&path, spec, mark).unwrap();
        }
    }
    assert_eq!(contents(&mut ring), (12..20).collect::<Vec<_>>());
    assert_eq!(ring.marks().collect::<Vec<_>>(), [20]);
}

#[test]
fn a_view_reads_beside_the_writer_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.ring");
    let spec = RingSpec::new(RECORD, 4, 4);
    let mut ring = Ring::create(&path, spec).unwrap();
    for value in 0..6 {
        ring.append(&record(value)).unwrap();
    }
    let mark = ring.mark().unwrap();
    ring.append(&record(6)).unwrap();
    let journal = std::fs::read(journal_of(&path)).unwrap();
    let mut view = Ring::view(&path, spec, mark).unwrap();
    assert_eq!(contents(&mut view), [2, 3, 4, 5]);
    assert!(matches!(view.append(&record(9)), Err(RingError::Io { .. })));
    assert_eq!(std::fs::read(journal_of(&path)).unwrap(), journal);
    assert_eq!(contents(&mut ring), [3, 4, 5, 6]);
}

#[test]
fn damage_and_mix_ups_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.ring");
    let spec = RingSpec::new(RECORD, 4, 4);
    let mut ring = Ring::create(&path, spec).unwrap();
    ring.append(&record(1)).unwrap();
    let mark = ring.mark().unwrap();
    drop(ring);
    assert!(matches!(
        Ring::open(&path, spec, 77),
        Err(RingError::NoMark { mark: 77, .. })
    ));
    let told = Ring::open(&path, RingSpec::new(RECORD, 5, 4), mark)
        .unwrap_err()
        .to_string();
    assert!(told.contains("this run wants 5"), "{told}");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let mut ring = Ring::open(&path, spec, mark).unwrap();
    assert!(
        ring.read(0, &mut [0.0; RECORD])
            .unwrap_err()
            .to_string()
            .contains("record 0")
    );
    drop(ring);
    std::fs::write(&path, &bytes[1..]).unwrap();
    assert!(matches!(
        Ring::open(&path, spec, mark),
        Err(RingError::Corrupt { .. })
    ));
    let journal = journal_of(&path);
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    for wrong in [
        text.replace("\"slot\":0", "\"slot\":8"),
        text[..text.len() - 3].into(),
        String::new(),
    ] {
        std::fs::write(&journal, wrong).unwrap();
        assert!(matches!(
            Ring::open(&path, spec, mark),
            Err(RingError::Corrupt { .. })
        ));
    }
    std::fs::remove_file(&journal).unwrap();
    assert!(matches!(
        Ring::open(&path, spec, mark),
        Err(RingError::Io { .. })
    ));
}

#[derive(Clone, Debug)]
enum Act {
    Append(usize),
    Checkpoint,
    MarkOnly,
    RollBack,
    CrashAndOpen,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1usize..9).prop_map(Act::Append),
        2 => Just(Act::Checkpoint),
        1 => Just(Act::MarkOnly),
        1 => Just(Act::RollBack),
        1 => Just(Act::CrashAndOpen),
    ];
    proptest::collection::vec(act, 1..40)
}

proptest! {
    // Every mark syncs files, which takes its time.
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Against a plain queue, through appends, checkpoints, crashes between mark and release, and rollbacks.
    #[test]
    fn it_is_a_queue_that_can_go_back(capacity in 1usize..7, acts in acts()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.ring");
        let spec = RingSpec::new(RECORD, capacity, usize::MAX);
        let mut ring = Ring::create(&path, spec).unwrap();
        let mut model: VecDeque<u64> = VecDeque::new();
        // What the last durable checkpoint holds.
        let (mut saved_mark, mut saved) = (0, VecDeque::new());
        let mut next = 0;
        for act in acts {
            match act {
                Act::Append(count) => for _ in 0..count {
                    ring.append(&record(next)).unwrap();
                    model.push_back(next);
                    if model.len() > capacity {
                        model.pop_front();
                    }
                    next += 1;
                },
                Act::Checkpoint => {
                    saved_mark = ring.mark().unwrap();
                    saved = model.clone();
                    ring.release_before(saved_mark).unwrap();
                }
                // Killed between the mark and the checkpoint: the old checkpoint counts.
                Act::MarkOnly => {
                    ring.mark().unwrap();
                    drop(ring);
                    ring = Ring::open(&path, spec, saved_mark).unwrap();
                    model = saved.clone();
                }
                Act::RollBack => {
                    ring.roll_back(saved_mark).unwrap();
                    model = saved.clone();
                }
                Act::CrashAndOpen => {
                    drop(ring);
                    ring = Ring::open(&path, spec, saved_mark).unwrap();
                    model = saved.clone();
                }
            }
            prop_assert_eq!(contents(&mut ring), model.iter().copied().collect::<Vec<_>>());
        }
    }
}
