//! A large file of a hub over several connections: what is asked for, what goes wrong with some of its pieces, what is kept.

use crate::hub::{Scene, WEIGHTS, scene_of};
use crate::play_hub::{PlayHub, Trouble};
use ingot_models::hub::{HubError, fetch};
use std::time::Duration;

const MIB: usize = 1 << 20;
/// Where the second piece begins, whoever receives it.
const SECOND: &str = "bytes=4194304-";

/// A file of five first pieces and a bit.
fn large() -> Vec<u8> {
    let mut state = 1u64;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    };
    (0..20 * MIB / 8).flat_map(|_| word()).chain([1, 2, 3]).collect()
}

/// A hub whose one large file is this.
fn scene(bytes: &[u8]) -> Scene {
    scene_of(PlayHub::start(&[("config.json", b"{}"), (WEIGHTS, bytes)]))
}

fn is_fetched(scene: &Scene, bytes: &[u8]) {
    scene.fetch().expect("the hub answers");
    assert!(std::fs::read(scene.blob(WEIGHTS)).expect("a content") == bytes);
    assert!(!scene.blob(WEIGHTS).with_extension("incomplete").exists());
}

/// First bytes, and those after the last, of what was asked for, sorted.
fn asked(scene: &Scene, n_bytes: usize) -> Vec<(usize, usize)> {
    let mut asked: Vec<(usize, usize)> = scene
        .ranges()
        .iter()
        .map(|range| {
            let (from, last) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
            let until = last.parse().map_or(n_bytes, |last: usize| last + 1);
            (from.parse().expect("a number"), until)
        })
        .collect();
    asked.sort_unstable();
    asked
}

#[test]
fn a_large_file_comes_in_pieces_over_several_connections() {
    let bytes = large();
    let scene = scene(&bytes);
    scene.hub.trouble(&scene.hub.etag(WEIGHTS), 50, Trouble::Late(200));
    let mut told = Vec::new();
    let fetched = fetch(&"owner/tiny".parse().expect("a name"), &scene.settings, &mut |progress| {
        told.push((progress.done_bytes, progress.total_bytes));
        true
    });
    let folder = fetched.expect("the hub answers").folder;
    assert!(std::fs::read(folder.join(WEIGHTS)).expect("a file") == bytes);
    assert!((2..=8).contains(&scene.hub.most_answers()), "{} at one time", scene.hub.most_answers());
    // Every byte is asked for once.
    let asked = asked(&scene, bytes.len());
    assert!(asked.len() > 2 && asked[0].0 == 0 && asked[asked.len() - 1].1 == bytes.len(), "{asked:?}");
    assert!(asked.windows(2).all(|pair| pair[0].1 == pair[1].0), "{asked:?}");
    let total = bytes.len() as u64 + 2;
    assert!(told.is_sorted() && told.last() == Some(&(total, total)), "{told:?}");
}

#[test]
fn a_piece_that_is_cut_goes_on_where_it_ended() {
    let bytes = large();
    let scene = scene(&bytes);
    scene.hub.trouble(SECOND, 1, Trouble::Cut(100_000));
    scene.hub.trouble("bytes=4294304-", 1, Trouble::Cut(50_000));
    is_fetched(&scene, &bytes);
    let asked = asked(&scene, bytes.len());
    let of_second: Vec<usize> = asked.iter().map(|(from, _)| *from).filter(|from| *from / MIB == 4).collect();
    assert_eq!(of_second, [4 * MIB, 4 * MIB + 100_000, 4 * MIB + 150_000], "{asked:?}");
    let n_others = asked.iter().filter(|(from, _)| from / MIB != 4).count();
    assert!(asked.iter().filter(|(from, _)| *from == 0).count() == 1 && n_others > 1, "the others go on: {asked:?}");
}

#[test]
fn what_may_pass_is_tried_again_for_a_piece() {
    let bytes = large();
    // Busy, in trouble, an address that was good for some time only: the place is asked for again.
    for status in [(429, &[("retry-after", "0")][..]), (500, &[]), (403, &[])] {
        let scene = scene(&bytes);
        scene.hub.trouble(SECOND, 1, Trouble::Status(status.0, status.1));
        is_fetched(&scene, &bytes);
        let again = scene.hub.seen().into_iter().filter(|seen| seen.method == "HEAD" && seen.path.ends_with(WEIGHTS));
        assert_eq!(again.count(), 2, "{}", status.0);
    }
    // An address that was just asked for and is refused is refused.
    let scene = scene(&bytes);
    scene.refused(SECOND, 50, Trouble::Status(403, &[]), &["denies access"]);
}

#[test]
fn a_piece_that_never_comes_ends_the_fetch_and_what_is_before_it_is_kept() {
    let bytes = large();
    let scene = scene(&bytes);
    let error = scene.refused(SECOND, 5, Trouble::Cut(0), &[WEIGHTS, "of 20971523 bytes", "run the same command"]);
    assert!(matches!(error, HubError::Cut { .. }), "{error:?}");
    let part = std::fs::read(scene.blob(WEIGHTS).with_extension("incomplete")).expect("a part");
    assert!(part.len() <= 4 * MIB && part == bytes[..part.len()], "no gap is on the disk");
    scene.hub.seen();
    is_fetched(&scene, &bytes);
    assert_eq!(asked(&scene, bytes.len())[0].0, part.len());
}

#[test]
fn pieces_that_do_not_fit_together_come_again_over_one_connection() {
    let bytes = large();
    let others = [
        Trouble::NoRanges,
        Trouble::Status(416, &[]),
        Trouble::Etag("of-another"),
        Trouble::Status(206, &[("content-range", "bytes 4194304-4194403/5000000")]),
    ];
    for other in others {
        let scene = scene(&bytes);
        scene.hub.trouble(SECOND, 1, other.clone());
        is_fetched(&scene, &bytes);
        let last = scene.ranges().pop().expect("a range");
        assert!(last.ends_with('-'), "{other:?}: all of the rest at once, not {last}");
    }
    // A hub that never goes on with the same file. What has arrived is kept: its hash will tell.
    let scene = scene(&bytes);
    scene.hub.trouble(&(scene.hub.etag(WEIGHTS) + " bytes=0-"), 1, Trouble::Cut(1000));
    let other = Trouble::Status(206, &[("content-range", "bytes 1000-1099/5000000")]);
    scene.refused("bytes=1000-", 5, other, &[WEIGHTS, "different files", "run the same command"]);
    let part = std::fs::read(scene.blob(WEIGHTS).with_extension("incomplete")).expect("a part");
    assert!(part == bytes[..1000], "{} bytes", part.len());
    is_fetched(&scene, &bytes);
}

#[test]
fn a_panic_of_who_hears_the_progress_ends_the_fetch() {
    let bytes = large();
    let scene = scene(&bytes);
    let fetched = std::panic::catch_unwind(|| {
        fetch(&"owner/tiny".parse().expect("a name"), &scene.settings, &mut |progress| {
            assert!(progress.done_bytes < 6 * MIB as u64, "a panic that the test wants");
            true
        })
    });
    assert!(fetched.is_err());
    is_fetched(&scene, &bytes);
}

#[test]
fn a_range_that_begins_elsewhere_is_refused() {
    let bytes = large();
    let scene = scene(&bytes);
    scene.refused(SECOND, 1, Trouble::Shifted, &["does not begin at byte 4194304"]);
    is_fetched(&scene, &bytes);
}

#[test]
fn a_server_without_ranges_serves_over_one_connection() {
    let bytes = large();
    let scene = scene(&bytes);
    let etag = scene.hub.etag(WEIGHTS);
    scene.hub.trouble(&etag, 50, Trouble::NoRanges);
    is_fetched(&scene, &bytes);
    assert_eq!((scene.ranges(), scene.hub.most_answers()), (vec!["bytes=0-4194303".to_owned()], 1));
}

#[test]
fn who_stops_while_pieces_come_leaves_a_part_without_gaps() {
    let bytes = large();
    let scene = scene(&bytes);
    // The first piece hangs in its middle while the others come.
    scene.hub.trouble(&(scene.hub.etag(WEIGHTS) + " bytes=0-"), 1, Trouble::Pause(2 * MIB));
    let fetched = fetch(&"owner/tiny".parse().expect("a name"), &scene.settings, &mut |progress| {
        progress.done_bytes < 16 * MIB as u64
    });
    assert!(matches!(fetched, Err(HubError::Stopped { .. })), "{fetched:?}");
    let part = std::fs::read(scene.blob(WEIGHTS).with_extension("incomplete")).expect("a part");
    // How much of the first piece had come by then is the scheduler's affair.
    assert!(part.len() < 4 * MIB && part == bytes[..part.len()], "{} bytes", part.len());
    scene.hub.seen();
    is_fetched(&scene, &bytes);
    assert_eq!(asked(&scene, bytes.len())[0].0, part.len());
}

#[test]
fn a_connection_that_hangs_holds_up_its_own_piece_alone() {
    let bytes = large();
    let mut scene = scene(&bytes);
    scene.settings.timeout = Duration::from_secs(1);
    scene.hub.trouble(&(scene.hub.etag(WEIGHTS) + " bytes=0-"), 1, Trouble::Pause(MIB));
    is_fetched(&scene, &bytes);
    let ranges = scene.ranges();
    assert!(ranges.last().is_some_and(|last| last.starts_with("bytes=1048576-")), "the last that comes: {ranges:?}");
}
